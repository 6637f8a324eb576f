"""Restarts while the database is down: an orchestrator restarts workers for hours, and no message pays for it."""

import asyncio

import pytest
from delivery_paths import both_paths
from harness import System, WorkerProcess, event, message

from worker.demo.hosts import free_ports

RESTARTS = 25
AT_ONCE = 5


@pytest.mark.slow
@pytest.mark.timeout(400)  # 25 starts
@both_paths
async def test_25_restarts_without_a_database_spend_no_delivery(system: System) -> None:
    """21 returns make a dead letter; after 25 restarts the messages come for the first time."""
    await system.publish(*(message(event()) for _ in range(50)))
    (closed_port,) = free_ports(1)
    unreachable = f"postgresql://nobody@127.0.0.1:{closed_port}/nothing"
    for start in range(0, RESTARTS, AT_ONCE):
        workers = [await system.start_worker(wait_ready=False, USAGE_POSTGRES_DSN=unreachable) for _ in range(AT_ONCE)]
        await asyncio.gather(*(_end(system, worker, by_kill=bool(start % 2)) for worker in workers))
    assert len(system.workers) == RESTARTS
    assert await system.ready_messages() == 50

    successor = await system.start_worker()
    await system.until_stored(50)
    assert await successor.metric("redeliveries_total") == 0
    await system.settle()
    books = await system.books()
    books.check()
    assert books.letters == {}


async def _end(system: System, worker: WorkerProcess, *, by_kill: bool) -> None:
    await system.until(lambda: worker.has_logged("the database is away"), "the worker has tried")
    if by_kill:
        await worker.kill()
    else:
        assert await worker.stop() == 0, worker.log_tail()
