"""Draws a soak: `python -m chaos.soak.picture FILE PICTURE`. Time goes to the right, faults are bands of colour."""

import argparse
from collections.abc import Callable, Sequence
from itertools import groupby
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from chaos.soak.report import Played, Soaked, kinds
from chaos.soak.samples import Sample, WorkerSample
from chaos.soak.verdict import MIB, Point, rates

STEADY, OTHER, THIRD = "#12436d", "#d9822b", "#28a197"
NUMBERS_MAX = 40  # above the bands
SHADES = ("#f46a25", "#5694ca", "#801650", "#28a197", "#a285d1", "#6b7783")
WIDTH_INCHES, PANEL_INCHES = 11.0, 1.75
EVENTS = "events a second"

mpl.use("Agg")
mpl.rcParams.update(
    {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "path", "svg.hashsalt": "1"}
)


def draw(soaked: Soaked) -> Any:
    """The figure: what flows, what waits, and what the workers hold."""
    panels = (_flow, _backlog, _memory, _descriptors, _connections)
    figure, all_axes = plt.subplots(
        len(panels), 1, sharex=True, figsize=(WIDTH_INCHES, PANEL_INCHES * len(panels) + 1), layout="constrained"
    )
    for axes, panel in zip(all_axes, panels, strict=True):
        panel(axes, soaked.samples)
        _shade(axes, soaked.played)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
        axes.grid(axis="y", color="#e4e7eb", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    _number(all_axes[0], soaked.played)
    all_axes[-1].set_xlim(0, max(sample.at_seconds for sample in soaked.samples) / 60)
    all_axes[-1].set_xlabel("minutes")
    patches = [
        plt.Rectangle((0, 0), 1, 1, color=_shades(soaked.played)[kind], alpha=0.35) for kind in kinds(soaked.played)
    ]
    figure.legend(
        patches, [f"fault: {kind}" for kind in kinds(soaked.played)], loc="outside lower center", ncols=6, frameon=False
    )
    figure.suptitle(
        f"{soaked.run_seconds / 60:.0f} minutes, {soaked.events:,} confirmed events, {len(soaked.played)} faults",
        fontsize=11,
    )
    return figure


def _flow(axes: Any, samples: Sequence[Sample]) -> None:
    stored = [Point(sample.at_seconds, sample.stored) for sample in samples if sample.stored is not None]
    _line(axes, rates(stored), "stored", STEADY)
    axes.set_ylabel(EVENTS)


def _backlog(axes: Any, samples: Sequence[Sample]) -> None:
    _line(axes, _of(samples, lambda sample: sample.ready), "ready in the queue", STEADY)
    _line(axes, _of(samples, lambda sample: sample.unacknowledged), "held by workers", OTHER)
    axes.set_ylabel("messages")


def _memory(axes: Any, samples: Sequence[Sample]) -> None:
    _both(axes, samples, lambda worker: worker.rss_bytes / MIB)
    axes.set_ylabel("memory, MiB")


def _descriptors(axes: Any, samples: Sequence[Sample]) -> None:
    _both(axes, samples, lambda worker: worker.descriptors, "'s\ndescriptors")
    tasks = _of(samples, lambda sample: _tasks(sample.workers.get("steady")))
    _line(axes, tasks, "steady worker's\nasyncio tasks", THIRD)
    axes.set_ylabel("number")


def _connections(axes: Any, samples: Sequence[Sample]) -> None:
    _line(axes, _of(samples, lambda sample: sample.sessions), "sessions of Postgres", STEADY)
    _line(axes, _of(samples, lambda sample: sample.channels), "channels of RabbitMQ", THIRD)
    _line(axes, _of(samples, lambda sample: sample.connections), "connections to it", OTHER, linestyle="--")
    axes.set_ylabel("steady worker's")


def _both(axes: Any, samples: Sequence[Sample], value: Callable[[WorkerSample], float], what: str = "") -> None:
    """The steady worker's, and the other one's, whose line begins anew with each process."""
    others = [(sample.at_seconds, sample.workers["other"]) for sample in samples if "other" in sample.workers]
    label: str | None = f"other worker{what}"
    for _, found in groupby(others, key=lambda pair: pair[1].pid):
        _line(axes, [Point(at_seconds, value(worker)) for at_seconds, worker in found], label, OTHER)
        label = None
    steady = [(sample.at_seconds, sample.workers["steady"]) for sample in samples if "steady" in sample.workers]
    _line(axes, [Point(at_seconds, value(worker)) for at_seconds, worker in steady], f"steady worker{what}", STEADY)


def _of(samples: Sequence[Sample], value: Callable[[Sample], float | None]) -> list[Point]:
    found = ((sample.at_seconds, value(sample)) for sample in samples)
    return [Point(at_seconds, one) for at_seconds, one in found if one is not None]


def _tasks(worker: WorkerSample | None) -> float | None:
    return None if worker is None or worker.metrics is None else worker.metrics["tasks"]


def _line(axes: Any, points: Sequence[Point], label: str | None, colour: str, **style: Any) -> None:
    axes.plot(
        [point.at_seconds / 60 for point in points], [point.value for point in points], color=colour, label=label,
        linewidth=1.2, marker="." if len(points) == 1 else None, markersize=3, **style,
    )  # fmt: skip


def _shades(played: Sequence[Played]) -> dict[str, str]:
    return dict(zip(kinds(played), SHADES * len(played), strict=False))


def _shade(axes: Any, played: Sequence[Played]) -> None:
    """Dark while it was broken, light until events flowed again."""
    shades = _shades(played)
    for one in played:
        axes.axvspan(one.begin_seconds / 60, one.mended_seconds / 60, color=shades[one.kind], alpha=0.35, linewidth=0)
        axes.axvspan(one.mended_seconds / 60, one.end_seconds / 60, color=shades[one.kind], alpha=0.15, linewidth=0)


def _number(axes: Any, played: Sequence[Played]) -> None:
    """As many as there is room for."""
    every = ceil(len(played) / NUMBERS_MAX)
    for number, one in enumerate(played, 1):
        if number % every:
            continue
        axes.text(
            (one.begin_seconds + one.mended_seconds) / 120, 1.02, f"{number}", transform=axes.get_xaxis_transform(),
            ha="center", va="bottom", fontsize=7, color="#333333",
        )  # fmt: skip


def save(soaked: Soaked, path: Path) -> None:
    """Draw it into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = draw(soaked)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw."""
    parser = argparse.ArgumentParser(prog="python -m chaos.soak.picture", description=__doc__)
    parser.add_argument("file", type=Path, help="a file that `--json` wrote")
    parser.add_argument("picture", type=Path, help="an .svg or a .png")
    options = parser.parse_args(arguments)
    save(Soaked.read(options.file), options.picture)


if __name__ == "__main__":
    main()
