"""One run: chapters of batches of inputs, each checked in the decoder and, with a database, in the tables."""

import asyncio
import gc
import random
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any

from event_texts import NOW_TEXT
from usage_events.contract import MAX_AGE_SECONDS, MAX_AHEAD_SECONDS
from usage_events.rules import Window

from chaos.fuzz.check import Checked, WrongError, check, shown
from chaos.fuzz.database import Bench
from chaos.fuzz.inputs import Input, Setting, write
from chaos.fuzz.source import Source
from worker.batch import Batch
from worker.dead_letters.letters import letters_of_rejects

NOW = datetime.fromisoformat(NOW_TEXT)
NOW_US = round(NOW.timestamp()) * 1_000_000
WINDOW = Window.around(NOW_US, max_age_seconds=MAX_AGE_SECONDS, max_ahead_seconds=MAX_AHEAD_SECONDS)
YEAR_1000_US, YEAR_10000_US = -30_610_224_000_000_000, 253_402_500_000_000_000
ALL_TIMES = Window(YEAR_1000_US, YEAR_10000_US)  # as with a USAGE_MAX_AGE of a thousand years
CHAPTER_INPUTS = 9_000
HOST_CHAPTER_INPUTS = 600
PROGRESS_SECONDS = 10.0
_SIZES = (1, 20, 200, 1000, 1000, 2000)
_HOST_SIZES = (1, 7, 60)  # of a batch with rows that the host refuses each is looked for


class FoundError(Exception):
    """Something is wrong, and the inputs that show it stand in a file."""


@dataclass(slots=True, frozen=True)
class Options:
    """What is asked for. `dsn` is a migrated database; empty: the decoder alone."""

    seed: str
    inputs: int
    dsn: str = ""
    folder: Path = Path(".local/fuzz")
    is_quiet: bool = False


@dataclass(slots=True)
class Summary:
    """What a run has shown. `events` counts rejects too, a message that is refused whole as one."""

    inputs: int = 0
    events: int = 0
    stored: int = 0
    duplicates: int = 0
    letters: Counter[str] = field(default_factory=Counter)  # by reason; each delivery counts
    batches: int = 0
    shown: int = 0  # things that an input was the first to show (`check.shown`)
    seconds: float = 0.0

    def __add__(self, other: "Summary") -> "Summary":
        """Two processes' share of one run, at the same time."""
        return Summary(
            self.inputs + other.inputs,
            self.events + other.events,
            self.stored + other.stored,
            self.duplicates + other.duplicates,
            self.letters + other.letters,
            self.batches + other.batches,
            self.shown + other.shown,
            max(self.seconds, other.seconds),
        )

    def as_json(self) -> dict[str, Any]:
        """As the command prints it."""
        return {
            "inputs": self.inputs,
            "events": self.events,
            "rows": self.stored,
            "duplicates": self.duplicates,
            "letters": dict(self.letters.most_common()),
            "batches": self.batches,
            "shown": self.shown,
            "seconds": round(self.seconds, 1),
            "inputs_a_second": round(self.inputs / max(self.seconds, 1e-9)),
        }


class Run:
    """A share of a run: one process, one database.

    Args:
        options: what is asked for.
        bench: the database, or none.
    """

    def __init__(self, options: Options, bench: Bench | None, source: Source) -> None:
        self._options = options
        self._bench = bench
        self._source = source
        self._chance = random.Random(f"{options.seed} sizes")
        self._summary = Summary()
        self._begun_at = self._told_at = monotonic()

    async def play(self) -> Summary:
        """All of it.

        Raises:
            FoundError: a promise was not kept.
        """
        chapter = 0
        while self._summary.inputs < self._options.inputs:
            has_host_rules = self._bench is not None and chapter % 4 == 1
            window = ALL_TIMES if chapter % 5 == 2 else WINDOW
            await self._chapter(Setting(window, has_host_rules))
            chapter += 1
        self._summary.seconds = monotonic() - self._begun_at
        self._summary.shown = self._source.shown
        return self._summary

    async def _chapter(self, setting: Setting) -> None:
        if self._bench is not None:
            await self._bench.begin(has_host_rules=setting.has_host_rules)
        written: list[Input] = []
        left = HOST_CHAPTER_INPUTS if setting.has_host_rules else CHAPTER_INPUTS
        left = min(left, self._options.inputs - self._summary.inputs)
        while left > 0:
            size = min(left, self._chance.choice(_HOST_SIZES if setting.has_host_rules else _SIZES))
            left -= size
            batch = [self._source.next() for _ in range(size)]
            written += batch
            checked = self._check(setting, batch)
            await self._write(setting, batch, checked, written)
            self._tell()
        if self._bench is not None:
            try:
                await self._bench.check_all()
            except WrongError as error:
                raise self._found(error, setting, written) from error

    def _check(self, setting: Setting, batch: Sequence[Input]) -> list[Checked]:
        checked = []
        for tag, one in enumerate(batch, 1):
            try:
                checked.append(check(one, tag, setting.window))
            except WrongError as error:
                raise self._found(error, setting, [one]) from error
            self._source.tell(one, shown(checked[-1]))
        return checked

    async def _write(
        self, setting: Setting, batch: Sequence[Input], checked: Sequence[Checked], written: Sequence[Input]
    ) -> None:
        summary = self._summary
        summary.inputs += len(batch)
        summary.events += sum(one.entry.events for one in checked)
        summary.batches += 1
        if self._bench is None:
            rejects = Batch(0.0)
            for one in checked:
                rejects.add(one.entry)
            summary.stored += sum(len(one.entry.decoded.events) for one in checked)
            summary.letters.update(letter.reason.value for letter in letters_of_rejects(rejects))
            return
        try:
            outcome = await self._bench.play(checked)
        except WrongError as error:
            smallest = await smallest_that_fails(self._bench, setting, batch)
            raise self._found(error, setting, smallest or written) from error
        summary.stored += outcome.stored
        summary.duplicates += outcome.duplicates
        summary.letters.update({reason.value: count for reason, count in outcome.dead.items()})

    def _found(self, error: WrongError, setting: Setting, inputs: Sequence[Input]) -> FoundError:
        path = self._options.folder / f"wrong-{self._options.seed.replace('/', '-')}.jsonl"
        write(path, setting, inputs)
        command = f"PYTHONPATH=tests {shlex.quote(sys.executable)} -m chaos.fuzz --play {shlex.quote(str(path))}"
        return FoundError(f"{error}\n{len(inputs)} inputs that show it; play again: {command}")

    def _tell(self) -> None:
        now = monotonic()
        if now - self._told_at < PROGRESS_SECONDS or self._options.is_quiet:
            return
        self._told_at = now
        done = self._summary.inputs
        rate = done / (now - self._begun_at)
        sys.stderr.write(
            f"seed {self._options.seed}: {done:,} of {self._options.inputs:,} inputs, {rate:,.0f} a second\n"
        )


async def fuzz(options: Options) -> Summary:
    """A share of a run.

    Raises:
        FoundError: a promise was not kept.
    """
    source = Source(options.seed, NOW)
    if not options.dsn:
        return await Run(options, None, source).play()
    async with Bench(options.dsn, source.users, source.organizations) as bench:
        return await Run(options, bench, source).play()


def share(options: Options) -> Summary:
    """The same as a process's whole work."""
    gc.freeze()  # what is imported stays: not to be looked through again and again
    return asyncio.run(fuzz(options))


async def play_again(setting: Setting, inputs: Sequence[Input], dsn: str) -> None:
    """The inputs of a file, as one batch.

    Raises:
        WrongError: what they show.
    """
    checked = [check(one, tag, setting.window) for tag, one in enumerate(inputs, 1)]
    if dsn:
        source = Source("", NOW)
        async with Bench(dsn, source.users, source.organizations) as bench:
            await bench.begin(has_host_rules=setting.has_host_rules)
            await bench.play(checked)
            await bench.check_all()


async def smallest_that_fails(bench: Bench, setting: Setting, inputs: Sequence[Input]) -> list[Input]:
    """A half of a half … that still fails on empty tables; nothing where not even all do."""

    async def fails(some: Sequence[Input]) -> bool:
        await bench.begin(has_host_rules=setting.has_host_rules)
        try:
            await bench.play([check(one, tag, setting.window) for tag, one in enumerate(some, 1)])
        except WrongError:
            return True
        return False

    found = list(inputs)
    if not await fails(found):
        return []
    while len(found) > 1:
        middle = len(found) // 2
        for half in (found[:middle], found[middle:]):
            if await fails(half):
                found = half
                break
        else:
            break
    return found
