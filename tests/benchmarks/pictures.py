"""Draws a run's figures: `python -m benchmarks.pictures FILE FOLDER`, one SVG for each question that was asked."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.ticker
from matplotlib import pyplot as plt

from benchmarks import contenders as names
from benchmarks.questions import profile
from benchmarks.questions.latency import HIGHEST
from benchmarks.questions.table_sizes import line_name
from benchmarks.report import PICTURES
from benchmarks.sheet import Line, Sheet, Spread
from benchmarks.targets import BATCH_AGE_MS, RATE

OURS, CEILING, PEER = "#1b6ca8", "#9aa5b1", "#d9822b"
CEILINGS = (names.IDLE_AIO_PIKA, names.IDLE_AIORMQ, "plain COPY")
SHADES = ("#12436d", "#28a197", "#801650", "#f46a25", "#5694ca", "#a285d1", "#6f9f37", "#6b7783")
WIDTH_INCHES = 9.0
MIB_OF_A_WORKER = "peak_memory_mib"

mpl.use("Agg")
mpl.rcParams.update(
    {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "path", "svg.hashsalt": "1"}
)


def draw_headline(lines: Sequence[Line]) -> Any:
    """Rates as bars: the worker, the ceilings, what a user would pick instead."""
    rated = sorted((line for line in lines if line.spread(RATE)), key=lambda line: line.median(RATE))
    figure, axes = plt.subplots(figsize=(WIDTH_INCHES, 0.42 * len(rated) + 1.4), layout="constrained")
    spreads = [_spread(line, RATE) for line in rated]
    colours = [_colour(line.contender) for line in rated]
    bars = axes.barh([line.contender for line in rated], [spread.median for spread in spreads], color=colours)
    axes.errorbar(
        [spread.median for spread in spreads], range(len(rated)), xerr=_errors(spreads), fmt="none", ecolor="#333333",
        capsize=3, linewidth=1,
    )  # fmt: skip
    most = max(spread.most for spread in spreads)
    for bar, spread in zip(bars, spreads, strict=True):
        axes.text(spread.most + most * 0.012, bar.get_y() + bar.get_height() / 2, f"{spread.median:,.0f}", va="center")
    axes.set_xlim(0, most * 1.12)
    figure.supxlabel("events a second, backlog to committed rows (do-nothing consumers: to acknowledged)", fontsize=10)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in (OURS, CEILING, PEER)]
    axes.legend(handles, ["usage-worker", "ceilings", "instead of it"], loc="lower right", frameon=False)
    _thousands(axes.xaxis)
    return figure


def draw_table_sizes(lines: Sequence[Line]) -> Any:
    """Rate over the rows in the table."""
    figure, axes = plt.subplots(figsize=(WIDTH_INCHES, 4.2), layout="constrained")
    for version, style in (("v7", "-"), ("v4", "--")):
        for contender, colour in (("worker", OURS), (names.COPY_ONE, CEILING)):
            chosen = [line for line in lines if line.contender == line_name(contender, version)]
            cases = [float(line.case) / 1e6 for line in chosen]
            _curve(axes, cases, chosen, RATE, f"{contender}, UUID{version}", color=colour, linestyle=style)
    axes.set_xlabel("million rows in the table before")
    _rates(axes)
    return figure


def draw_latency(lines: Sequence[Line]) -> Any:
    """Percentiles over load."""
    loads = [line for line in lines if line.case != HIGHEST]
    figure, axes = plt.subplots(figsize=(WIDTH_INCHES, 4.2), layout="constrained")
    percents = [float(line.case) * 100 for line in loads]
    for name, label, colour in (("latency_ms_p50", "median", OURS), ("latency_ms_p99", "99 of 100", PEER)):
        _curve(axes, percents, loads, name, label, color=colour)
    labels = [f"{p:.0f} %\n{line.median(RATE):,.0f}/s" for p, line in zip(percents, loads, strict=True)]
    axes.set_xticks(percents, labels)
    axes.set_xlabel("load, of the highest rate that can be sustained")
    axes.axhline(BATCH_AGE_MS, color=CEILING, linestyle=":", label=f"batch age, {BATCH_AGE_MS:.0f} ms")
    axes.set_ylabel("milliseconds from publish call to commit")
    axes.set_ylim(bottom=0)
    _thousands(axes.yaxis)
    axes.legend(frameon=False)
    return figure


def draw_profile(lines: Sequence[Line]) -> Any:
    """One event's CPU microseconds, by stage."""
    figure, axes = plt.subplots(figsize=(WIDTH_INCHES, 3.4), layout="constrained")
    sizes = sorted({float(line.case) for line in lines}, reverse=True)
    labels = ["one event a message" if size == 1 else f"{size:.0f} events a message" for size in sizes]
    left = [0.0] * len(sizes)
    widest = max(
        sum(line.median("us_per_event") for line in lines if line.case == size and line.contender in profile.CPU_PARTS)
        for size in sizes
    )
    for part, colour in zip(profile.CPU_PARTS, SHADES, strict=True):
        found = {float(line.case): line.median("us_per_event") for line in lines if line.contender == part}
        values = [found[size] for size in sizes]
        bars = axes.barh(labels, values, left=left, color=colour, label=part, height=0.6)
        texts = [f"{value:.1f}" if value > widest * 0.03 else "" for value in values]
        axes.bar_label(bars, texts, label_type="center", color="white", fontsize=9)
        left = [at + value for at, value in zip(left, values, strict=True)]
    for place, total in enumerate(left):
        axes.text(total * 1.0 + max(left) * 0.01, place, f"{total:.1f}", va="center", fontweight="bold")
    axes.set_xlim(0, max(left) * 1.08)
    axes.set_xlabel("CPU microseconds of the worker for one event")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def draw_message_sizes(lines: Sequence[Line]) -> Any:
    """Rate over events a message."""
    return _bars_by_case(lines, "events a message", lambda case: f"{case:,.0f}")


def draw_worker_processes(lines: Sequence[Line]) -> Any:
    """Rate over processes."""
    return _bars_by_case(lines, "worker processes", lambda case: f"{case:.0f}")


def draw_shares(lines: Sequence[Line]) -> Any:
    """Rate over the share of events that come twice, or are refused."""
    return _bars_by_case(lines, f"share of the events that are {lines[0].question}", lambda case: f"{case:.0%}")


def draw_memory(lines: Sequence[Line]) -> Any:
    """Peak memory over the backlog."""
    figure, axes = plt.subplots(figsize=(WIDTH_INCHES, 3.2), layout="constrained")
    cases = [f"{line.case:,.0f}" for line in lines]
    bars = axes.bar(cases, [line.median(MIB_OF_A_WORKER) for line in lines], color=OURS, width=0.5)
    axes.bar_label(bars, fmt="{:,.0f} MiB", padding=2)
    axes.set_xlabel("events in the backlog")
    axes.set_ylabel("peak memory of the worker, MiB")
    return figure


DRAWINGS: dict[str, Callable[[Sequence[Line]], Any]] = {
    "headline": draw_headline,
    "message_sizes": draw_message_sizes,
    "worker_processes": draw_worker_processes,
    "latency": draw_latency,
    "repeated": draw_shares,
    "refused": draw_shares,
    "memory": draw_memory,
    "profile": draw_profile,
    "table_sizes": draw_table_sizes,
}


def draw_all(sheet: Sheet, folder: Path) -> list[Path]:
    """Draw every question that was asked; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for question, draw in DRAWINGS.items():
        lines = list(sheet.of(question))
        if lines:
            figure = draw(lines)
            path = folder / PICTURES[question][0]
            figure.savefig(path, metadata={"Date": None})
            plt.close(figure)
            drawn.append(path)
    return drawn


def _bars_by_case(lines: Sequence[Line], label: str, text: Callable[[float], str]) -> Any:
    """Bars of rates beside one another: a group a case, a bar a contender."""
    figure, axes = plt.subplots(figsize=(WIDTH_INCHES, 3.6), layout="constrained")
    contenders = list(dict.fromkeys(line.contender for line in lines))
    cases = list(dict.fromkeys(float(line.case) for line in lines))
    width = 0.8 / len(contenders)
    for place, contender in enumerate(contenders):
        chosen = [line for line in lines if line.contender == contender]
        spreads = [_spread(line, RATE) for line in chosen]
        at = [cases.index(float(line.case)) + (place - (len(contenders) - 1) / 2) * width for line in chosen]
        colour = (OURS, "#5694ca")[place % 2]
        bars = axes.bar(
            at, [spread.median for spread in spreads], width * 0.95, yerr=_errors(spreads), capsize=3, color=colour,
            ecolor="#333333", label=contender,
        )  # fmt: skip
        axes.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize=8)
    axes.set_xticks(range(len(cases)), [text(case) for case in cases])
    axes.set_xlabel(label)
    _rates(axes)
    if len(contenders) == 1:
        axes.get_legend().remove()
    return figure


def _curve(axes: Any, cases: list[float], lines: Sequence[Line], figure: str, label: str, **style: Any) -> None:
    spreads = [_spread(line, figure) for line in lines]
    medians = [spread.median for spread in spreads]
    axes.errorbar(cases, medians, yerr=_errors(spreads), label=label, marker="o", capsize=3, **style)


def _errors(spreads: Sequence[Spread]) -> list[list[float]]:
    return [[one.median - one.least for one in spreads], [one.most - one.median for one in spreads]]


def _spread(line: Line, figure: str) -> Spread:
    spread = line.spread(figure)
    if spread is None:
        raise KeyError(f"{line.question}, {line.contender}, {line.case}: {figure} was not measured")
    return spread


def _colour(contender: str) -> str:
    if contender.startswith("worker"):
        return OURS
    return CEILING if contender.startswith(CEILINGS) else PEER


def _rates(axes: Any) -> None:
    axes.set_ylabel("events a second")
    axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.18)
    _thousands(axes.yaxis)
    axes.legend(frameon=False, loc="upper right", ncols=2)


def _thousands(axis: Any) -> None:
    axis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
    axis.set_major_locator(mpl.ticker.MaxNLocator(5))  # or the numbers touch each other


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pictures", description=__doc__)
    parser.add_argument("file", type=Path, help="a file that `--json` wrote")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    draw_all(Sheet.read(options.file), options.folder)


if __name__ == "__main__":
    main()
