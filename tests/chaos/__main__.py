"""`make chaos`: plays faults, alone and several at once; a line of JSON a run, and the table for docs/chaos.md.

CHAOS_SEED, which each run prints, plays a run again: with `--fault NAME`, or with `--runs 0 --mixes 1`.
"""

import argparse
import asyncio
import math
import random
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic

import chaos.faults  # noqa: F401 - fills the registry
from chaos.arrangement import Arrangement
from chaos.registry import FAULTS, Fault, NotHereError
from chaos.report import how_played, read, table, write
from chaos.run import Outcome, mix, play, seed_of_run
from chaos.servers import chaos_servers
from chaos.stage import Servers


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--fault", action="append", choices=FAULTS, metavar="NAME", help="may be repeated; else each")
    parser.add_argument("--list", action="store_true", help="print the names of the faults, and play none")
    parser.add_argument("--runs", type=int, default=1, help="of each fault (1)")
    parser.add_argument("--mixes", type=int, default=0, help="runs with two or three faults at once (0)")
    parser.add_argument(
        "--minutes", type=float, help="begin no run after so many, and take them in an order that chance draws"
    )
    parser.add_argument("--json", type=Path, help="add a line for each run to this file")
    parser.add_argument(
        "--write", action="store_true", help="write the tables of this file into README.md and docs/chaos.md"
    )
    options = parser.parse_args(arguments)
    if not (options.json or options.list):
        parser.error("--json is missing: the file that a line for each run is added to")
    return options


def runs(options: argparse.Namespace) -> Iterator[tuple[int, list[Fault]]]:
    """The seeds, and what is played with each."""
    chosen = options.fault or list(FAULTS)
    for name in chosen:
        for _ in range(options.runs):
            yield seed_of_run(), [FAULTS[name]]
    for _ in range(options.mixes):
        seed = seed_of_run()
        yield seed, mix(FAULTS, seed)


def play_all(options: argparse.Namespace) -> bool:
    """Play them by the servers that they take, each kind of servers for its share of the time; whether all is right."""
    chosen = list(runs(options))
    if not chosen:
        sys.stderr.write("nothing is asked for: --runs and --mixes are 0\n")
        return False
    if options.minutes:
        random.SystemRandom().shuffle(chosen)
    begun_at, seen, kept = monotonic(), 0, True
    for arrangement in Arrangement:
        theirs = [(seed, faults) for seed, faults in chosen if faults[0].arrangement is arrangement]
        if not theirs:
            continue
        seen += len(theirs)
        until = begun_at + 60 * options.minutes * seen / len(chosen) if options.minutes else math.inf
        try:
            with chaos_servers(arrangement) as servers:
                kept = play_on(servers, theirs, options.json, until) and kept
        except NotHereError as error:
            sys.stderr.write(f"faults of the arrangement {arrangement} are left out: {error}\n")
    return kept


def play_on(servers: Servers, chosen: Sequence[tuple[int, list[Fault]]], results: Path, until: float) -> bool:
    """Play them one after another, each to its end, and begin none after `until`; whether every promise was kept."""
    kept = True
    for number, (seed, faults) in enumerate(chosen):
        if monotonic() > until:
            sys.stderr.write(f"{len(chosen) - number} of {len(chosen)} runs are left out for time\n")
            break
        names = ", ".join(fault.name for fault in faults)
        sys.stderr.write(f"CHAOS_SEED={seed} {names}: ")
        sys.stderr.flush()
        try:
            outcome = asyncio.run(play(servers, faults, seed))
        except NotHereError as error:
            sys.stderr.write(f"left out, {error}\n")
            continue
        except Exception as error:  # noqa: BLE001 - whatever went wrong in one run is told, and the next is played
            traceback.print_exc()
            outcome = Outcome.failed(faults, seed, f"{type(error).__name__}: {error}")
        with results.open("a", encoding="utf-8") as file:
            file.write(f"{outcome.line()}\n")
        sys.stderr.write(f"{'right' if outcome.is_right else f'WRONG {outcome.line()}'}\n")
        kept = kept and outcome.is_right
    return kept


def main(arguments: Sequence[str] | None = None) -> int:
    """Start servers, play, report; the exit status."""
    options = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or workers would outlive it
    if options.list:
        sys.stdout.write("".join(f"{fault.name}: {fault.what}\n" for fault in FAULTS.values()))
        return 0
    options.json.parent.mkdir(parents=True, exist_ok=True)
    kept = play_all(options)
    outcomes = read(options.json) if options.json.exists() else []
    sys.stdout.write(f"{table(outcomes, FAULTS)}\n{how_played(outcomes, FAULTS)}\n")
    if options.write:
        write(outcomes, FAULTS)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
