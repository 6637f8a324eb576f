"""A run's figures as Markdown: `python -m benchmarks.report FILE` prints every table.

With `--write` the tables go where they are shown: the README's part between its two marks, and docs/benchmarks.md.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from marks import Marks

from benchmarks.sheet import Line, Sheet
from benchmarks.targets import TARGETS

ROOT = Path(__file__).parents[2]
README, PAGE = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"
LATEST = ROOT / "docs" / "benchmarks" / "latest.json"
MARKS = Marks("<!-- benchmarks: written by `make bench-publish` -->", "<!-- benchmarks: end -->", "README.md")
NONE = "-"


class Column(NamedTuple):
    """A figure's heading and its digits after the point; `with_range` shows least and most too."""

    figure: str
    heading: str
    digits: int = 0
    with_range: bool = False


_RATE = Column("events_per_second", "events/s", with_range=True)
_CPU = Column("cpu_us_per_event", "CPU µs an event", 1)
_MEMORY = Column("peak_memory_mib", "peak memory, MiB")
_WAIT = Column("start_to_commit_seconds", "seconds", 2, with_range=True)

TABLES: dict[str, tuple[str, str, tuple[Column, ...]]] = {
    "headline": ("Backlog to committed rows", "", (_RATE, _CPU, _MEMORY)),
    "message_sizes": ("By events a message", "events a message", (_RATE, _CPU, _MEMORY)),
    "worker_processes": ("By worker processes", "processes", (_RATE, _CPU)),
    "latency": (
        "Publish call to commit, by load",
        "load",
        (
            Column("events_per_second", "events/s"),
            Column("latency_ms_p50", "p50, ms", with_range=True),
            Column("latency_ms_p99", "p99, ms", with_range=True),
            Column("publisher_late_ms_max", "publisher late at most, ms"),
        ),
    ),
    "repeated": ("With events that come twice", "share", (_RATE, _CPU)),
    "refused": ("With events that are refused", "share", (_RATE, _CPU)),
    "memory": ("Peak memory by backlog", "backlog, events", (_MEMORY, _RATE)),
    "start_up": ("Start of the process to first commit", "", (_WAIT,)),
    "profile": ("One event's microseconds", "events a message", (Column("us_per_event", "µs an event", 2),)),
    "table_sizes": ("By rows in the table before", "rows", (_RATE,)),
}
PICTURES = {
    "headline": ("rates.svg", "Rates: the worker, its ceilings, and what else one would take"),
    "message_sizes": ("message-sizes.svg", "Rate by events a message"),
    "worker_processes": ("worker-processes.svg", "Rate by worker processes"),
    "latency": ("latency.svg", "Latency over load"),
    "repeated": ("repeated.svg", "Rate by the share of events that come twice"),
    "refused": ("refused.svg", "Rate by the share of events that are refused"),
    "memory": ("memory.svg", "Peak memory by backlog"),
    "profile": ("event-profile.svg", "One event's microseconds"),
    "table_sizes": ("table-sizes.svg", "Rate over the rows in the table"),
}
README_PICTURES = ("headline", "table_sizes", "latency", "profile")
SHARES = ("repeated", "refused", "latency")


def table(question: str, lines: Iterable[Line]) -> str:
    """One question's table."""
    title, case, columns = TABLES[question]
    headings = ["what", *([case] if case else []), *_headings(columns)]
    rows = [headings, ["---"] * len(headings)]
    for line in lines:
        shown = [_case(question, line.case)] if case else []
        rows.append([line.contender, *shown, *(cell for column in columns for cell in _cells(line, column))])
    return f"**{title}**\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def ratios(sheet: Sheet) -> str:
    """The ratios that were set as targets, as far as their figures were taken; empty where none were."""
    rows = []
    for target in TARGETS:
        ratio = target.ratio(sheet)
        if ratio is not None:
            bound = "at most" if target.is_ceiling else "at least"
            goal = f"{bound} {target.at_least:g}, aim {target.aim:g}"
            rows.append(f"| {target.what} | {ratio:.2f} | {goal} | {target.verdict(ratio)} |\n")
    return "| ratio of medians | here | target | |\n| --- | --- | --- | --- |\n" + "".join(rows) if rows else ""


def machine(sheet: Sheet) -> str:
    """What it was measured on, as a sentence."""
    about = sheet.about
    libraries = ", ".join(f"{name} {version}" for name, version in about["libraries"].items())
    settings = ", ".join(f"{name} {value}" for name, value in about["postgres_settings"].items())
    again = "".join(
        f" {name} was measured again {run['at'][:10]} by `{run['command']}` at commit {run['commit']}."
        for name, run in about.get("again", {}).items()
    )
    quick = "A quick run, which shows that it works: its figures mean nothing. " if about["quick"] else ""
    return (
        f"{quick}Measured {about['at'][:10]} by `{about['command']}` at commit {about['commit']}, on "
        f"{about['cores']} cores ({about['processor']}) with {about['memory_gib']} GiB that ran broker, database, "
        f"publisher and worker at once; load before the start {about['load_before']}. {about['python']}, PostgreSQL "
        f"{about['postgres']} ({settings}), RabbitMQ {about['rabbitmq']}; {libraries}.{again}\n"
    )


def markdown(sheet: Sheet, pictures: str | None = None) -> str:
    """Everything; with the pictures of a folder where one is named."""
    parts = [machine(sheet), ratios(sheet)]
    for question in TABLES:
        if any(sheet.of(question)):
            parts.append(table(question, sheet.of(question)))
            parts.append(picture(question, pictures) if pictures else "")
    return "\n".join(part for part in parts if part)


def readme_part(sheet: Sheet) -> str:
    """What the README shows between its marks: the headline, the ratios, the pictures, the machine."""
    shown = [picture(question, "docs/pictures") for question in README_PICTURES if any(sheet.of(question))]
    return "\n".join(
        [
            MARKS.begin,
            "",
            table("headline", sheet.of("headline")),
            ratios(sheet),
            *shown,
            machine(sheet),
            "Everything that was measured: [docs/benchmarks.md](docs/benchmarks.md).\n",
            MARKS.end,
        ]
    )


def page(sheet: Sheet) -> str:
    """docs/benchmarks.md."""
    return (
        "# Benchmarks\n\nWritten from `docs/benchmarks/latest.json` by `make bench-publish`.\n\n"
        f"{markdown(sheet, 'pictures')}"
    )


def picture(question: str, folder: str) -> str:
    """The picture of a question, where it has one."""
    if question not in PICTURES:
        return ""
    file, shows = PICTURES[question]
    return f"![{shows}]({folder}/{file})\n"


def _headings(columns: Sequence[Column]) -> list[str]:
    return [
        heading for column in columns for heading in (column.heading, *(["least to most"] if column.with_range else []))
    ]


def _cells(line: Line, column: Column) -> list[str]:
    spread = line.spread(column.figure)
    if spread is None:
        return [NONE] * (1 + column.with_range)
    median, least, most = (f"{value:,.{column.digits}f}" for value in spread)
    return [median, *([f"{least} to {most}"] if column.with_range else [])]


def _case(question: str, case: float | str) -> str:
    if isinstance(case, str):
        return case
    return f"{case:.0%}" if question in SHARES else f"{case:,.0f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print, or write where they are shown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("file", type=Path, help="a file that `--json` wrote")
    parser.add_argument("--write", action="store_true", help="write README.md and docs/benchmarks.md")
    options = parser.parse_args(arguments)
    sheet = Sheet.read(options.file)
    if not options.write:
        sys.stdout.write(markdown(sheet))
        return
    README.write_text(MARKS.put(README.read_text(encoding="utf-8"), readme_part(sheet)), encoding="utf-8")
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(sheet), encoding="utf-8")


if __name__ == "__main__":
    main()
