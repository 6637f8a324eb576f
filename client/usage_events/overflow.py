"""Memory first, and a spool for what does not fit: a long outage costs disk instead of events."""

import logging
from bisect import bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING

from usage_events.buffer import Entry, Lease, MemoryBuffer
from usage_events.errors import BufferFullError

if TYPE_CHECKING:
    from usage_events.spool import Spool

_SPOOL_BITS = 64
_STARTS_MAX = 10_000
_MEMORY_MASK = 2**_SPOOL_BITS - 1

_logger = logging.getLogger(__name__)


class OverflowBuffer:
    """While the spool holds anything, new events go behind it, so that the order is kept.

    A key is that of the spool's event, shifted, or that of the last spooled event before it with its own below: so keys
    grow from one recorded event to the next, wherever it is kept.
    """

    def __init__(self, memory: MemoryBuffer, spool: "Spool", on_spooled: Callable[[], None]) -> None:
        self._memory = memory
        self._spool = spool
        self._on_spooled = on_spooled
        self._spools = spool.events > 0
        # Where events began to go to memory (again), and the spool's youngest then.
        self._memory_starts = [0]
        self._spool_keys = [spool.youngest_key]

    @property
    def poll_seconds(self) -> float | None:
        """As often as the spool's."""
        return self._spool.poll_seconds

    @property
    def events(self) -> int:
        """Events that wait."""
        return self._memory.events + self._spool.events

    @property
    def bytes(self) -> int:
        """The length of what waits."""
        return self._memory.bytes + self._spool.bytes

    @property
    def youngest_key(self) -> int:
        """The key of the event that was put in last."""
        if self._spools:
            return self._spool.youngest_key << _SPOOL_BITS
        return self._of_memory(self._memory.youngest_key)

    def is_pending(self, key: int) -> bool:
        """Whether an event up to this key waits, or is on its way in another process."""
        spool_key, memory_place = key >> _SPOOL_BITS, key & _MEMORY_MASK
        # Of the events in memory: those before the first that came after this spooled one, or up to the key itself.
        later = next(
            (start for start, key in zip(self._memory_starts, self._spool_keys, strict=True) if key >= spool_key), None
        )
        youngest = self._memory.youngest_key if later is None else later - 1
        return self._memory.is_pending(max(youngest, memory_place - 1)) or self._spool.is_pending(spool_key)

    def put(self, entry: Entry) -> None:
        """Keeps a new event, in memory or in the spool.

        Raises:
            BufferFullError: the spool is full, too, or its file cannot be written.
        """
        if self._spools and not self._spool.events:
            self._go_to_memory()
        if not self._spools and not self._spool.events:
            try:
                self._memory.put(entry)
            except BufferFullError:
                pass  # that is what the spool is for
            else:
                return
        self._spools = True
        self._spool.put(entry)
        self._on_spooled()

    def lease(self, events_max: int, bytes_max: int) -> Lease | None:
        """The oldest that wait: memory's before those that did not fit into it."""
        lease = self._memory.lease(events_max, bytes_max)
        if lease is not None:
            return Lease([self._of_memory(key) for key in lease.keys], lease.entries)
        lease = self._spool.lease(events_max, bytes_max)
        if lease is not None:
            return Lease([key << _SPOOL_BITS for key in lease.keys], lease.entries)
        return None

    def settle(self, lease: Lease) -> None:
        """Forgets these."""
        memory, spool = self._parts(lease)
        if memory.keys:
            self._memory.settle(memory)
        if spool.keys:
            self._spool.settle(spool)

    def give_back(self, lease: Lease) -> None:
        """These wait again where they waited before."""
        memory, spool = self._parts(lease)
        if memory.keys:
            self._memory.give_back(memory)
        if spool.keys:
            self._spool.give_back(spool)

    def close(self) -> None:
        """What waits in memory is put into the spool, as far as it has room, for whoever opens it next."""
        lease = self._memory.lease(self._memory.events, self._memory.bytes)
        entries = lease.entries if lease is not None else []
        try:
            for count, entry in enumerate(entries):  # noqa: B007 - said where it ends early
                self._spool.put(entry)
                self._on_spooled()
        except BufferFullError as error:
            _logger.error("%d events are lost with the process: %s", len(entries) - count, error)  # noqa: TRY400
        finally:
            self._spool.close()

    def _go_to_memory(self) -> None:
        self._spools = False
        self._memory_starts.append(self._memory.youngest_key + 1)
        self._spool_keys.append(self._spool.youngest_key)
        if len(self._memory_starts) > _STARTS_MAX:  # nothing waits any more of what was so long ago
            del self._memory_starts[0], self._spool_keys[0]

    def _of_memory(self, key: int) -> int:
        place = bisect_right(self._memory_starts, key) - 1
        return self._spool_keys[max(place, 0)] << _SPOOL_BITS | (key + 1)

    def _parts(self, lease: Lease) -> tuple[Lease, Lease]:
        """The memory's part, and the spool's."""
        places = range(len(lease.keys))
        in_memory = lease.part([place for place in places if lease.keys[place] & _MEMORY_MASK])
        in_spool = lease.part([place for place in places if not lease.keys[place] & _MEMORY_MASK])
        return (
            Lease([(key & _MEMORY_MASK) - 1 for key in in_memory.keys], in_memory.entries),
            Lease([key >> _SPOOL_BITS for key in in_spool.keys], in_spool.entries),
        )
