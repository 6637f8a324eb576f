"""`make bench-dead-letters`: what operators wait for with a million dead letters, and what those cost the good events.

Each command runs as a process of its own, from its start to its end, as an operator sees it.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import NamedTuple

import asyncpg
from rich.console import Console

from benchmarks.bench import Bench, open_bench
from benchmarks.letter_filling import fill_letters, fill_rows
from benchmarks.machine import describe_machine
from benchmarks.servers import bench_servers
from benchmarks.sheet import Sheet
from benchmarks.sizes import FULL

QUESTION = "dead letters"
LETTERS = 1_000_000
CLEAN_EVENTS = 150_000
KIB = 1024
MEMORY_LOOK_SECONDS = 0.05
LOOKS = (
    ("summary", ["summary"]),
    ("list --limit 50", ["list", "--limit", "50"]),
    ("list of a producer", ["list", "--producer", "service-3", "--limit", "50"]),
    ("list of a reason, two days", ["list", "--reason", "invalid", "--since", "2d", "--limit", "50"]),
)


class Run(NamedTuple):
    """A command that has ended: seconds, peak memory, standard output."""

    seconds: float
    peak_memory_bytes: int
    output: str


def run(dsn: str, *arguments: str, statuses: tuple[int, ...] = (0,)) -> Run:
    """Run `usage-worker`.

    Raises:
        RuntimeError: it ended with another status.
    """
    begun_at = perf_counter()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("USAGE_")}
    process = subprocess.Popen(
        [Path(sys.executable).with_name("usage-worker"), *arguments],
        env=environment | {"USAGE_POSTGRES_DSN": dsn},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    with ThreadPoolExecutor(1) as pool:
        peak = pool.submit(_peak_memory_bytes, process)
        output = process.communicate()[0].decode()
        seconds = perf_counter() - begun_at
        if process.returncode not in statuses:
            raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}: {output[-1000:]}")
        return Run(seconds, peak.result(), output)


def _peak_memory_bytes(process: "subprocess.Popen[bytes]") -> int:
    """Its peak until it ends. What `wait4` tells is no less than this process had when it forked."""
    peak_kib = 0
    while process.returncode is None:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            peak_kib = int((status.partition("VmHWM:")[2].split() or [str(peak_kib)])[0])
        sleep(MEMORY_LOOK_SECONDS)
    return peak_kib * KIB


class LetterBench:
    """One run.

    Args:
        bench: the ground.
        letters: how many.
        rounds: of each look.
    """

    def __init__(self, bench: Bench, letters: int, rounds: int) -> None:
        self._bench = bench
        self._letters = letters
        self._rounds = rounds
        self._dsn = bench.place.dsn
        self._connection: asyncpg.Connection = bench.database.connection

    async def measure(self) -> None:
        """All questions; the table is empty at first, then full."""
        await self._look([("--help", ["--help"]), ("list of an empty table", ["list"])])
        await self._clean_events(0)
        await fill_letters(self._connection, self._bench.people, self._letters)
        await self._look(LOOKS)
        await self._clean_events(self._letters)
        await self._replay()
        await self._find()

    async def _look(self, commands: Sequence[tuple[str, list[str]]]) -> None:
        for _ in range(self._rounds):
            for name, arguments in commands:
                done = await asyncio.to_thread(run, self._dsn, "dead-letters", *arguments)
                self._note(name, seconds=done.seconds)

    async def _clean_events(self, letters: int) -> None:
        """The worker's own rate, with so many letters in the table."""
        for _ in range(min(3, self._rounds)):
            await self._connection.execute("TRUNCATE ai_usage_logs")
            # The bench expects as many letters as there are.
            workload = replace(self._bench.make(CLEAN_EVENTS), refused=letters)
            figures = await self._bench.drain(workload, keeps_rows=True)
            self._note(f"worker, {letters:,} letters in the table", events_per_second=figures["events_per_second"])

    async def _replay(self) -> None:
        for letters in (self._letters // 100, self._letters // 10):
            arguments = ["replay", "--reason", "unknown_user", "--max", str(letters), "--yes", "--json"]
            # Those whose users are nobody's are refused again: status 3.
            done = await asyncio.to_thread(run, self._dsn, "dead-letters", *arguments, statuses=(0, 3))
            totals = json.loads(done.output.splitlines()[-1])
            if totals["carried"] != letters:
                raise RuntimeError(f"{letters} letters were to be carried: {totals}")
            self._note(
                f"replay of {letters:,}",
                seconds=done.seconds,
                letters_per_second=letters / done.seconds,
                recovered=totals["recovered"],
                peak_memory_mib=done.peak_memory_bytes / KIB**2,
            )

    async def _find(self) -> None:
        """The books of a ledger: nine tenths stored, a tenth with letters."""
        await self._connection.execute("TRUNCATE ai_usage_logs")
        await fill_rows(self._connection, self._bench.people, self._letters * 9 // 10)
        ids = await self._connection.fetch(
            "SELECT id FROM ai_usage_logs UNION ALL (SELECT event_id FROM ai_usage_dead_letters"
            " WHERE event_id IS NOT NULL LIMIT $1)",
            self._letters // 10,
        )
        with TemporaryDirectory() as folder:
            path = Path(folder) / "ledger.txt"
            await asyncio.to_thread(path.write_text, "".join(f"{row['id']}\n" for row in ids), "ascii")
            for _ in range(min(3, self._rounds)):
                done = await asyncio.to_thread(run, self._dsn, "find", "--ids-from", str(path), "--json")
                books = json.loads(done.output.splitlines()[0])
                if books["missing"] or books["distinct"] != len(ids):
                    raise RuntimeError(f"the books of {len(ids)} ids do not balance: {books}")
                self._note(f"find of {len(ids):,} ids", seconds=done.seconds)
                self._note(f"COPY of {len(ids):,} ids", seconds=await self._copy(path))

    async def _copy(self, path: Path) -> float:
        await self._connection.execute("CREATE TEMPORARY TABLE copied (id uuid NOT NULL)")
        begun_at = perf_counter()
        await self._connection.copy_to_table("copied", source=path, format="text")
        seconds = perf_counter() - begun_at
        await self._connection.execute("DROP TABLE copied")
        return seconds

    def _note(self, name: str, **figures: float) -> None:
        self._bench.note(QUESTION, name, **figures)


def lines(sheet: Sheet) -> list[str]:
    """The figures as a Markdown table: medians, and in brackets the least and the most."""
    found = ["| what | figure | median | least | most |", "| --- | --- | ---: | ---: | ---: |"]
    for line in sheet.of(QUESTION):
        for name, values in line.figures.items():
            shown = [f"{value:,.4g}" for value in (statistics.median(values), min(values), max(values))]
            found.append(f"| {line.contender} | {name} | {' | '.join(shown)} |")
    return found


async def measure(sheet: Sheet, letters: int, rounds: int, console: Console) -> None:
    """Start servers, fill the table, measure."""
    with bench_servers() as given:
        async with open_bench(given, FULL, sheet, console) as bench:
            await LetterBench(bench, letters, rounds).measure()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="make bench-dead-letters", description=__doc__)
    parser.add_argument("--letters", type=int, default=LETTERS, help="in the table; at least 1000")
    parser.add_argument("--rounds", type=int, default=7, help="of each command that only reads")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args(arguments)
    sheet = Sheet(describe_machine())
    asyncio.run(measure(sheet, options.letters, options.rounds, Console(stderr=True)))
    sys.stdout.write("\n".join(lines(sheet)) + "\n")
    if options.json is not None:
        sheet.write(options.json)


if __name__ == "__main__":
    main()
