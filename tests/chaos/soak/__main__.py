"""`make soak`: constant load and faults one after another for so many minutes; are the books right, and is all flat?

`--judge` reads a run that was written before and judges it again, without playing anything.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import chaos.faults  # noqa: F401 - fills the registry
from chaos.registry import FAULTS
from chaos.report import PAGE
from chaos.run import seed_of_run
from chaos.servers import chaos_servers
from chaos.soak.report import MARKS, PICTURE, Soaked, part
from chaos.soak.run import Options, soak


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(prog="python -m chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long there is load (60)")
    parser.add_argument("--seed", type=int, help="of the faults and their instants; one that no other run has")
    parser.add_argument("--rate", type=int, default=300, help="events a second of each of two producers (300)")
    parser.add_argument("--quiet", type=float, default=30.0, metavar="SECONDS", help="between two faults (30)")
    parser.add_argument("--folder", type=Path, help="where ledgers and logs lie while it runs; a throw-away one")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--judge", type=Path, metavar="FILE", help="play nothing: judge what --json has written")
    parser.add_argument("--picture", type=Path, help="draw them into this file, .svg or .png")
    parser.add_argument(
        "--write", action="store_true", help="put both into docs/chaos.md and docs/pictures, where all is right"
    )
    options = parser.parse_args(arguments)
    if (options.json is None) == (options.judge is None):
        parser.error("give either --json, the file that all figures are written to, or --judge, one that was written")
    if (options.picture or options.write) and find_spec("matplotlib") is None:
        parser.error("a picture takes matplotlib: uv sync --group bench, or leave --picture and --write away")
    return options


def publish(soaked: Soaked) -> None:
    """Into the project's documentation."""
    from chaos.soak.picture import save

    save(soaked, PICTURE)
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(MARKS.put(text, part(soaked)), encoding="utf-8")


def play(options: argparse.Namespace) -> Soaked:
    """Start servers and run."""
    seed = seed_of_run() if options.seed is None else options.seed
    sys.stderr.write(f"CHAOS_SEED={seed}: {options.minutes:g} minutes\n")
    with chaos_servers() as servers:
        asked = Options(options.minutes, seed, options.rate, options.quiet, options.folder)
        soaked = asyncio.run(soak(servers, FAULTS, asked))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(soaked.as_json(), encoding="utf-8")
    return soaked


def main(arguments: Sequence[str] | None = None) -> int:
    """Run or read, report; the exit status."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or workers would outlive it
    soaked = Soaked.read(options.judge) if options.judge else play(options)
    if options.picture:
        from chaos.soak.picture import save

        save(soaked, options.picture)
    problems = soaked.problems()
    sys.stdout.write(part(soaked) + "\n")
    sys.stdout.write("".join(f"WRONG: {problem}\n" for problem in problems) or "Nothing is wrong, and all is flat.\n")
    if options.write and problems:
        sys.stdout.write("Nothing is written into docs/chaos.md: only a run in which all was right is.\n")
    elif options.write:
        publish(soaked)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
