"""A message as either delivery path has it becomes a `Delivery`: what is above sees no difference."""

from collections.abc import Callable, Sequence

from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic

from worker.delivery import Delivery, PlainProperties
from worker.rabbitmq.frames import RawDelivery
from worker.rabbitmq.properties import DELIVERY_COUNT_HEADER, read_properties, text_of
from worker.source import Receiver


class Gapless:
    """Passes on what a channel delivers until a delivery is missing, and nothing from there on.

    A channel counts what it delivers. A delivery that has got lost on the way, as where a damaged frame was of another
    channel, would be acknowledged with its successors, and nobody would ever store it.

    Args:
        receiver: what is passed on to.
        generation: the channel's; what is of another one is passed on as it is.
        lose: called with why the channel is of no more use.
    """

    def __init__(self, receiver: Receiver, generation: int, lose: Callable[[str], None]) -> None:
        self._receiver = receiver
        self._generation = generation
        self._lose = lose
        self._next_tag = 1

    def receive(self, deliveries: Sequence[Delivery]) -> None:
        """See `Receiver.receive`."""
        first, last = deliveries[0], deliveries[-1]
        if first.generation == self._generation:
            if first.tag != self._next_tag or last.tag != first.tag + len(deliveries) - 1:
                self._lose(f"of what was delivered from tag {self._next_tag} to {last.tag} something is missing")
                return
            self._next_tag = last.tag + 1
        self._receiver.receive(deliveries)

    def held(self) -> int:
        """See `Receiver.held`."""
        return self._receiver.held()


def from_frames(raw: RawDelivery, generation: int, queue: str) -> Delivery:
    """Of the frame reader."""
    properties = read_properties(raw.properties)
    return Delivery(
        raw.tag,
        generation,
        raw.body,
        properties,
        properties.delivery_count if raw.redelivered else 0,
        text_of(raw.exchange),
        text_of(raw.routing_key),
        queue,
    )


def from_library(message: DeliveredMessage, generation: int, queue: str) -> Delivery:
    """Of the library."""
    deliver = message.delivery
    assert isinstance(deliver, Basic.Deliver)  # noqa: S101 - a consumer is given nothing else
    given = message.header.properties
    headers = given.headers or {}
    count = headers.get(DELIVERY_COUNT_HEADER, 0) if deliver.redelivered else 0
    return Delivery(
        deliver.delivery_tag or 0,
        generation,
        message.body,
        PlainProperties(given.content_type, given.content_encoding, given.app_id, given.user_id, headers),
        count if isinstance(count, int) else 0,
        deliver.exchange or "",
        deliver.routing_key or "",
        queue,
    )
