"""The tables of docs/chaos.md and README.md, made of the lines of JSON that runs have written."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

from marks import Marks

from chaos.home import ROOT
from chaos.registry import Fault
from chaos.run import Outcome

PAGE = ROOT / "docs" / "chaos.md"
README = ROOT / "README.md"
MARKS = Marks("<!-- chaos: written by `make chaos-full` -->", "<!-- chaos: end -->", "docs/chaos.md")
README_MARKS = Marks("<!-- faults: written by `make chaos-full` -->", "<!-- faults: end -->", "README.md")
SEVERAL = "several at once"
FIGURES = "runs | events | lost | doubled | wrongly dead-lettered | otherwise wrong | seconds to recover |"
UNDER_FIGURES = "---: | ---: | ---: | ---: | ---: | ---: | ---: |"
IN_COLUMNS = ("lost", "doubled", "wrongly_dead")
HEAD = (f"| fault | what happens | {FIGURES}", f"| --- | --- | {UNDER_FIGURES}")
SUMMARY_HEAD = (f"| what breaks | how | {FIGURES}", f"| --- | --- | {UNDER_FIGURES}")
# What is broken and how, and the modules that hold these faults.
GROUPS = {
    "workers": (["workers"], "killed at random and at named points, frozen, stopped, scaled from 1 to 8 and back"),
    "Postgres": (
        ["postgres", "limits", "partitions"],
        "restarted, killed, frozen, full, read-only, locked, out of connections; migrated and partitioned under load",
    ),
    "Postgres with a standby": (
        ["failover"],
        "primary killed, frozen, out of reach or going on; commits that did not wait",
    ),
    "RabbitMQ": (
        ["rabbitmq", "poison"],
        "restarted, killed, frozen, short of memory or disk, operated upon; messages that kill every worker",
    ),
    "RabbitMQ, three nodes": (["cluster"], "leader or follower killed, frozen, cut off; restarted one by one"),
    "the network": (
        ["network"],
        (
            "cut, refused, frozen, half-open, late, in single bytes, corrupted;"
            " between producers and RabbitMQ, workers and RabbitMQ, workers and Postgres"
        ),
    ),
    "the machine": (
        ["machine", "memory", "clocks"],
        "short of processors and memory, clocks that jump; floods of bad events",
    ),
    "producers": (["duplicates"], "everything published several times at once, in other messages"),
}


def read(path: Path) -> list[Outcome]:
    """The runs of a file."""
    return [Outcome(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def table(outcomes: Iterable[Outcome], faults: Mapping[str, Fault]) -> str:
    """A row a fault in the registry's order, those of several at once in one row, and their sum."""
    by_name = _grouped(outcomes, lambda name: name)
    rows = [_row(name, faults[name].what, by_name[name]) for name in faults if name in by_name]
    return _with_sums(HEAD, rows, by_name)


def summary(outcomes: Iterable[Outcome], faults: Mapping[str, Fault]) -> str:
    """The same in a row a group of kinds."""
    group_of = {kind: group for group, (kinds, _) in GROUPS.items() for kind in kinds}
    by_group = _grouped(outcomes, lambda name: group_of[faults[name].kind])
    rows = [_row(group, how, by_group[group]) for group, (_, how) in GROUPS.items() if group in by_group]
    return _with_sums(SUMMARY_HEAD, rows, by_group)


def how_played(outcomes: Iterable[Outcome], faults: Mapping[str, Fault]) -> str:
    """How many of the runs had which delivery path, event loop and broker; what went wrong; what was not played."""
    every = list(outcomes)
    played = [outcome for outcome in every if outcome.rabbitmq]

    def shares(of: Callable[[Outcome], str]) -> str:
        return ", ".join(f"{runs:,} {name}" for name, runs in Counter(map(of, played)).most_common())

    ways = (lambda run: f"by the {run.delivery_path} delivery path", lambda run: f"on {run.event_loop}")
    shown = [shares(way) for way in (*ways, lambda run: f"with RabbitMQ {run.rabbitmq}")]
    said = [f"Of these {len(played):,} runs: {'; '.join(shown)}."]
    unfelt = sum(bool(outcome.unfelt) for outcome in every)
    if unfelt:
        said.append(f"In {unfelt} of those with several at once another fault was in the way of one of them.")
    said += [f"Not as promised: {', '.join(run.faults)} (seed {run.seed})." for run in every if not run.is_right]
    missing = faults.keys() - {name for outcome in every for name in outcome.faults if len(outcome.faults) == 1}
    if missing and len(missing) <= len(faults) / 2:  # of a run of everything
        said.append(f"Not played: {', '.join(sorted(missing))}.")
    return "\n".join(said)


def write(outcomes: Sequence[Outcome], faults: Mapping[str, Fault]) -> None:
    """Put the tables into the pages."""
    whole = f"{table(outcomes, faults)}\n{how_played(outcomes, faults)}\n"
    for page, marks, part in ((PAGE, MARKS, whole), (README, README_MARKS, summary(outcomes, faults))):
        text = marks.put(page.read_text(encoding="utf-8"), f"{marks.begin}\n{part}{marks.end}")
        page.write_text(text, encoding="utf-8")


def _grouped(outcomes: Iterable[Outcome], key: Callable[[str], str]) -> dict[str, list[Outcome]]:
    groups: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[key(outcome.faults[0]) if len(outcome.faults) == 1 else SEVERAL].append(outcome)
    return groups


def _with_sums(head: Sequence[str], rows: list[str], groups: Mapping[str, list[Outcome]]) -> str:
    if SEVERAL in groups:
        rows.append(_row(SEVERAL, "Two or three of the above, of different kinds.", groups[SEVERAL]))
    rows.append(_row("**all**", "", [outcome for found in groups.values() for outcome in found]))
    return "\n".join([*head, *rows]) + "\n"


def _row(name: str, what: str, outcomes: list[Outcome]) -> str:
    seconds = [outcome.recovery_seconds for outcome in outcomes if outcome.recovery_seconds is not None]
    late = len(outcomes) - len(seconds)
    shown = [f"{median(seconds):.1f}"] if seconds else []
    shown += [f"at most {max(seconds):.1f}"] if len(seconds) > 1 else []
    shown += [f"{late} too late"] if late else []
    cells = [
        name,
        what.rstrip("."),
        f"{len(outcomes):,}",
        f"{sum(outcome.events for outcome in outcomes):,}",
        *(f"{sum(outcome.counts.get(kind, 0) for outcome in outcomes):,}" for kind in IN_COLUMNS),
        f"{sum(map(_is_otherwise_wrong, outcomes)):,}",
        ", ".join(shown),
    ]
    return f"| {' | '.join(cells)} |"


def _is_otherwise_wrong(outcome: Outcome) -> bool:
    """Whether the run has shown something wrong that has no column of its own."""
    return not outcome.is_right and not any(outcome.counts.get(kind) for kind in IN_COLUMNS)
