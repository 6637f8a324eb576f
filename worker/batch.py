"""Batch: decoded messages gather until there are enough of them, or the first has waited long enough.

Pure: time is passed in. A message is never split over batches: it is acknowledged whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from usage_events.contract import Event

from worker.decode import Decoded
from worker.delivery import Delivery

SUSPECT_DELIVERY_COUNT = 2  # returned this often, a message may be what kills its consumers


class Trigger(StrEnum):
    """Why a batch was closed."""

    EVENTS = "events"
    BYTES = "bytes"
    AGE = "age"
    PREFETCH = "prefetch"  # everything that the broker may hand out is held: no more will come
    ALONE = "alone"  # a message that was returned often shares its batch with nobody
    STOP = "stop"


@dataclass(slots=True, eq=False)
class Entry:
    """A delivery and what was decoded from it. `events` counts rejects too: each becomes a row."""

    delivery: Delivery
    decoded: Decoded
    events: int = field(init=False)
    body_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.events = len(self.decoded.events) + len(self.decoded.rejects)
        self.body_bytes = len(self.delivery.body)


class Origin(NamedTuple):
    """Where an event of a batch comes from."""

    delivery: Delivery
    place: int


@dataclass(slots=True)
class Batch:
    """What one transaction writes. `opened_at` is the time of its first message, in seconds."""

    opened_at: float
    entries: list[Entry] = field(default_factory=list)
    events: int = 0  # rejects included: each becomes a row
    body_bytes: int = 0
    trigger: Trigger | None = None

    def add(self, entry: Entry) -> None:
        """Take a message in."""
        self.entries.append(entry)
        self.events += entry.events
        self.body_bytes += entry.body_bytes

    def accepted(self) -> list[Event]:
        """All events of the batch, in the order in which they were delivered."""
        return [event for entry in self.entries for event in entry.decoded.events]

    def origins(self) -> Iterator[Origin]:
        """Where each of `accepted()` comes from, in the same order."""
        for entry in self.entries:
            for place in entry.decoded.places:
                yield Origin(entry.delivery, place)

    def only_generation(self, generation: int) -> "Batch":
        """The batch without deliveries of dead channels, which the broker hands out again."""
        if all(entry.delivery.generation == generation for entry in self.entries):
            return self
        kept = Batch(self.opened_at, trigger=self.trigger)
        for entry in self.entries:
            if entry.delivery.generation == generation:
                kept.add(entry)
        return kept


class Batcher:
    """Gathers messages; gives a batch back when it is full.

    Args:
        events_max: events that fill a batch; only a message that is larger by itself makes a larger one.
        body_bytes_max: the same for the bytes of the messages.
        age_seconds_max: from a batch's first message until it is due.
    """

    def __init__(self, *, events_max: int, body_bytes_max: int, age_seconds_max: float) -> None:
        self._events_max = events_max
        self._body_bytes_max = body_bytes_max
        self._age_seconds_max = age_seconds_max
        self._open: Batch | None = None

    def add(self, entry: Entry, now: float) -> Sequence[Batch]:
        """Take a message in; the batches that this closed, in order."""
        alone = entry.delivery.delivery_count >= SUSPECT_DELIVERY_COUNT
        overflow = self._overflow(entry)
        before = self._close(overflow or Trigger.ALONE) if alone or overflow else ()
        batch = self._open
        if batch is None:
            batch = self._open = Batch(now)
        batch.add(entry)
        full: Trigger | None = None
        if alone:
            full = Trigger.ALONE
        elif batch.events >= self._events_max:
            full = Trigger.EVENTS
        elif batch.body_bytes >= self._body_bytes_max:
            full = Trigger.BYTES
        if full is None:
            return before
        return (*before, *self._close(full))

    def due_at(self) -> float | None:
        """When the open batch has to be written; `None` where there is none."""
        return None if self._open is None else self._open.opened_at + self._age_seconds_max

    def poll(self, now: float) -> Sequence[Batch]:
        """The open batch, where it is due."""
        due_at = self.due_at()
        return self._close(Trigger.AGE) if due_at is not None and now >= due_at else ()

    def flush(self, trigger: Trigger) -> Sequence[Batch]:
        """The open batch, whatever it holds."""
        return self._close(trigger)

    def _overflow(self, entry: Entry) -> Trigger | None:
        batch = self._open
        if batch is None:
            return None
        if batch.events + entry.events > self._events_max:
            return Trigger.EVENTS
        if batch.body_bytes + entry.body_bytes > self._body_bytes_max:
            return Trigger.BYTES
        return None

    def _close(self, trigger: Trigger) -> Sequence[Batch]:
        batch, self._open = self._open, None
        if batch is None:
            return ()
        batch.trigger = trigger
        return (batch,)
