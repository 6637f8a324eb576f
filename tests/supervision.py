"""Workers that are started again whenever they die, as a container's restart policy does."""

import asyncio
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aio_pika
import pytest
from harness import Message, System
from harness import worker as harness_worker

CRASHING_WORKER = Path(__file__).parent / "acceptance" / "crashing_worker.py"
MARK = b"kills its consumer"
KILLED = -9
DELIVERIES_MAX = 20 + 1  # of the delivery limit; the next one goes to the dead queue


def use_crashing_worker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that are started from now on die of a message with `MARK` in it."""
    use_worker(CRASHING_WORKER, folder, monkeypatch)


def use_worker(script: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that are started from now on run this script in the command's place."""
    command = folder / "usage-worker"
    command.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(script)])} "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    monkeypatch.setattr(harness_worker, "COMMAND", command)


def killer(number: int = 0) -> Message:
    """A message that kills its consumer."""
    body = MARK + str(number).encode()
    return Message(body, unreadable=(body,))


async def return_too_often(system: System, messages: int) -> None:
    """Reject messages until the broker hands them out no more."""
    connection = await aio_pika.connect(system.amqp_url)
    async with connection, connection.channel() as channel:
        queue = await channel.get_queue(system.queue)
        for _ in range(DELIVERIES_MAX * messages):
            delivered = await queue.get(timeout=10)
            await delivered.reject(requeue=True)
        assert await queue.get(fail=False) is None


@asynccontextmanager
async def supervised(system: System, workers: int = 1) -> AsyncIterator[None]:
    """So many workers, each started again when it was killed; they go on running behind the context."""
    done = asyncio.Event()

    async def keep_one() -> None:
        while not done.is_set():
            worker = await system.start_worker(wait_ready=False)
            ended = asyncio.ensure_future(worker.wait(seconds_max=600))
            told = asyncio.ensure_future(done.wait())
            await asyncio.wait({ended, told}, return_when=asyncio.FIRST_COMPLETED)
            told.cancel()
            if ended.done():
                assert ended.result() == KILLED, worker.log_tail()
            else:
                ended.cancel()

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(keep_one())
        yield
        done.set()
    for worker in [worker for worker in system.workers if worker.status is None]:
        await system.until(worker.is_ready, "the last ones are up")  # before that they do not know a signal
