"""What a caller has measured, call by call: written by the caller's process, summed up by the run."""

from array import array
from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import NamedTuple

MICROSECONDS = 1e6


class Call(NamedTuple):
    """One call. Seconds, all of them.

    `due` is counted from the beginning; `late` is by how much later the caller came to it; `took` is what it cost:
    where it is awaited, from the due moment to the answer; where not, the call itself. `made` is what it took to make
    the event before.
    """

    due: float
    late: float
    took: float
    made: float


class Calls:
    """The calls of one run, as bare numbers: nothing that the collector of garbage has to look at."""

    def __init__(self) -> None:
        self._numbers = array("d")

    def add(self, call: Call) -> None:
        """Add one."""
        self._numbers.extend(call)

    def write(self, path: Path) -> None:
        """Write the file that `read_calls` takes."""
        path.write_bytes(self._numbers.tobytes())


def read_calls(path: Path) -> list[Call]:
    """The calls in a file."""
    numbers = array("d")
    numbers.frombytes(path.read_bytes())
    return [Call(*numbers[at : at + len(Call._fields)]) for at in range(0, len(numbers), len(Call._fields))]


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that at least this share of them does not exceed (nearest rank); 1.0 gives the largest.

    Raises:
        ValueError: there are none, or the share is not in 0 to 1.
    """
    if not values or not 0 <= share <= 1:
        raise ValueError(f"no percentile {share} of {len(values)} values: give some, and a share from 0 to 1")
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]


def due_between(calls: Sequence[Call], begin: float, end: float) -> list[Call]:
    """Those that were due from `begin` on, and before `end`."""
    return [call for call in calls if begin <= call.due < end]


def figures(calls: Sequence[Call]) -> dict[str, float]:
    """What the table shows of these calls."""
    took, late, made = ([getattr(call, name) * MICROSECONDS for call in calls] for name in ("took", "late", "made"))
    return {
        "calls": len(calls),
        "us_p50": percentile(took, 0.5),
        "us_p99": percentile(took, 0.99),
        "us_max": max(took),
        "made_us_p50": percentile(made, 0.5),
        "late_us_p50": percentile(late, 0.5),
        "late_us_p99": percentile(late, 0.99),
        "late_us_max": max(late),
    }


def over_time(calls: Sequence[Call], step: float) -> Iterator[tuple[float, float, float]]:
    """For each step that has calls: its middle in seconds, the median and the largest of its calls, in microseconds."""
    steps: dict[int, list[float]] = {}
    for call in calls:
        steps.setdefault(int(call.due // step), []).append(call.took * MICROSECONDS)
    for number, took in sorted(steps.items()):
        yield round((number + 0.5) * step, 3), percentile(took, 0.5), max(took)
