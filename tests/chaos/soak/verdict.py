"""Whether what a worker holds stays flat, and whether it goes on storing. Pure.

Of each series the medians of two quarters of the run are compared, the second and the last: the first is for warming
up. Only quiet moments count, in which no fault was played or had just been. A leak grows with time or with each fault,
so it shows; a larger backlog once, whose memory the allocator keeps, is allowed for by a constant.

A worker that stays ready and consumes nothing is seen by its own count of events: it may stand still while something is
broken, and for as long as that fault's recovery may take.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import linear_regression, median
from typing import NamedTuple

from chaos.soak.samples import Sample

GROWTH_MAX = 1.1
POINTS_MIN = 3  # in each of both quarters
AFTER_FAULT_SECONDS = 5.0
HOUR_SECONDS = 3600.0
STALL_SECONDS_MAX = 30.0  # where nothing was broken
MIB = 2**20


class Point(NamedTuple):
    """A value and its moment, in seconds since the begin."""

    at_seconds: float
    value: float


@dataclass(slots=True, frozen=True)
class Limit:
    """What a series is called in a text, and by how much it may grow beside its 10 %."""

    name: str
    unit: str
    more_max: float


# What the steady worker holds. The constants are what a moment's chance makes: a batch in work, a question of a watch.
LIMITS = {
    "rss_mib": Limit("memory", "MiB", 8),
    "descriptors": Limit("descriptors", "", 3),
    "threads": Limit("threads", "", 1),
    "tasks": Limit("asyncio tasks", "", 3),
    "sessions": Limit("sessions of Postgres", "", 2),
    "connections": Limit("connections to RabbitMQ", "", 1),
    "channels": Limit("channels of RabbitMQ", "", 2),
}


@dataclass(slots=True, frozen=True)
class Flatness:
    """What became of a series: the medians of both quarters, the slope of the last three, and the verdict."""

    second_quarter: float
    last_quarter: float
    limit: float
    per_hour: float
    is_flat: bool


class Span(NamedTuple):
    """From the begin of a fault until events flowed again."""

    begin_seconds: float
    end_seconds: float


class Broken(NamedTuple):
    """From the begin of a fault until it was mended, and within how many seconds a worker then has to store again."""

    begin_seconds: float
    mended_seconds: float
    recovery_seconds_max: float


class Stall(NamedTuple):
    """The steady worker's count stood still. `whole_seconds` are those of it in which nothing was broken."""

    begin_seconds: float
    end_seconds: float
    whole_seconds: float
    seconds_max: float

    @property
    def is_too_long(self) -> bool:
        """Whether it is more than what the faults before it excuse."""
        return self.whole_seconds > self.seconds_max


def series(samples: Sequence[Sample], name: str) -> list[Point]:
    """What the steady worker held of this, wherever it was answered."""
    found = ((sample.at_seconds, _value(sample, name)) for sample in samples)
    return [Point(at_seconds, value) for at_seconds, value in found if value is not None]


def quiet(points: Sequence[Point], faults: Sequence[Span]) -> list[Point]:
    """Those in which no fault was played or had just been."""
    return [
        point
        for point in points
        if not any(span.begin_seconds <= point.at_seconds <= span.end_seconds + AFTER_FAULT_SECONDS for span in faults)
    ]


def judge(points: Sequence[Point], run_seconds: float, more_max: float) -> Flatness | None:
    """Whether they stay flat over a run of this length; `None` where there are too few to tell.

    Args:
        points: of the quiet moments, in order.
        run_seconds: how long the load lasted.
        more_max: by how much the median may grow beside a tenth.
    """
    quarter = run_seconds / 4
    second = [point.value for point in points if quarter <= point.at_seconds < 2 * quarter]
    last = [point.value for point in points if 3 * quarter <= point.at_seconds <= run_seconds]
    if min(len(second), len(last)) < POINTS_MIN:
        return None
    after_warming = [point for point in points if quarter <= point.at_seconds <= run_seconds]
    slope = linear_regression([point.at_seconds for point in after_warming], [point.value for point in after_warming])
    limit = GROWTH_MAX * median(second) + more_max
    return Flatness(
        second_quarter=round(median(second), 1),
        last_quarter=round(median(last), 1),
        limit=round(limit, 1),
        per_hour=round(slope.slope * HOUR_SECONDS, 1),
        is_flat=median(last) <= limit,
    )


def judge_all(samples: Sequence[Sample], faults: Sequence[Span], run_seconds: float) -> dict[str, Flatness | None]:
    """Every series of the steady worker."""
    return {
        name: judge(quiet(series(samples, name), faults), run_seconds, limit.more_max) for name, limit in LIMITS.items()
    }


def stalls(samples: Sequence[Sample], faults: Sequence[Broken], run_seconds: float) -> list[Stall]:
    """Every stretch of samples, while there was load, in which the steady worker's count of events did not grow.

    A sample that it did not answer is taken for one in which nothing has changed.
    """
    counted: list[Point] = []
    for sample in samples:
        value = _value(sample, "events")
        if value is None and counted:
            value = counted[-1].value
        if value is not None and sample.at_seconds <= run_seconds:
            counted.append(Point(sample.at_seconds, value))
    found = []
    for _, same in groupby(counted, key=lambda point: point.value):
        moments = [point.at_seconds for point in same]
        if len(moments) > 1:
            found.append(_stall(moments[0], moments[-1], faults))
    return found


def _stall(begin_seconds: float, end_seconds: float, faults: Sequence[Broken]) -> Stall:
    broken = sum(
        max(0.0, min(end_seconds, fault.mended_seconds) - max(begin_seconds, fault.begin_seconds)) for fault in faults
    )
    excuses = [
        fault.recovery_seconds_max
        for fault in faults
        if fault.begin_seconds <= end_seconds and begin_seconds <= fault.mended_seconds + fault.recovery_seconds_max
    ]
    return Stall(
        begin_seconds,
        end_seconds,
        round(end_seconds - begin_seconds - broken, 1),
        max(excuses, default=STALL_SECONDS_MAX),
    )


def rates(points: Sequence[Point]) -> list[Point]:
    """How fast a count grows, a second; where it falls, its process was another."""
    return [
        Point(later.at_seconds, (later.value - earlier.value) / (later.at_seconds - earlier.at_seconds))
        for earlier, later in pairwise(points)
        if later.value >= earlier.value and later.at_seconds > earlier.at_seconds
    ]


def _value(sample: Sample, name: str) -> float | None:
    if name in {"sessions", "connections", "channels"}:
        return getattr(sample, name)  # type: ignore[no-any-return] # of the three it is a number or None
    worker = sample.workers.get("steady")
    if worker is None:
        return None
    if name == "rss_mib":
        return worker.rss_bytes / MIB
    if name in {"tasks", "events"}:
        return None if worker.metrics is None else worker.metrics[name]
    return float(getattr(worker, name))
