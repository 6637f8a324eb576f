"""Workers die, stand still, stop and become more and fewer."""

import asyncio
import random
import signal
from typing import Any

import aiohttp
from harness import WorkerProcess

from chaos import dying_worker
from chaos.fleet import RESTART_SECONDS, NotFeltError
from chaos.registry import fault
from chaos.stage import Stage
from chaos.waiting_writers import writers_wait

KILLS = 15
PAUSE_SECONDS_MAX = 0.6
POINT_SECONDS = 6.0
STOPS_MAX, DEATHS = 12, 3
# 1: what was held at its deadline went back; -SIGTERM: it had not begun, or had ended with another SIGTERM on its way.
STOPPED = frozenset({0, 1, -signal.SIGKILL, -signal.SIGTERM})


@fault("worker killed at random")
async def kill_at_random(stage: Stage, chance: random.Random) -> None:
    """SIGKILL to workers at 15 random instants."""
    for _ in range(KILLS):
        await asyncio.sleep(chance.uniform(0, PAUSE_SECONDS_MAX))
        await (await stage.fleet.pick(chance)).kill()


@fault("worker stopped under load", exits=STOPPED)
async def stop_under_load(stage: Stage, chance: random.Random) -> None:
    """SIGTERM to workers at random instants while messages come; others are started in their place."""
    for _ in range(5):
        await asyncio.sleep(chance.uniform(0, PAUSE_SECONDS_MAX))
        worker = await stage.fleet.pick(chance)
        assert await worker.stop() in (0, 1, -signal.SIGTERM)  # by the signal where it had not begun


@fault("worker told to stop twice", exits=STOPPED)
async def stop_twice(stage: Stage, chance: random.Random) -> None:
    """A second SIGTERM at a random instant after the first: what is held goes back at once."""
    for _ in range(5):
        await asyncio.sleep(chance.uniform(0, PAUSE_SECONDS_MAX))
        worker = await stage.fleet.pick(chance)
        worker.send_signal(signal.SIGTERM)
        await asyncio.sleep(chance.uniform(0, 0.1))
        await worker.stop()


@fault("worker frozen and continued")
async def freeze(stage: Stage, chance: random.Random) -> None:
    """SIGSTOP to one worker for some seconds, three times, at random instants."""
    for _ in range(3):
        await asyncio.sleep(chance.uniform(0, PAUSE_SECONDS_MAX))
        worker = await stage.fleet.pick(chance)
        worker.send_signal(signal.SIGSTOP)
        await asyncio.sleep(chance.uniform(0.5, 3))
        if worker.status is None:
            worker.send_signal(signal.SIGCONT)


@fault("worker frozen longer than its broker waits", recovery_seconds_max=60)
async def freeze_for_long(stage: Stage, chance: random.Random) -> None:
    """SIGSTOP to one worker until the broker has given its deliveries to the other, then SIGCONT."""
    worker = await stage.fleet.pick(chance)
    others = [other for other in stage.fleet.running if other is not worker]
    before = [await _metric(other, "redeliveries_total") for other in others]
    await _until_it_holds(stage, worker)
    said = len(_lost(stage, worker))
    worker.send_signal(signal.SIGSTOP)
    try:
        await stage.workers_to_rabbitmq.cut()  # the broker's side ends now instead of after its heartbeats
        await stage.until_more_are_stored(300)
        if others and [await _metric(other, "redeliveries_total") for other in others] == before:
            raise NotFeltError("nothing came again")
    finally:
        if worker.status is None:
            worker.send_signal(signal.SIGCONT)
    await stage.until_felt(lambda: any(_lost(stage, worker)[said:]), "the worker learns that it has lost what it held")


async def _until_it_holds(stage: Stage, worker: WorkerProcess) -> None:
    async def holds() -> bool:
        return await _metric(worker, "held_events") > 0

    await stage.until_felt(holds, "the worker holds something")


async def _metric(worker: WorkerProcess, name: str) -> float:
    """0 where it has just ended of something else."""
    try:
        return await worker.metric(name)
    except (OSError, aiohttp.ClientError, AssertionError):
        return 0.0


def _lost(stage: Stage, worker: WorkerProcess) -> list[int]:
    """How many messages it held each time that it lost the queue's channel."""
    return [
        int(line["held"])
        for line in worker.log_lines()
        if line["event"] == "lost the broker" and line["queue"] == stage.settings.queue
    ]


@fault("from 1 worker to 8 and back", workers=1, recovery_seconds_max=60)
async def scale(stage: Stage, chance: random.Random) -> None:
    """Seven workers are started under load, and stopped by SIGTERM again; three times."""
    for _ in range(3):
        await stage.fleet.scale(8)
        await stage.fleet.until_up()
        await asyncio.sleep(chance.uniform(0, 3))
        await stage.fleet.scale(1)


async def _die_at(stage: Stage, chance: random.Random, point: str, passes_max: int) -> None:
    """For some seconds every worker kills itself at this point, each after another number of passes."""
    seed = str(chance.getrandbits(32))
    stage.fleet.use("chaos.dying_worker", CHAOS_POINT=point, CHAOS_PASSES=str(passes_max), CHAOS_POINT_SEED=seed)
    await stage.fleet.replace()
    await asyncio.sleep(RESTART_SECONDS / 2)  # these deaths are noted now, and nobody has been started again
    before = stage.fleet.exits[-signal.SIGKILL]
    await asyncio.sleep(POINT_SECONDS)
    deaths = stage.fleet.exits[-signal.SIGKILL] - before
    stage.fleet.use()
    await stage.fleet.replace()
    assert deaths, f"no worker has come to the point {point} in {POINT_SECONDS:g} s"


def _register(point: str, what: str, passes_max: int, **options: Any) -> None:
    async def act(stage: Stage, chance: random.Random) -> None:
        await _die_at(stage, chance, point, passes_max)

    act.__doc__, act.__module__ = what, __name__
    fault(f"worker killed {point.replace('_', ' ')}", mixes=False, **options)(act)


# How often a worker may pass each point before it dies there: those that a worker comes to only in its first seconds
# have a small number.
_PASSES = {
    "after_copy_before_commit": 20,
    "after_commit_before_ack": 20,
    "between_the_writers_commits": 2,
    "after_ack": 20,
    "while_the_prefetch_changes": 3,
    "in_the_decoder": 200,
}
# So that several transactions are open at once.
_MANY_WRITERS = {"environment": {"USAGE_WRITERS": "4", "USAGE_BATCH_MAX_EVENTS": "10"}}
for _point, _passes_max in _PASSES.items():
    _register(
        _point,
        (dying_worker.POINTS[_point].__doc__ or "").partition("\n")[0],
        _passes_max,
        **(_MANY_WRITERS if _point == "between_the_writers_commits" else {}),
    )


@fault("worker killed during the flush of a stop", mixes=False)
async def die_in_flush(stage: Stage, chance: random.Random) -> None:
    """SIGTERM has come, what was held is being stored: SIGKILL after the first commit of that."""
    await _die_in_a_stop(stage, chance, "during_the_flush_of_a_stop", signals=1)


@fault("worker killed before giving back", mixes=False, exits=STOPPED)
async def die_before_giving_back(stage: Stage, chance: random.Random) -> None:
    """A second SIGTERM has come and what is held is about to go back: SIGKILL."""
    await _die_in_a_stop(stage, chance, "before_giving_back", signals=2)


async def _die_in_a_stop(stage: Stage, chance: random.Random, point: str, *, signals: int) -> None:
    """Stop workers that hold something, as no writer gets on, until some have come to the point."""
    stage.fleet.use("chaos.dying_worker", CHAOS_POINT=point, CHAOS_PASSES="0")
    await stage.fleet.replace()
    deaths = 0
    for _ in range(STOPS_MAX):
        await stage.fleet.until_up()
        await asyncio.sleep(chance.uniform(0.1, PAUSE_SECONDS_MAX))
        async with writers_wait(stage):
            worker = await stage.fleet.pick(chance)
            await _until_it_holds(stage, worker)
            for _ in range(signals):
                worker.send_signal(signal.SIGTERM)
            if signals > 1:
                await worker.wait()
        deaths += await worker.wait() == -signal.SIGKILL
        if deaths == DEATHS:
            break
    stage.fleet.use()
    await stage.fleet.replace()
    assert deaths, f"none of {STOPS_MAX} workers that were stopped has come to the point {point}"
