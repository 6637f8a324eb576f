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
FIGURES = "runs | events | lost | doubled | wrongly dead-lettered | seconds to recover |"
UNDER_FIGURES = "---: | ---: | ---: | ---: | ---: | ---: |"
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
    "RabbitMQ": (["rabbitmq"], "restarted, killed, frozen, short of memory or disk, operated upon"),
    "RabbitMQ, three nodes": (["cluster"], "leader or follower killed, frozen, cut off; restarted one by one"),
    "the network": (["network"], "cut, refused, frozen, half-open, late, in single bytes, corrupted; between any two"),
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


def how_played(outcomes: Iterable[Outcome]) -> str:
    """A sentence: how many of the runs had which delivery path, event loop and broker."""
    played = list(outcomes)

    def shares(of: Callable[[Outcome], str]) -> str:
        return ", ".join(f"{runs:,} {name}" for name, runs in Counter(map(of, played)).most_common())

    return (
        f"Of these {len(played):,} runs: {shares(lambda run: f'by the {run.delivery_path} delivery path')}; "
        f"{shares(lambda run: f'on {run.event_loop}')}; {shares(lambda run: f'with RabbitMQ {run.rabbitmq}')}."
    )


def write(outcomes: Sequence[Outcome], faults: Mapping[str, Fault]) -> None:
    """Put the tables into the pages."""
    whole = f"{table(outcomes, faults)}\n{how_played(outcomes)}\n"
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
    wrong = [sum(outcome.counts[kind] for outcome in outcomes) for kind in ("lost", "doubled", "wrongly_dead")]
    seconds = [outcome.recovery_seconds for outcome in outcomes if outcome.recovery_seconds is not None]
    late = len(outcomes) - len(seconds)
    shown = f"{median(seconds):.1f}" if seconds else ""
    if len(seconds) > 1:
        shown += f", at most {max(seconds):.1f}"
    cells = [
        name,
        what.rstrip("."),
        f"{len(outcomes):,}",
        f"{sum(outcome.events for outcome in outcomes):,}",
        *(f"{count:,}" for count in wrong),
        shown + (f"; {late} too late" if late else ""),
    ]
    return f"| {' | '.join(cells)} |"
