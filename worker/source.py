"""Where deliveries come from: the seam between the pipeline and the broker, defined where it is used."""

from collections.abc import Sequence
from typing import Protocol

from worker.delivery import Delivery
from worker.settle import Ack


class Receiver(Protocol):
    """Takes deliveries, at once and without waiting."""

    def receive(self, deliveries: Sequence[Delivery]) -> None:
        """Deliveries of one channel have arrived, in their order; there is at least one."""

    def held(self) -> int:
        """How many deliveries of this generation are neither acknowledged nor given back."""


class Source(Protocol):
    """One consumer on one queue. Each `open` begins a new generation, in which tags begin anew."""

    @property
    def queue(self) -> str:
        """The queue's name."""

    async def open(self, generation: int, prefetch: int, receiver: Receiver) -> None:
        """Connect and consume; one try.

        Raises:
            SystemUnavailableError: the broker does not answer or does not let us consume.
            TopologyError: it holds other queues than are needed.
        """

    async def lost(self) -> str:
        """Wait until deliveries can no longer be acknowledged, or no more come; why."""

    async def set_prefetch(self, prefetch: int, acks: Sequence[Ack]) -> None:
        """Acknowledge, and consume again with another prefetch. What is held stays held.

        The acknowledgements leave while nothing is consumed: they make room, and what the broker sends to a consumer
        that is being cancelled comes back to it, which counts as a delivery.

        Raises:
            SystemUnavailableError: the channel is lost.
        """

    async def acknowledge(self, acks: Sequence[Ack]) -> None:
        """Send these. One caller at a time, in the order in which the ledger gave them.

        Raises:
            SystemUnavailableError: the channel is lost.
        """

    def pause(self) -> None:
        """Too much is held: read no more for a moment."""

    def resume(self) -> None:
        """Read again."""

    async def stop_consuming(self) -> None:
        """No more deliveries; what is held can still be acknowledged.

        Raises:
            SystemUnavailableError: the channel is lost.
        """

    async def give_back(self, last_tag: int) -> None:
        """Return everything up to this tag to the queue, for others to take."""

    async def close(self) -> None:
        """Let the broker process what was sent, then leave. Never raises for a broker that is gone."""
