"""Clocks of workers and producers are wrong, and jump.

A worker's is put forward and back by libfaketime: its wall clock alone, as a time service does; no machine's monotonic
clock ever jumps.
"""

import asyncio
import random
from glob import glob
from pathlib import Path
from typing import Any

from harness import WorkerProcess
from harness.waiting import until

from chaos.load import Load
from chaos.registry import NotHereError, fault
from chaos.stage import Stage

LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/*/faketime/libfaketimeMT.so.1")
HOUR_SECONDS = 3600
DAY_SECONDS = 86_400
# An event of now would be `in_future` by a clock that is an hour late, and `too_old` by one that is 40 days early.
JUMPS_SECONDS = (HOUR_SECONDS, -HOUR_SECONDS, 40 * DAY_SECONDS, -40 * DAY_SECONDS)
NOTICED_SECONDS_MAX = 60.0  # a worker looks at the database's clock every 15 s
APART_SECONDS_MAX = 60.0
ROWS = 300


class FakeTime:
    """The workers' wall clock, once they are started with `environment`."""

    def __init__(self, folder: Path) -> None:
        libraries = [found for pattern in LIBRARIES for found in glob(pattern)]  # noqa: PTH207 - from the root
        if not libraries:
            raise NotHereError("there is no libfaketime: apt-get install libfaketime")
        self._file = folder / "faketime"
        self.ahead_seconds = 0
        self.jump(0)
        self.environment = {
            "LD_PRELOAD": libraries[0],
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",  # it is looked at every second
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def jump(self, ahead_seconds: int) -> None:
        """From the next second on it is ahead so much, or behind."""
        self.ahead_seconds = ahead_seconds
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead_seconds:+d}\n", encoding="ascii")
        new.replace(self._file)

    async def until_noticed(self, stage: Stage) -> None:
        """Until each worker knows how far the database's clock is from its own."""

        async def knows(worker: WorkerProcess) -> bool:
            ahead_seconds = await worker.metric("database_clock_ahead_seconds")
            return abs(ahead_seconds + self.ahead_seconds) < APART_SECONDS_MAX

        async def all_know() -> bool:
            return all([await knows(worker) for worker in stage.fleet.running])

        what = f"each worker knows that its clock is {self.ahead_seconds:+d} s ahead"
        await until(all_know, what, seconds_max=NOTICED_SECONDS_MAX, details=stage.details)


@fault("worker's clock jumps", mixes=False)
async def jump(stage: Stage, _: random.Random) -> None:
    """While events flow it is an hour ahead, an hour behind, 40 days ahead and 40 days behind, in turn."""
    time = FakeTime(stage.folder)
    stage.fleet.use(None, **time.environment)
    await _restart(stage)
    for ahead_seconds in JUMPS_SECONDS:
        time.jump(ahead_seconds)
        await stage.until_more_are_stored(ROWS)
        await time.until_noticed(stage)
        await stage.until_more_are_stored(ROWS)
    time.jump(0)
    await time.until_noticed(stage)


@fault("worker's clock wrong from its start", mixes=False)
async def wrong_from_the_start(stage: Stage, chance: random.Random) -> None:
    """Workers are started on a machine that is an hour or 40 days early or late, until somebody sets its clock."""
    time = FakeTime(stage.folder)
    time.jump(chance.choice(JUMPS_SECONDS))
    stage.fleet.use(None, **time.environment)
    await _restart(stage)
    await stage.until_more_are_stored(ROWS)
    await time.until_noticed(stage)
    time.jump(0)
    await stage.until_more_are_stored(ROWS)
    await time.until_noticed(stage)


# One within what is accepted, and one beyond: USAGE_MAX_AHEAD is 300 s.
_PRODUCERS: dict[str, Any] = {"load": Load(ahead_seconds=(240, HOUR_SECONDS)), "mixes": False}


@fault("producers' clocks ahead", **_PRODUCERS)
async def producers(stage: Stage, chance: random.Random) -> None:
    """One by 4 minutes: its events are stored; one by an hour: they are refused. A worker is killed meanwhile."""

    async def refused() -> int:
        return int(await stage.value("SELECT count(*) FROM ai_usage_dead_letters WHERE reason = 'in_future'"))

    before = await refused()
    await asyncio.sleep(chance.uniform(0.5, 2))
    await (await stage.fleet.pick(chance)).kill()

    async def more() -> bool:
        return await refused() >= before + ROWS

    await until(more, f"{ROWS} more events are refused as in_future", seconds_max=60.0, details=stage.details)
    await stage.until_more_are_stored(ROWS)


async def _restart(stage: Stage) -> None:
    await stage.fleet.replace()
    await stage.fleet.until_up()
