"""The workers are short of memory while they work: an allocation fails, or the kernel kills them."""

import random
import resource
import signal
from collections.abc import Callable
from typing import Any

import psutil  # type: ignore[import-untyped] # ships no types
from harness.waiting import until

from chaos.cgroup import MemoryGroup
from chaos.load import Load
from chaos.registry import fault
from chaos.stage import Stage

# Beyond what a worker has when it begins to consume: a message of 1 MB takes more, also where nothing waits behind it.
ADDRESSES_BYTES = 2 * 2**20
GROUP_BYTES = 2 * 2**20  # of all workers together
DEATHS = 3
DEATHS_SECONDS_MAX = 120.0
LARGE: dict[str, Any] = {
    "load": Load(padding_bytes=15_000, sizes=((1, 60),), rate=300),
    "environment": {"USAGE_HELD_BYTES_MAX": str(8 * 2**20)},
    "mixes": False,
    "recovery_seconds_max": 60.0,
}
NO_MEMORY = "MemoryError"
ENDED = frozenset({0, 1, -signal.SIGKILL})  # 1: by that error


@fault("worker's memory limited", **LARGE, may_end_with=NO_MEMORY, exits=ENDED)
async def addresses(stage: Stage, _: random.Random) -> None:
    """Messages of 1 MB beside RLIMIT_AS: a worker that finds no memory ends, and is started again."""

    def limit(pid: int) -> None:
        limit_bytes = psutil.Process(pid).memory_info().vms + ADDRESSES_BYTES
        resource.prlimit(pid, resource.RLIMIT_AS, (limit_bytes, limit_bytes))

    await _until_some_have_ended(stage, limit, lambda: sum(NO_MEMORY in log for log in stage.fleet.logs()))


@fault("worker's memory limited by its container", **LARGE)
async def group(stage: Stage, _: random.Random) -> None:
    """The same in a cgroup, as a container is: the kernel kills a worker that takes more."""
    async with MemoryGroup.make(GROUP_BYTES) as limited:
        await _until_some_have_ended(stage, limited.add, limited.kills)


async def _until_some_have_ended(stage: Stage, limit: Callable[[int], None], ended: Callable[[], int]) -> None:
    """Limit each worker once it consumes, and those that are started in their place, until enough have ended of it."""
    limited: set[int] = set()

    async def enough() -> bool:
        for worker in stage.fleet.running:
            if worker.pid not in limited and worker.has_logged("consuming"):
                limited.add(worker.pid)
                limit(worker.pid)
        return ended() >= DEATHS

    what = f"{DEATHS} workers have ended for want of memory"
    try:
        await until(enough, what, seconds_max=DEATHS_SECONDS_MAX, details=stage.details)
    finally:
        await stage.fleet.replace()
