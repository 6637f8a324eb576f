"""What is held: delivered on the current channel, and neither acknowledged nor given back.

It keeps the ledger, bounds the bytes, and sends the acknowledgements. A channel that is lost takes all of it away: its
tags mean nothing any more, and everything unacknowledged comes again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import NamedTuple

import structlog

from worker.batch import Batch
from worker.delivery import Delivery
from worker.metrics import Metrics
from worker.settle import Ack, Ledger
from worker.source import Source

NO_GENERATION = 0  # of no delivery: the channel is gone


class Hold(NamedTuple):
    """How much is held, and since which tag."""

    messages: int
    first_tag: int
    last_tag: int


# Sends acknowledgements; told how many messages have been settled, and what was held before.
Acknowledge = Callable[[Sequence[Ack], int, Hold], Awaitable[None]]

log = structlog.get_logger(__name__)


class Held:
    """The deliveries in hand.

    Args:
        source: where they came from; it is paused while too much is held.
        acknowledge: sends acknowledgements.
        body_bytes_max: past this, the source is paused until half of it is settled.
        metrics: shows how many events are held.
    """

    def __init__(self, source: Source, *, acknowledge: Acknowledge, body_bytes_max: int, metrics: Metrics) -> None:
        self._source = source
        self._acknowledge = acknowledge
        self._body_bytes_max = body_bytes_max
        self._metrics = metrics
        self._ledger = Ledger(NO_GENERATION)
        self._lock = asyncio.Lock()
        self._body_bytes = 0
        self._events = 0
        self._paused = False

    def __len__(self) -> int:
        return len(self._ledger)

    @property
    def generation(self) -> int:
        """The channel's generation; `NO_GENERATION` between two channels."""
        return self._ledger.generation

    @property
    def is_paused(self) -> bool:
        """Whether nothing is read from the broker, its answers neither."""
        return self._paused

    @property
    def last_tag(self) -> int:
        """The highest tag that is held; 0 where nothing is."""
        return self._ledger.last_tag

    def overdue_at(self) -> float | None:
        """When `acknowledge_overdue` has something to do."""
        return self._ledger.overdue_at()

    def begin(self, generation: int) -> None:
        """A new channel, or none: nothing is held."""
        self._ledger = Ledger(generation)
        self._body_bytes = 0
        self._paused = False
        self.count_events(-self._events)

    def take(self, deliveries: Sequence[Delivery]) -> None:
        """Deliveries have arrived."""
        self._ledger.delivered([delivery.tag for delivery in deliveries])
        self._body_bytes += sum([len(delivery.body) for delivery in deliveries])
        if self._body_bytes > self._body_bytes_max and not self._paused:
            self._paused = True
            self._source.pause()

    def count_events(self, events: int) -> None:
        """So many events more are known to be held."""
        self._events += events
        self._metrics.held_events.inc(events)

    async def settle(self, batch: Batch, generation: int) -> bool:
        """A batch has committed: acknowledge what may be; is it still of this channel?

        Where it is not, its deliveries come again and are known as duplicates.
        """
        async with self._lock:  # acknowledgements leave in the order in which the ledger gives them
            if self.generation != generation:
                return False
            before = Hold(len(self), self._ledger.first_tag, self.last_tag)
            acks = self._ledger.committed((entry.delivery.tag for entry in batch.entries), monotonic())
            self._body_bytes -= batch.body_bytes
            self.count_events(-batch.events)
            self._resume_if_due()
            await self._acknowledge(acks, len(batch.entries), before)
        return True

    def _resume_if_due(self) -> None:
        """Before anything is asked of the broker: its answer stands behind what has not been read."""
        if self._paused and self._body_bytes <= self._body_bytes_max // 2:
            self._paused = False
            self._source.resume()

    async def acknowledge_overdue(self) -> None:
        """Acknowledge one by one what has waited long enough for its predecessors."""
        due_at = self._ledger.overdue_at()
        if due_at is None or monotonic() < due_at:
            return
        async with self._lock:
            before = Hold(len(self), self._ledger.first_tag, self.last_tag)
            acks = self._ledger.overdue(monotonic())
            if acks:
                await self._acknowledge(acks, 0, before)

    async def until_sent(self) -> None:
        """Until the acknowledgements of what has been settled have been sent."""
        async with self._lock:
            return

    async def give_back(self) -> None:
        """Return everything to the queue, for others to take; nothing of it is acknowledged after that."""
        async with self._lock:
            last_tag, count = self.last_tag, len(self)
            self.begin(NO_GENERATION)
            if count:
                log.warning("giving back what is held", held=count)
                await self._source.give_back(last_tag)
