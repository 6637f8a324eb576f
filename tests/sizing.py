"""The sizing table of docs/operations.md, made from what was measured: `python -m sizing` writes it."""

from typing import NamedTuple

from benchmarks.report import LATEST, ROOT
from benchmarks.sheet import Sheet
from marks import Marks

PAGE = ROOT / "docs" / "operations.md"
MARKS = Marks("<!-- sizing: written by `make bench-publish` -->", "<!-- sizing: end -->", "docs/operations.md")


class Work(NamedTuple):
    """What a worker may have to do, and where in the sheet it was measured."""

    says: str
    question: str
    contender: str
    case: float | str = ""


WORKS = (
    Work("one event a message", "headline", "worker, one event a message"),
    Work("100 events a message", "headline", "worker, 100 events a message"),
    Work("100 events a message, 10 % of them come twice", "repeated", "worker, 100 events a message", 0.1),
    Work("100 events a message, 10 % are refused", "refused", "worker, 100 events a message", 0.1),
    Work("100 events a message, 25 million rows in the table", "table_sizes", "worker, UUIDv7", 25e6),
)


def part(sheet: Sheet) -> str:
    """What the page shows between its two marks.

    Raises:
        KeyError: a figure was not measured.
    """
    rows = ["| one worker, with | events/s | CPU µs an event | peak memory, MiB |", "| --- | ---: | ---: | ---: |"]
    for work in WORKS:
        line = sheet.find(work.question, work.contender, work.case)
        if line is None:
            raise KeyError(f"{work.question}, {work.contender}, {work.case}: measure with make bench-full")
        stored, cpu, memory = map(line.median, ("events_per_second", "cpu_us_per_event", "peak_memory_mib"))
        rows.append(f"| {work.says} | {stored:,.0f} | {cpu:.1f} | {memory:.0f} |")
    copied = sheet.find("headline", "plain COPY, 2 connections")
    late = sheet.find("latency", "worker", 0.5)
    if copied is None or late is None:
        raise KeyError("plain COPY and latency: measure with make bench-full")
    half = {name: late.median(f"latency_ms_{name}") for name in ("p50", "p99")}
    rate = copied.median("events_per_second")
    text = [
        f"Measured with default settings on {sheet.about['cores']} cores that ran everything at once; servers of their",
        f"own take nothing from the workers. The database took {rate:,.0f} events a second by plain COPY on two",
        f"connections. From publishing to commit an event took {half['p50']:.0f} ms (p99 {half['p99']:.0f} ms) at half",
        "of the highest load.",
    ]
    return "\n".join([MARKS.begin, "", *rows, "", *text, "", MARKS.end])


if __name__ == "__main__":
    PAGE.write_text(MARKS.put(PAGE.read_text(encoding="utf-8"), part(Sheet.read(LATEST))), encoding="utf-8")
