"""Stopping: clean where the servers let it, at once where they do not, and nothing is lost either way."""

import asyncio
from signal import SIGINT, SIGTERM, Signals

import pytest
from harness import System, WorkerProcess, event, message

from worker.demo.postgres_server import PostgresServer

A_MINUTE = "60"


async def start_with_half_full_batch(system: System, shutdown_timeout: str = A_MINUTE) -> WorkerProcess:
    """A worker that holds 100 events, which nothing but a signal will close within the test."""
    worker = await system.start_worker(USAGE_BATCH_MAX_AGE=A_MINUTE, USAGE_SHUTDOWN_TIMEOUT=shutdown_timeout)
    await system.publish(message(event()))  # alone within the first prefetch, which closes its batch
    await system.until_stored(1)
    await system.publish(message(*(event() for _ in range(100))))
    await until_held(system, worker, 100)
    return worker


async def until_held(system: System, worker: WorkerProcess, events: int) -> None:
    """Wait until the worker holds so many events."""

    async def holds() -> bool:
        return await worker.metric("held_events") == events

    await system.until(holds, f"{events} events are held")


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
async def test_a_signal_stores_and_acknowledges_what_is_held(system: System, number: Signals) -> None:
    """A half-full batch is written, though it is not due; the exit status is 0 and the queue is empty."""
    worker = await start_with_half_full_batch(system)
    assert await system.stored() == 1
    assert await worker.stop(number) == 0, worker.log_tail()

    assert await system.stored() == 101
    assert await system.ready_messages() == 0
    (await system.books()).check()


async def test_a_signal_in_the_middle_of_a_backlog_leaves_the_rest_to_others(system: System) -> None:
    """What was not held stays in the queue as it was: no other worker sees a redelivery."""
    events = [event() for _ in range(3000)]
    await system.publish(*(message(one) for one in events))
    worker = await system.start_worker(USAGE_BATCH_MAX_EVENTS="100")
    await system.until_stored(100)
    assert await worker.stop() == 0, worker.log_tail()
    left = await system.ready_messages()
    assert left == 3000 - await system.stored()

    successor = await system.start_worker()
    await system.until_stored(3000)
    assert await successor.metric("redeliveries_total") == 0
    await system.settle()
    (await system.books()).check()


@pytest.mark.parametrize("seconds_until_signal", [0.0, 0.05, 0.1])
async def test_a_signal_while_starting_ends_a_worker(system: System, seconds_until_signal: float) -> None:
    """Whatever it was doing, a worker that has begun to listen stops with status 0 and loses nothing."""
    await system.publish(message(event()))
    worker = await system.start_worker(wait_ready=False)
    await worker.url()
    await asyncio.sleep(seconds_until_signal)  # the instant is what the test is about
    assert await worker.stop() == 0, worker.log_tail()

    await system.start_worker()
    await system.until_stored(1)
    await system.settle()
    (await system.books()).check()


@pytest.mark.parametrize("way", ["deadline", "second signal"])
async def test_with_a_frozen_database_what_is_held_goes_back(
    system_with_own_postgres: System, own_postgres_server: PostgresServer, way: str
) -> None:
    """Nothing can be stored, so the worker exits 1 and the queue has its message again, for the next worker."""
    system = system_with_own_postgres
    worker = await start_with_half_full_batch(system, "1" if way == "deadline" else A_MINUTE)
    await asyncio.to_thread(own_postgres_server.freeze)
    try:
        worker.send_signal(SIGTERM)
        if way == "second signal":
            await system.until(lambda: worker.has_logged("stopping"), "the worker stops")
            worker.send_signal(SIGTERM)
        assert await worker.wait() == 1, worker.log_tail()
        assert await system.ready_messages() == 1
    finally:
        await asyncio.to_thread(own_postgres_server.thaw)

    await system.start_worker()
    await system.until_stored(101)
    await system.settle()
    books = await system.books()
    books.check()
    assert books.letters == {}


async def test_stopping_while_the_database_is_away_and_nothing_is_held_is_clean(
    system_with_own_postgres: System, own_postgres_server: PostgresServer
) -> None:
    """A worker with empty hands needs no database to stop: exit 0, within the deadline."""
    system = system_with_own_postgres
    worker = await system.start_worker()
    await asyncio.to_thread(own_postgres_server.freeze)
    try:
        assert await worker.stop() == 0, worker.log_tail()
    finally:
        await asyncio.to_thread(own_postgres_server.thaw)
