"""What a soak has shown: as JSON, as a sentence, and as its part of docs/chaos.md."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from marks import Marks

from chaos.registry import FAULTS
from chaos.report import PAGE
from chaos.soak.samples import Sample, WorkerSample
from chaos.soak.verdict import LIMITS, STALL_SECONDS_MAX, Broken, Flatness, Span, Stall, stalls

MARKS = Marks("<!-- soak: written by `make soak` -->", "<!-- soak: end -->", "docs/chaos.md")
PICTURE = PAGE.parent / "pictures" / "soak.svg"
HEAD = (
    "| of the worker that lived from start to end | second quarter | last quarter | allowed | change an hour |",
    "| --- | ---: | ---: | ---: | ---: |",
)


@dataclass(slots=True, frozen=True)
class Played:
    """A fault that was played. Seconds are since the begin; `recovery_seconds` is `None` where it came too late.

    The steady worker has to store again within `recovery_seconds_max` of when it was mended.
    """

    name: str
    kind: str
    begin_seconds: float
    mended_seconds: float
    end_seconds: float
    recovery_seconds: float | None
    error: str = ""
    recovery_seconds_max: float = STALL_SECONDS_MAX

    @property
    def span(self) -> Span:
        """Until events flowed again."""
        return Span(self.begin_seconds, self.end_seconds)

    @property
    def broken(self) -> Broken:
        """Until it was mended."""
        return Broken(self.begin_seconds, self.mended_seconds, self.recovery_seconds_max)

    @property
    def is_right(self) -> bool:
        """Whether it took effect and was recovered from."""
        return self.recovery_seconds is not None and not self.error

    def line(self) -> str:
        """For who looks on."""
        recovered = "TOO LATE" if self.recovery_seconds is None else f"flows again after {self.recovery_seconds:.1f} s"
        failed = f"; FAILED {self.error}" if self.error else ""
        lasted = self.mended_seconds - self.begin_seconds
        return f"{self.begin_seconds:7.0f} s  {self.name}, for {lasted:.1f} s: {recovered}{failed}"


@dataclass(slots=True)
class Soaked:
    """The whole run.

    `left` are sessions that workers left behind, `has_lived` is of the steady worker, `errors` are the suite's own,
    `seen_on` is its date.
    """

    seed: int
    rate: int
    run_seconds: float
    events: int
    confirmations: int
    counts: dict[str, int]
    wrong: dict[str, list[str]]
    reasons: dict[str, int]
    astray: int
    tracebacks: list[str]
    left: int
    played: list[Played]
    flatness: dict[str, Flatness | None]
    samples: list[Sample] = field(default_factory=list)
    has_lived: bool = True
    errors: list[str] = field(default_factory=list)
    seen_on: str = ""

    @property
    def stalls(self) -> list[Stall]:
        """When the steady worker stored nothing, by its own count."""
        return stalls(self.samples, [played.broken for played in self.played], self.run_seconds)

    def problems(self) -> list[str]:
        """What was not as promised; empty where all was."""
        found = [f"{count} {kind}: {self.wrong[kind]}" for kind, count in self.counts.items() if count]
        found += [f"{played.name}: {played.line()}" for played in self.played if not played.is_right]
        found += [f"a worker ended with {text}" for text in self.tracebacks]
        found += self.errors
        if self.astray:
            found.append(f"the broker has refused {self.astray} acknowledgements")
        if not self.has_lived:
            found.append("the steady worker has not lived from start to end")
        if self.left:
            found.append(f"{self.left} sessions of Postgres were left behind")
        if not self.played:
            found.append("no fault was played")
        for name, flatness in self.flatness.items():
            limit = LIMITS[name]
            if flatness is None:
                found.append(f"{limit.name}: too few quiet samples to tell; take more minutes")
            elif not flatness.is_flat:
                grown = f"from {flatness.second_quarter} to {flatness.last_quarter}, allowed are {flatness.limit}"
                found.append(f"{limit.name} grew {grown} {limit.unit}".rstrip())
        found += [
            f"the steady worker stored nothing from {stall.begin_seconds:.0f} s to {stall.end_seconds:.0f} s, in"
            f" {stall.whole_seconds:.0f} s of which nothing was broken; allowed are {stall.seconds_max:g}"
            for stall in self.stalls
            if stall.is_too_long
        ]
        return found

    def as_json(self) -> str:
        """The file's text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def read(cls, path: Path) -> "Soaked":
        """Out of its file; what one of an earlier version lacks is what can be known of it."""
        written_on = datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        fields.setdefault("seen_on", written_on)
        fields["played"] = [_played(one) for one in fields["played"]]
        fields["flatness"] = {
            name: None if one is None else Flatness(**one) for name, one in fields["flatness"].items()
        }
        fields["samples"] = [_sample(one) for one in fields["samples"]]
        return cls(**fields)


def _played(fields: Mapping[str, Any]) -> Played:
    fault = FAULTS.get(fields["name"])
    known = {} if fault is None else {"recovery_seconds_max": fault.recovery_seconds_max}
    return Played(**{**known, **fields})


def _sample(fields: Mapping[str, Any]) -> Sample:
    workers = {role: WorkerSample(**worker) for role, worker in fields["workers"].items()}
    return Sample(**{**fields, "workers": workers})


def part(soaked: Soaked) -> str:
    """The part of docs/chaos.md, its marks included."""
    minutes = soaked.run_seconds / 60
    said = (
        f"Of {minutes:.0f} minutes ({soaked.seen_on}, seed {soaked.seed}): {soaked.events:,} confirmed events,"
        f" {_listed(soaked.counts)}; {_recovered(soaked.played)}. While nothing was broken the steady worker stored"
        f" nothing for at most {max((stall.whole_seconds for stall in soaked.stalls), default=0):.0f} s."
    )
    rows = [_row(name, flatness) for name, flatness in soaked.flatness.items()]
    lines = [
        MARKS.begin, said, "", *HEAD, *rows, "",
        f"![What the steady worker held, and when which fault was played](pictures/{PICTURE.name})", "",
        "Which faults, by their numbers in the picture: " + _numbered(soaked.played) + ".", MARKS.end,
    ]  # fmt: skip
    return "\n".join(lines)


def _recovered(played: Sequence[Played]) -> str:
    """After how many faults events flowed again, and how soon."""
    seconds = [one.recovery_seconds for one in played if one.recovery_seconds is not None]
    late = len(played) - len(seconds)
    if not seconds:
        return f"{len(played)} faults, after none of which events flowed again in time"
    which = f"{len(seconds)}, but NOT after {late}, of which" if late else "each of which"
    return f"{len(played)} faults, after {which} events flowed again within {max(seconds):.1f} s"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in counts.items())


def _row(name: str, flatness: Flatness | None) -> str:
    limit = LIMITS[name]
    unit = f", {limit.unit}" if limit.unit else ""
    if flatness is None:
        return f"| {limit.name}{unit} | too few samples | | | |"
    figures = (flatness.second_quarter, flatness.last_quarter, flatness.limit)
    return f"| {limit.name}{unit} | {' | '.join(f'{figure:g}' for figure in figures)} | {flatness.per_hour:+g} |"


def _numbered(played: Sequence[Played]) -> str:
    numbers: dict[str, list[int]] = {}
    for number, one in enumerate(played, 1):
        numbers.setdefault(one.name, []).append(number)
    return "; ".join(f"{', '.join(map(str, found))} {name}" for name, found in numbers.items())


def kinds(played: Sequence[Played]) -> list[str]:
    """The kinds that were played, the most frequent first."""
    return [kind for kind, _ in Counter(one.kind for one in played).most_common()]
