"""Simulates the scaling rule and says what came of it: `python -m benchmarks.scaling_report` prints the tables.

With `--write` they go into docs/kubernetes.md, figures to docs/benchmarks/scaling.json, and a picture to docs/pictures.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from azure_trace import TRACE, call_seconds
from marks import Marks

from benchmarks.report import LATEST, ROOT
from benchmarks.scaling import STEP_SECONDS, Fleet, Moment, Run, simulate
from benchmarks.scaling_cases import CHOSEN, OUTAGE_SECONDS, TWENTY, Case, cases, fixed, fleet_of
from benchmarks.sheet import Line, Sheet

PAGE = ROOT / "docs" / "kubernetes.md"
FIGURES = ROOT / "docs" / "benchmarks" / "scaling.json"
PICTURE = ROOT / "docs" / "pictures" / "scaling.svg"
MARKS = Marks("<!-- scaling: written by `make bench-scaling` -->", "<!-- scaling: end -->", "docs/kubernetes.md")
LATE_SECONDS = 10.0
QUESTION = "scaling, "
DRAWN = (fixed(2), TWENTY, CHOSEN)


class Column(NamedTuple):
    """A figure of a run, its heading and its digits."""

    figure: str
    heading: str
    digits: int = 0


COLUMNS = (
    Column("wait_seconds_p50", "wait p50, s", 2),
    Column("wait_seconds_p99", "p99, s", 1),
    Column("age_seconds_max", "oldest, s", 1),
    Column("late_minutes", f"minutes above {LATE_SECONDS:.0f} s", 1),
    Column("replicas_mean", "replicas, mean", 2),
    Column("replicas_max", "most"),
    Column("replicas_started", "started"),
)


def figures(run: Run) -> dict[str, float]:
    """What is shown of a run."""
    late = sum(moment.age_seconds > LATE_SECONDS for moment in run.moments)
    return {
        "wait_seconds_p50": run.wait_quantile(0.5),
        "wait_seconds_p99": run.wait_quantile(0.99),
        "age_seconds_max": run.age_max,
        "late_minutes": late * STEP_SECONDS / 60,
        "replicas_mean": run.replicas_mean,
        "replicas_max": max(moment.replicas for moment in run.moments),
        "replicas_started": run.started,
    }


def ask(found: Sequence[Case], fleet: Fleet) -> Sheet:
    """Simulate every rule of every case."""
    sheet = Sheet({"worker": fleet.events_per_second, "database": fleet.database_events_per_second})
    for case in found:
        for rule, its_fleet in case.rules:
            sheet.note(QUESTION + case.name, rule.name, case.says, **figures(simulate(rule, case.load, its_fleet)))
    return sheet


def tables(sheet: Sheet) -> str:
    """A table for each case."""
    says = dict.fromkeys((line.question, str(line.case)) for line in sheet.lines)
    return "\n".join(f"**{text}**\n\n{_table(list(sheet.of(question)))}" for question, text in says)


def part(sheet: Sheet) -> str:
    """What docs/kubernetes.md shows between its two marks."""
    rates = (
        f"A worker stores {sheet.about['worker']:,.0f} events a second, and the database takes at most "
        f"{sheet.about['database']:,.0f}: what is [measured](benchmarks.md) with one event a message, "
        "and with COPY by two connections.\n"
    )
    return "\n".join([MARKS.begin, "", rates, tables(sheet), MARKS.end])


def draw(case: Case, fleet: Fleet, path: Path) -> None:
    """What arrives, how old the oldest waiting event is, and how many replicas there are, over time."""
    from matplotlib import pyplot as plt

    from benchmarks.pictures import CEILING, OURS, PEER, WIDTH_INCHES

    figure, (load, age, replicas) = plt.subplots(
        3, 1, figsize=(WIDTH_INCHES, 6.4), layout="constrained", sharex=True, height_ratios=(2, 3, 2)
    )
    _draw_load(load, case, fleet, OURS, CEILING)
    for rule, colour, width in zip(DRAWN, (CEILING, PEER, OURS), (1.5, 5, 1.5), strict=True):  # where two are the same
        moments = list(_thinned(simulate(rule, case.load, fleet).moments))
        minutes = [moment.at_seconds / 60 for moment in moments]
        age.plot(minutes, [moment.age_seconds for moment in moments], color=colour, linewidth=width, label=rule.name)
        replicas.step(minutes, [moment.replicas for moment in moments], color=colour, linewidth=width, where="post")
    age.set_ylabel("age of the oldest event\nthat waits, seconds")
    replicas.set_ylabel("replicas")
    replicas.set_xlabel("minutes; grey: no database")
    for axes in (load, age, replicas):
        axes.axvspan(*(second / 60 for second in OUTAGE_SECONDS), color=CEILING, alpha=0.25, linewidth=0)
        axes.set_ylim(bottom=0)
    figure.legend(*age.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _draw_load(axes: Any, case: Case, fleet: Fleet, colour: str, ceiling: str) -> None:
    steps = round(10 / STEP_SECONDS)
    sums = [sum(case.load.arrivals[at : at + steps]) / 10 for at in range(0, len(case.load.arrivals) - steps, steps)]
    axes.plot([at / 6 for at in range(len(sums))], sums, color=colour, linewidth=1)
    for number in (1, 2):
        axes.axhline(number * fleet.events_per_second, color=ceiling, linestyle=":")
        text = "one worker" if number == 1 else "two workers"
        axes.text(len(sums) / 6 + 0.3, number * fleet.events_per_second, text, fontsize=8, va="bottom")
    axes.set_ylabel("events a second")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _thinned(moments: Sequence[Moment]) -> Iterator[Moment]:
    """One of each five seconds: a picture shows no more."""
    return iter(moments[:: round(5 / STEP_SECONDS)])


def _table(lines: Sequence[Line]) -> str:
    rows = [
        f"| | {' | '.join(column.heading for column in COLUMNS)} |\n",
        f"| --- | {' | '.join('---:' for _ in COLUMNS)} |\n",
    ]
    for line in lines:
        cells = [f"{line.median(column.figure):,.{column.digits}f}" for column in COLUMNS]
        rows.append(f"| {line.contender} | {' | '.join(cells)} |\n")
    return "".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print, or write where they are shown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling_report", description=__doc__)
    parser.add_argument("--trace", type=Path, default=TRACE, help="the trace, a CSV with a column TIMESTAMP")
    parser.add_argument("--write", action="store_true", help="write docs/kubernetes.md, the figures and the picture")
    options = parser.parse_args(arguments)
    if not options.trace.exists():
        parser.error(f"the trace is not at {options.trace}: name it with --trace")
    fleet = fleet_of(Sheet.read(LATEST))
    found = cases(call_seconds(options.trace), fleet)
    sheet = ask(found, fleet)
    if not options.write:
        sys.stdout.write(tables(sheet))
        return
    sheet.write(FIGURES)
    PAGE.write_text(MARKS.put(PAGE.read_text(encoding="utf-8"), part(sheet)), encoding="utf-8")
    draw(found[1], fleet, PICTURE)


if __name__ == "__main__":
    main()
