"""`make bench` and `make bench-full`: everything side by side in one run; rows and sums are checked after each."""

import argparse
import gc
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import uvloop
from rich.console import Console

from benchmarks.bench import open_bench
from benchmarks.machine import describe_machine
from benchmarks.questions import HEADLINE, QUESTIONS, table_sizes
from benchmarks.report import markdown
from benchmarks.servers import bench_servers
from benchmarks.sheet import Sheet
from benchmarks.sizes import FULL, QUICK, Sizes
from worker.demo.servers import Servers


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--full", action="store_true", help="every question, not only the headline")
    chosen.add_argument("--only", choices=QUESTIONS, action="append", help="one question; may be repeated")
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that it works, not for figures")
    parser.add_argument("--rounds", type=int, help="how often everything is measured (3; quick: 1)")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument(
        "--again",
        action="store_true",
        help="with --only: answer again, in the file of a run",
    )
    parser.add_argument("--pictures", type=Path, help="draw the pictures into this folder")
    options = parser.parse_args(arguments)
    if options.again and not (options.only and options.json and options.json.exists()):
        parser.error("--again takes --only, and with --json the file of a run")
    return options


def command(options: argparse.Namespace) -> str:
    """What to type to measure the same."""
    chosen = ["--full"] if options.full else [f"--only {name}" for name in options.only or ()]
    rounds = [f"--rounds {options.rounds}"] if options.rounds else []
    flags = [f"--{name}" for name in ("quick", "again") if getattr(options, name)]
    return " ".join(["python -m benchmarks", *chosen, *flags, *rounds])


async def measure(given: Servers, questions: Sequence[str], sizes: Sizes, sheet: Sheet, file: Path | None) -> None:
    """Ask the questions one after another; what is known is written after each."""
    async with open_bench(given, sizes, sheet, Console(stderr=True)) as bench:
        if table_sizes.NAME in questions:
            await table_sizes.require_space(bench)
        for question in questions:
            await QUESTIONS[question](bench)
            gc.collect()
            if file:
                sheet.write(file)


def main(arguments: Sequence[str] | None = None) -> None:
    """Start servers, measure, report."""
    options = parse(arguments)
    questions = list(QUESTIONS) if options.full else options.only or [HEADLINE]
    about = describe_machine() | {"quick": options.quick, "command": command(options)}
    sheet = Sheet.read(options.json).without(questions, about) if options.again else Sheet(about)
    with bench_servers() as given:
        sizes = QUICK if options.quick else FULL
        if options.rounds:
            sizes = replace(sizes, rounds=options.rounds)
        uvloop.run(measure(given, questions, sizes, sheet, options.json))
    sys.stdout.write(markdown(sheet))
    if options.pictures:
        from benchmarks.pictures import draw_all

        draw_all(sheet, options.pictures)


if __name__ == "__main__":
    main()
