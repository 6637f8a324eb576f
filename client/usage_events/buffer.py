"""Recorded events that wait to be sent, and those that are on their way. Pure; `spool/` keeps them in a file."""

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args
from uuid import UUID

from usage_events.errors import BufferFullError

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

WhenFull = Literal["raise", "drop_oldest"]
Sync = Literal["normal", "full"]  # what a spool waits for, see `UsagePublisher`

DEFAULT_SPOOL_BYTES_MAX = 1024**3


@dataclass(frozen=True, slots=True)
class Entry:
    """One recorded event, encoded once. `origin` is the span that has recorded it; a spool does not keep it."""

    text: bytes
    organization_id: UUID
    origin: "SpanContext | None" = None


@dataclass(frozen=True, slots=True)
class Lease:
    """Events that are on their way, and still kept by their buffer.

    Each has a key of the buffer's own, which grows from one recorded event to the next: so a part of a lease is a
    lease, too, and may be settled or given back by itself.
    """

    keys: Sequence[int]
    entries: Sequence[Entry]

    @property
    def origins(self) -> list["SpanContext"]:
        """The spans that have recorded these events, as far as they are known."""
        return [entry.origin for entry in self.entries if entry.origin is not None]

    def part(self, places: Sequence[int]) -> "Lease":
        """The events at these places, counted from 0."""
        return Lease([self.keys[place] for place in places], [self.entries[place] for place in places])


class Buffer(Protocol):
    """Keeps events until they are settled. It is used from one thread at a time."""

    @property
    def poll_seconds(self) -> float | None:
        """How often to look for events that another process has put in; `None`: nobody else does."""

    @property
    def events(self) -> int:
        """Events that wait; those on their way are not among them."""

    @property
    def bytes(self) -> int:
        """The length of what waits."""

    @property
    def youngest_key(self) -> int:
        """The key of the event that was put in last; less than every key where there was none."""

    def is_pending(self, key: int) -> bool:
        """Whether an event up to this key waits, or is on its way in another process."""

    def put(self, entry: Entry) -> None:
        """Keeps a new event, the youngest.

        Raises:
            BufferFullError: there is no room.
        """

    def lease(self, events_max: int, bytes_max: int) -> Lease | None:
        """The oldest that wait, in their order, at least one of them; `None` where none waits.

        `bytes_max` bounds the sum of the events' own lengths, unless the first is longer by itself.
        """

    def settle(self, lease: Lease) -> None:
        """These are confirmed, or the caller has got them back with an error: they are forgotten."""

    def give_back(self, lease: Lease) -> None:
        """These are not known to be held by RabbitMQ: they wait again, in their old places."""

    def close(self) -> None:
        """Nothing is put in or leased any more. Closed again, it stays closed."""


class MemoryBuffer:
    """Events in memory, bounded by their number and their bytes; what is on its way is bounded by who leases it.

    Where there is no room, `raise` refuses the new event, and `drop_oldest` gives up the oldest that wait. An event
    longer than all the room is kept alone.
    """

    poll_seconds: float | None = None

    def __init__(
        self,
        *,
        events_max: int,
        bytes_max: int,
        when_full: WhenFull = "raise",
        on_dropped: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`on_dropped` hears how many events have been given up.

        Raises:
            ValueError: a limit below 1, or no way to be full.
        """
        for name, value in (("buffer_events_max", events_max), ("buffer_bytes_max", bytes_max)):
            if value < 1:
                raise ValueError(f"{name} is {value}; the least is 1")
        if when_full not in get_args(WhenFull):
            raise ValueError(f"when_full is {when_full!r}; it must be {' or '.join(map(repr, get_args(WhenFull)))}")
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._drops = when_full == "drop_oldest"
        self._on_dropped = on_dropped
        self._next_key = 0
        self._fresh: deque[tuple[int, Entry]] = deque()
        self._given_back: list[tuple[int, Entry]] = []  # a heap; each is older than all that were never leased
        self.bytes = 0

    @property
    def events(self) -> int:
        """Events that wait."""
        return len(self._fresh) + len(self._given_back)

    @property
    def youngest_key(self) -> int:
        """The key of the event that was put in last; -1 where there was none."""
        return self._next_key - 1

    def is_pending(self, key: int) -> bool:
        """Whether an event up to this key waits."""
        oldest = self._given_back or self._fresh
        return bool(oldest) and oldest[0][0] <= key

    def put(self, entry: Entry) -> None:
        """Keeps a new event, the youngest.

        Raises:
            BufferFullError: there is no room, and none may be made.
        """
        size_bytes = len(entry.text)
        if not self._has_room(size_bytes):
            if not self._drops:
                raise BufferFullError(
                    f"the buffer is full: {self.events:,} events of {self.bytes:,} bytes wait, the limits are"
                    f" buffer_events_max={self._events_max:,} and buffer_bytes_max={self._bytes_max:,}; is RabbitMQ"
                    " away? Record it again later, or choose when_full='drop_oldest' or 'spool'"
                )
            self._make_room(size_bytes)
        key = self._next_key
        self._next_key += 1  # before it stands there: no two events have one key, wherever a signal interrupts this
        self.bytes += size_bytes
        self._fresh.append((key, entry))

    def lease(self, events_max: int, bytes_max: int) -> Lease | None:
        """The oldest that wait, in their order."""
        keys: list[int] = []
        entries: list[Entry] = []
        left_bytes = bytes_max
        while len(entries) < events_max and (self._given_back or self._fresh):
            key, entry = self._given_back[0] if self._given_back else self._fresh[0]
            left_bytes -= len(entry.text)
            if entries and left_bytes < 0:
                break
            self._take_oldest()
            keys.append(key)
            entries.append(entry)
        return Lease(keys, entries) if entries else None

    def settle(self, lease: Lease) -> None:
        """Forgets these; what is leased is held by its lease alone."""

    def give_back(self, lease: Lease) -> None:
        """These wait again, also past the limits: the next `put` is where something is refused or given up."""
        for key, entry in zip(lease.keys, lease.entries, strict=True):
            heapq.heappush(self._given_back, (key, entry))
            self.bytes += len(entry.text)

    def close(self) -> None:
        """Memory needs no end."""

    def _has_room(self, size_bytes: int) -> bool:
        events = self.events
        return events == 0 or (events < self._events_max and self.bytes + size_bytes <= self._bytes_max)

    def _make_room(self, size_bytes: int) -> None:
        events_before = self.events
        while not self._has_room(size_bytes):
            self._take_oldest()
        self._on_dropped(events_before - self.events)

    def _take_oldest(self) -> None:
        _, entry = heapq.heappop(self._given_back) if self._given_back else self._fresh.popleft()
        self.bytes -= len(entry.text)
