"""How the table of usage is divided by ranges of ids: which month is where, what is missing, what is to be done. Pure.

    default │ past │ 2026-12 │ 2027-01 │ … │ future │ default

Months are ranges of UUIDv7s. `past` holds what was kept of months that were dropped, `future` what falls into months
that have no partition yet; both hold only ids that are no UUIDv7 of now. All other ids are in the default partition,
whose CHECK excludes the ranges from the first to the last: so none is ever looked for in it when one is attached.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

from worker.retention.months import MONTHS_OF_A_YEAR, Month, month_of_id

TABLE = "ai_usage_logs"
DEFAULT, PAST, FUTURE = f"{TABLE}_default", f"{TABLE}_past", f"{TABLE}_future"
YEARS_AHEAD = 20  # of the range of all months; of random ids one in 400 falls into it
AHEAD_MIN = 1  # months that have to be ready beyond this one
HEADROOM = timedelta(days=1)  # the first range begins so far ahead at least: none of today's ids is in it
_BOUND = re.compile(r"FROM \('([0-9a-f-]{36})'\) TO \('([0-9a-f-]{36})'\)")
_EXCLUDED = re.compile(r"id < '([0-9a-f-]{36})'.*id >= '([0-9a-f-]{36})'", re.DOTALL)


class Range(NamedTuple):
    """Ids from `low` to below `high`."""

    low: UUID
    high: UUID

    def __str__(self) -> str:
        """In months, both ends included where it is more than one."""
        first, last = month_of_id(self.low), month_of_id(self.high).plus(-1)
        return str(first) if first == last else f"{first} to {last}"


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition; the default one has no range."""

    name: str
    ids: Range | None

    @property
    def is_month(self) -> bool:
        """Whether it holds a month's events (or, made late, those of several)."""
        return self.ids is not None and self.name not in (PAST, FUTURE)


class Split(NamedTuple):
    """What becomes of the future partition: a month's table (made late, it holds events already) and new tables."""

    late: Range | None
    months: tuple[Range, ...]
    rest: Range


def read_bound(text: str) -> Range | None:
    """The range of a partition from the text of its bound; `None` for the default.

    Raises:
        ValueError: it is neither.
    """
    if text == "DEFAULT":
        return None
    match = _BOUND.search(text)
    if match is None:
        raise ValueError(f"{text} is no range of ids")
    return Range(UUID(match[1]), UUID(match[2]))


def read_excluded(text: str) -> Range | None:
    """The range that the default partition's CHECK excludes, from the constraint's text."""
    match = _EXCLUDED.search(text)
    return None if match is None else Range(UUID(match[1]), UUID(match[2]))


def first_range(now: datetime) -> Range:
    """The range of all months to come."""
    first = Month.of(now + HEADROOM).plus(1)
    return Range(first.first_id, first.plus(YEARS_AHEAD * MONTHS_OF_A_YEAR).first_id)


def table_name(ids: Range) -> str:
    """What a month's table is called."""
    first, last = month_of_id(ids.low), month_of_id(ids.high).plus(-1)
    name = f"{TABLE}_{first.year:04}_{first.month:02}"
    return name if first == last else f"{name}_{last.year:04}_{last.month:02}"


@dataclass(frozen=True, slots=True)
class Layout:
    """The partitions, by their ranges."""

    partitions: tuple[Partition, ...]

    @classmethod
    def of(cls, partitions: Sequence[Partition]) -> "Layout":
        """From partitions in any order; the default one comes first."""
        return cls(tuple(sorted(partitions, key=lambda one: (one.ids is not None, one.ids or ()))))

    @property
    def months(self) -> tuple[Partition, ...]:
        """Those of months, the oldest first."""
        return tuple(one for one in self.partitions if one.is_month)

    def range_of(self, name: str) -> Range | None:
        """The range of a partition; `None` where it is not there."""
        return next((one.ids for one in self.partitions if one.name == name), None)

    @property
    def whole(self) -> Range | None:
        """From the first range's beginning to the last one's end."""
        ranges = self._ranges()
        return Range(ranges[0].low, ranges[-1].high) if ranges else None

    def months_ahead(self, now: datetime) -> int:
        """For how many months after this one there is a partition; below 0 where this one has none."""
        future = self.range_of(FUTURE)
        if future is None:
            return -1
        until, current = month_of_id(future.low), Month.of(now)
        return (until.year - current.year) * MONTHS_OF_A_YEAR + until.month - current.month - 1

    def split(self, now: datetime, ahead: int) -> Split | None:
        """What has to be done so that this month and `ahead` after it have partitions; `None` where nothing has to."""
        future = self.range_of(FUTURE)
        if future is None or self.months_ahead(now) >= ahead:
            return None
        end = min(Month.of(now).plus(ahead + 1), month_of_id(future.high).plus(-1))
        month, late = month_of_id(future.low), None
        if month <= Month.of(now):  # events of now are in it
            month = min(Month.of(now).plus(1), month_of_id(future.high).plus(-1))
            late = Range(future.low, month.first_id)
        months = []
        while month < end:
            months.append(Range(month.first_id, month.plus(1).first_id))
            month = month.plus(1)
        return Split(late, tuple(months), Range(month.first_id, future.high))

    def due(self, first_kept: Month) -> tuple[Partition, ...]:
        """The months that lie before the first one that is kept, the oldest first."""
        return tuple(one for one in self.months if one.ids is not None and one.ids.high <= first_kept.first_id)

    def faults(self, excluded: Range | None) -> Iterator[str]:
        """What is wrong, a line each; `excluded` is what the default partition's valid CHECK excludes."""
        if not any(one.ids is None for one in self.partitions):
            yield "there is no default partition: ids that are no UUIDv7 of a month's cannot be stored"
        if self.range_of(FUTURE) is None:
            yield f"{FUTURE} is missing: no further month can be made"
        ranges = self._ranges()
        for before, after in pairwise(ranges):
            if before.high != after.low:
                yield (
                    f"no partition holds the ids from {before.high} to {after.low}: the default one's CHECK refuses"
                    f" them, and their events become dead letters: attach a partition for them to {TABLE}, then replay"
                )
        whole = self.whole
        if whole is not None and excluded != whole:
            yield (
                f"the default partition's CHECK excludes {excluded or 'nothing'}, and the ranges are {whole}: each new"
                " partition stops the workers while the default one is read"
            )

    def _ranges(self) -> list[Range]:
        return [one.ids for one in self.partitions if one.ids is not None]
