"""Memory that overflows into a spool: the order is kept, whatever goes where; and what the options refuse."""

from pathlib import Path
from typing import Any

import pytest
from spools import ALL, entry, numbers
from usage_events.buffer import Lease, MemoryBuffer
from usage_events.buffer_options import BufferOptions
from usage_events.errors import BufferFullError
from usage_events.overflow import OverflowBuffer
from usage_events.spool import Spool

MEBIBYTE = 1024 * 1024


class Overflowing:
    """A buffer with room for four events in memory."""

    def __init__(self, path: Path) -> None:
        self.spooled = 0
        self.path = path
        memory = MemoryBuffer(events_max=4, bytes_max=MEBIBYTE)
        self.buffer = OverflowBuffer(memory, Spool(path, bytes_max=MEBIBYTE), self._count)

    def _count(self) -> None:
        self.spooled += 1

    def put(self, *recorded: int) -> None:
        """Records these."""
        for number in recorded:
            self.buffer.put(entry(number))

    def lease(self, events: int = 100) -> Lease:
        """The next."""
        lease = self.buffer.lease(events, ALL)
        assert lease is not None
        return lease


@pytest.fixture
def overflowing(tmp_path: Path) -> Overflowing:
    """See `Overflowing`."""
    return Overflowing(tmp_path / "spool")


def test_what_does_not_fit_into_memory_goes_to_the_spool(overflowing: Overflowing) -> None:
    """And so does what comes after it, until the spool is empty; the order is that of recording, in keys, too."""
    overflowing.put(*range(7))
    assert (overflowing.spooled, overflowing.buffer.events) == (3, 7)
    first = overflowing.lease(2)
    overflowing.put(7)
    assert overflowing.spooled == 4, "there is room in memory, but the spool holds older ones"
    leases = [first, overflowing.lease(), overflowing.lease()]
    overflowing.put(8)
    assert overflowing.spooled == 4
    leases.append(overflowing.lease())
    assert [number for lease in leases for number in numbers(lease.entries)] == list(range(9))
    keys = [key for lease in leases for key in lease.keys]
    assert keys == sorted(set(keys))
    assert overflowing.buffer.youngest_key == keys[-1]


def test_what_is_given_back_is_pending(overflowing: Overflowing) -> None:
    """A flush waits for older events alone, in memory or in the spool."""
    overflowing.put(*range(6))
    key = overflowing.buffer.youngest_key
    memory, spool = overflowing.lease(), overflowing.lease()
    assert not overflowing.buffer.is_pending(key)
    overflowing.put(6)
    assert not overflowing.buffer.is_pending(key)
    assert overflowing.buffer.is_pending(overflowing.buffer.youngest_key)
    overflowing.buffer.give_back(spool.part([1]))
    assert overflowing.buffer.is_pending(key)
    assert not overflowing.buffer.is_pending(memory.keys[-1])
    overflowing.buffer.give_back(memory.part([2]))
    assert overflowing.buffer.is_pending(memory.keys[-1])
    assert not overflowing.buffer.is_pending(memory.keys[1])
    overflowing.buffer.settle(spool.part([0]))
    assert numbers(overflowing.lease().entries) == [2, 6]
    assert numbers(overflowing.lease().entries) == [5]


def test_memory_is_put_into_the_spool_at_the_end(overflowing: Overflowing) -> None:
    """A clean end loses nothing: whoever opens the file next has all of it."""
    overflowing.put(*range(3))
    overflowing.buffer.close()
    spool = Spool(overflowing.path)
    lease = spool.lease(10, ALL)
    assert lease is not None
    assert numbers(lease.entries) == [0, 1, 2]


def test_a_full_spool_refuses(overflowing: Overflowing) -> None:
    """Where neither has room the event is the caller's again."""
    for number in range(4 + 104):
        overflowing.buffer.put(entry(number, 10_000))
    with pytest.raises(BufferFullError, match=r"spool_bytes_max=1,048,576"):
        overflowing.buffer.put(entry(108, 10_000))
    assert overflowing.spooled == 104


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"durability": "disk"}, "durability is 'disk'; it must be 'memory' or 'spool'"),
        ({"when_full": "wait"}, "when_full is 'wait'; it must be 'raise' or 'drop_oldest' or 'spool'"),
        ({"durability": "spool", "when_full": "spool"}, "when_full is 'spool' and durability too: what is to happen"),
        ({"durability": "spool"}, "spool_path is None; name the spool's file"),
        ({"spool_path": "x"}, "spool_path is 'x'; it needs durability='spool' or when_full='spool'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], said: str) -> None:
    """Each with what to do."""
    given: dict[str, Any] = {
        "durability": "memory",
        "when_full": "raise",
        "events_max": 1,
        "bytes_max": 1,
        "spool_path": None,
        "spool_bytes_max": MEBIBYTE,
        "spool_sync": "normal",
    }
    with pytest.raises(ValueError, match=f"^{said}"):
        BufferOptions(**(given | options))
