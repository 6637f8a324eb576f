"""What `make bench-producers` shows: two tables, and a picture of latency over time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.sheet import Line, Sheet

CALLS, PUBLISHING, OUTAGE = "calls", "publishing", "outage"
PLAIN = "aio-pika, each confirmation awaited"
WAYS = {
    "function": "await log_ai_usage()",
    "memory": 'record(), durability="memory"',
    "spool": 'record(), durability="spool"',
}
FROZEN = {"postgres": "Postgres stopped", "rabbitmq": "RabbitMQ stopped"}
OVER_TIME = {name: f"over time, {name}" for name in FROZEN.values()}
PICTURE = "record_latency.svg"
COLOURS = dict(zip(WAYS.values(), ("#d9822b", "#1b6ca8", "#28a197"), strict=True))
ONE_DIGIT = 9.95  # what is below has one digit before the point
UNITS = ((1e6, "s"), (1e3, "ms"), (1.0, "µs"))


def duration(microseconds: float) -> str:
    """In the unit that suits, with a decimal below ten."""
    for factor, unit in UNITS:
        if microseconds >= factor or unit == "µs":
            value = microseconds / factor
            return f"{value:.{1 if value < ONE_DIGIT else 0}f} {unit}"
    raise AssertionError("the last unit takes what is left")


def calls_table(lines: Sequence[Line]) -> str:
    """What each call cost."""
    headings = ("p50", "p99", "max", "to make the event, p50", "caller late, p99")
    names = ("us_p50", "us_p99", "us_max", "made_us_p50", "late_us_p99")
    rows = [f"| | what | {' | '.join(headings)} |\n| --- | --- | {' | '.join('---:' for _ in headings)} |\n"]
    for line in lines:
        cells = [duration(line.median(name)) if line.median(name) else "-" for name in names]
        rows.append(f"| {line.case} | `{line.contender}` | {' | '.join(cells)} |\n")
    return "".join(rows)


def publishing_table(lines: Sequence[Line]) -> str:
    """How fast events are published and confirmed."""
    rows = ["| events a message | what | events/s | CPU µs an event |\n| ---: | --- | ---: | ---: |\n"]
    for line in lines:
        rate, cpu = line.median("events_per_second"), line.median("cpu_us_per_event")
        rows.append(f"| {line.case:,.0f} | {line.contender} | {rate:,.0f} | {cpu:.0f} |\n")
    return "".join(rows)


def markdown(sheet: Sheet) -> str:
    """Both tables."""
    quick = "A quick run, which shows that it works: its figures mean nothing.\n\n" if sheet.about.get("quick") else ""
    calls = calls_table(list(sheet.of(CALLS)))
    return f"{quick}{calls}\n{publishing_table(list(sheet.of(PUBLISHING)))}"


def draw(sheet: Sheet, folder: Path) -> Path:
    """Latency over time while a server stands; medians as lines, up to the largest as shades."""
    from matplotlib import pyplot as plt

    from benchmarks.pictures import WIDTH_INCHES

    figure, panels = plt.subplots(1, len(FROZEN), figsize=(WIDTH_INCHES, 4.2), layout="constrained", sharey=True)
    for axes, case in zip(panels, FROZEN.values(), strict=True):
        for contender, colour in COLOURS.items():
            chosen = [line for line in sheet.of(OVER_TIME[case]) if line.contender == contender]
            _curve(axes, chosen, colour, contender)
        _shade(axes, list(sheet.of(OUTAGE)), case)
    panels[0].set_ylabel("a call's latency: median, and up to the largest")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(WAYS), frameon=False)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PICTURE
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def _curve(axes: Any, lines: Sequence[Line], colour: str, label: str) -> None:
    times = [float(line.case) for line in lines]
    medians = [line.median("us_p50") for line in lines]
    axes.plot(times, medians, color=colour, label=label)
    axes.fill_between(times, medians, [line.median("us_max") for line in lines], color=colour, alpha=0.2, linewidth=0)


def _shade(axes: Any, outages: Sequence[Line], case: str) -> None:
    found = [line for line in outages if line.case == case]
    axes.axvspan(
        min(line.median("from_seconds") for line in found), max(line.median("to_seconds") for line in found),
        color="#9aa5b1", alpha=0.25, linewidth=0,
    )  # fmt: skip
    axes.set_title(case, fontsize=10)
    axes.set_yscale("log")
    axes.set_xlabel("seconds; grey: the server is stopped")
    axes.yaxis.set_major_formatter(lambda value, _: duration(value))
    axes.tick_params(labelleft=True)
