"""When events flow again after something was mended: from every producer, through every worker, as many as before."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import aiohttp
from harness import WorkerProcess
from harness.waiting import until

from chaos.ledger import LedgerFile
from chaos.producer import Message

if TYPE_CHECKING:
    from chaos.stage import Stage

WINDOW_SECONDS = 2.0
SHARE_MIN = 0.6  # of the rows a second of before: without one of two producers it is 0.5
POLL_SECONDS = 0.2
AGAIN_SECONDS = 1.0
_SILENT = (OSError, TimeoutError, aiohttp.ClientError, AssertionError)  # a worker that stands still or has ended


async def rows_per_second(stage: "Stage") -> float:
    """How many rows are stored, over some seconds."""
    begun_at, before = monotonic(), await stage.stored()
    await asyncio.sleep(WINDOW_SECONDS)
    return (await stage.stored() - before) / (monotonic() - begun_at)


async def seconds_until_flowing(stage: "Stage", seconds_max: float, *, each_worker: bool = True) -> float:
    """From now until events flow from every producer through every worker, as many as before.

    An event of the observer's, published behind all others, is stored; each producer has a confirmation of what left it
    after now; each worker has written again; and so many rows come as before, where that was measured.

    Raises:
        TimeoutError: it does not; says which.
    """
    begun_at = monotonic()
    offsets = {path: path.stat().st_size for path in stage.producers_ledgers}
    waits: dict[str, Awaitable[float]] = {"an event is stored": _observed(stage, seconds_max)}
    waits |= {
        f"{path.stem} publishes": _when(partial(_has_confirmed, path, offset), seconds_max)
        for path, offset in offsets.items()
    }
    if each_worker:
        waits["each worker writes"] = _each_worker(stage)
    if stage.usual_rows_per_second:
        waits["rows come as before"] = _rate(stage, SHARE_MIN * stage.usual_rows_per_second)
    tasks = {what: asyncio.ensure_future(waiting) for what, waiting in waits.items()}
    try:
        _, late = await asyncio.wait(tasks.values(), timeout=seconds_max, return_when=asyncio.FIRST_EXCEPTION)
        held_at = [task.result() for task in tasks.values() if task.done()]
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.wait(tasks.values())
    if late:
        vain = [what for what, task in tasks.items() if task in late]
        raise TimeoutError(f"waited {seconds_max:g} s in vain until {', '.join(vain)}\n{stage.details()}")
    return max(held_at) - begun_at


async def _when(condition: Callable[[], bool | Awaitable[bool]], seconds_max: float) -> float:
    """The moment since which it holds."""
    await until(condition, "it does", seconds_max=seconds_max)
    return monotonic()


async def _observed(stage: "Stage", seconds_max: float) -> float:
    """When an event of the observer's own is stored."""
    message: Message = stage.new_message()
    with LedgerFile(stage.new_ledger(f"observer-{len(stage.ledgers)}")) as ledger:
        ledger.sent(message.lines)
        await stage.publish(message.body, seconds_max)
        ledger.confirmed(message.lines)
    (line,) = message.lines
    stored = "SELECT EXISTS (SELECT FROM ai_usage_logs WHERE id = $1)"
    return await _when(lambda: stage.value(stored, line.key), seconds_max)


async def _rate(stage: "Stage", wanted: float) -> float:
    """Since when so many rows a second are stored, over some seconds."""
    seen: list[tuple[float, int]] = []
    while True:
        seen.append((monotonic(), await stage.stored()))
        now, rows = seen[-1]
        while len(seen) > 1 and seen[1][0] <= now - WINDOW_SECONDS:
            del seen[0]
        since, before = seen[0]
        if now - since >= WINDOW_SECONDS and rows - before >= wanted * (now - since):
            return since
        await asyncio.sleep(POLL_SECONDS)


def _has_confirmed(ledger: Path, offset: int) -> bool:
    """Whether something that was sent behind this place of the file was confirmed."""
    sent = set()
    with ledger.open("rb") as file:
        file.seek(offset)
        for line in file:
            word, key, *_ = line.split()
            if word == b"sent":
                sent.add(key)
            elif key in sent:
                return True
    return False


@dataclass(slots=True)
class Growth:
    """Whether a count grows: twice, some time apart, for what was under way before still comes once."""

    count: float
    since: float | None = None

    def look(self, count: float, now: float) -> bool:
        """Take a reading; whether it has grown twice by now. `since` is when it did first."""
        if count <= self.count:
            return False
        if self.since is None:
            self.count, self.since = count, now
        return count > self.count and now >= self.since + AGAIN_SECONDS


async def _each_worker(stage: "Stage") -> float:
    """Since when each that runs writes."""
    seen: dict[int, Growth] = {}
    while True:
        workers = stage.fleet.running
        if workers and all([await _writes(worker, seen) for worker in workers]):
            return max(seen[worker.pid].since or 0.0 for worker in workers)
        await asyncio.sleep(POLL_SECONDS)


async def _writes(worker: WorkerProcess, seen: dict[int, Growth]) -> bool:
    try:
        async with asyncio.timeout(10 * POLL_SECONDS):
            events = await worker.metric("events_total")
    except _SILENT:
        return False
    return seen.setdefault(worker.pid, Growth(events)).look(events, monotonic())
