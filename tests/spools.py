"""Spools for tests: entries that can be told apart, and what is in a spool."""

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from usage_events.buffer import Entry
from usage_events.spool import Spool

ORGANIZATION = UUID("0198c0de-0000-7000-8000-0000000000aa")
ALL = 10**9


def entry(number: int, size_bytes: int = 0) -> Entry:
    """An entry with its number in it, padded to a size."""
    return Entry((b'{"number":%d}' % number).ljust(size_bytes), ORGANIZATION)


def numbers(entries: Sequence[Entry]) -> list[int]:
    """The numbers in these."""
    return [int(one.text.rstrip(b" }").rpartition(b":")[2]) for one in entries]


def fill(spool: Spool, first: int, count: int, size_bytes: int = 0) -> None:
    """Records so many."""
    for number in range(first, first + count):
        spool.put(entry(number, size_bytes))


def drain(spool: Spool) -> list[int]:
    """The numbers of all that can be leased, which are settled."""
    found: list[int] = []
    while (lease := spool.lease(1000, ALL)) is not None:
        found += numbers(lease.entries)
        spool.settle(lease)
    return found


def kept_aside(path: Path) -> list[str]:
    """The files that hold what was damaged."""
    return sorted(one.name for one in path.parent.glob(f"{path.name}.damaged*"))
