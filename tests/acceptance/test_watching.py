"""What those see who watch a worker: metrics, logs, liveness and readiness."""

import asyncio
import json
import socket
from datetime import UTC, datetime

import pytest
from harness import System, event, message, raw
from prometheus_client.parser import text_string_to_metric_families

from worker.demo.hosts import free_ports
from worker.demo.postgres_server import PostgresServer

CANARY = "canary-7c1f"  # stands wherever a producer may write, and nowhere in a log

METRICS = {
    "usage_worker_events": "counter",
    "usage_worker_dead_letters": "counter",
    "usage_worker_batch_events": "histogram",
    "usage_worker_batches": "counter",
    "usage_worker_commit_seconds": "histogram",
    "usage_worker_event_age_seconds": "histogram",
    "usage_worker_held_events": "gauge",
    "usage_worker_redeliveries": "counter",
    "usage_worker_reconnects": "counter",
    "usage_worker_database_up": "gauge",
    "usage_worker_dead_letters_open": "gauge",
    "usage_worker_dead_letters_oldest_open_seconds": "gauge",
    "usage_worker_dead_letters_bytes": "gauge",
    "usage_worker_dead_letter_bodies_given_up": "counter",
    "usage_worker_newest_event_timestamp_seconds": "gauge",
    "usage_worker_give_backs": "counter",
    "usage_worker_writers": "gauge",
    "usage_worker_ready": "gauge",
    "usage_worker_tasks": "gauge",
    "usage_worker_database_clock_ahead_seconds": "gauge",
    "process_resident_memory_bytes": "gauge",
}


async def test_every_metric_has_its_name_and_counts(system: System) -> None:
    """The names that dashboards rest on are there, and they say what has happened."""
    worker = await system.start_worker()
    one, newest = event(), event()
    await system.publish(message(one), message(one), message(newest, event(input_tokens=-1)), raw(b"{"))

    async def all_counted() -> bool:
        return await worker.metric("events_total") == 5

    await system.until(all_counted, "five events are counted")
    _, text = await worker.get("/metrics")
    families = {family.name: family.type for family in text_string_to_metric_families(text)}
    assert METRICS.items() <= families.items()

    assert await worker.metric("events_total", outcome="stored") == 2
    assert await worker.metric("events_total", outcome="duplicate") == 1
    assert await worker.metric("events_total", outcome="dead") == 2
    assert await worker.metric("dead_letters_total", reason="invalid") == 1
    assert await worker.metric("dead_letters_total", reason="bad_json") == 1
    assert await worker.metric("batch_events_sum") == 5
    assert await worker.metric("batches_total") == await worker.metric("commit_seconds_count") > 0
    assert await worker.metric("event_age_seconds_sum") >= 60, "the events were made a minute ago"
    reaches_to = datetime.fromtimestamp(await worker.metric("newest_event_timestamp_seconds"), UTC)
    assert abs(reaches_to - datetime.fromisoformat(newest["created_at"])).total_seconds() < 0.001
    assert (await worker.metric("ready"), await worker.metric("writers")) == (1, 2)
    assert await worker.metric("held_events") == 0
    assert await worker.metric("database_up") == 1
    assert await worker.metric("tasks") > 5
    assert abs(await worker.metric("database_clock_ahead_seconds")) < 2, "both are on this machine"
    await system.settle()


async def test_no_text_of_an_event_reaches_the_log(system: System) -> None:
    """Stored or refused, at the most talkative level: the log says that it happened, not what was in it."""
    worker = await system.start_worker(USAGE_LOG_LEVEL="debug")
    written = event(request_metadata={CANARY: CANARY}, model=CANARY, endpoint=CANARY)
    await system.publish(
        message(written),
        message(written | {"model": f"other {CANARY}"}),
        message(event(model=[CANARY]), event(user_id=CANARY), event(**{CANARY: 1})),
        message(event(user_id="99999999-9999-4999-8999-999999999999", model=CANARY)),
        raw(CANARY.encode()),
        raw(json.dumps({"id": CANARY}).encode(), content_type=f"text/{CANARY}"),
    )

    async def all_counted() -> bool:
        return await worker.metric("events_total") == 8

    await system.until(all_counted, "eight events are counted")
    await system.settle()
    assert sum((await system.books()).letters.values()) == 7
    assert worker.has_logged("consuming")
    assert CANARY not in worker.log()


async def test_ready_only_while_the_database_is_up(system: System) -> None:
    """A worker without its database is alive, is not ready, says why, and takes nothing from the queue."""
    await system.publish(message(event()))
    (closed_port,) = free_ports(1)
    unreachable = f"postgresql://nobody@127.0.0.1:{closed_port}/nothing"
    worker = await system.start_worker(wait_ready=False, USAGE_POSTGRES_DSN=unreachable)
    await system.until(lambda: worker.has_logged("the database is away"), "the worker has tried")

    assert await worker.get("/livez") == (200, "ok\n")
    assert await worker.get("/readyz") == (503, "waiting for the database\n")
    assert await worker.metric("database_up") == await worker.metric("ready") == 0
    assert await system.ready_messages() == 1
    assert await worker.stop() == 0


@pytest.mark.slow  # an idle worker asks every quarter of a minute
async def test_an_idle_worker_notices_an_outage(
    system_with_own_postgres: System, own_postgres_server: PostgresServer
) -> None:
    """Nothing is published: without its database the worker is not ready, and with it ready again."""
    system = system_with_own_postgres
    worker = await system.start_worker()
    await asyncio.to_thread(own_postgres_server.stop)

    async def is_holding() -> bool:
        return await worker.get("/readyz") == (503, "the database is away: holding what is held\n")

    await system.until(is_holding, "the worker says that the database is away", seconds_max=90)
    assert await worker.metric("database_up") == await worker.metric("ready") == 0
    assert await worker.metric("give_backs_total") == 0
    await asyncio.to_thread(own_postgres_server.start)
    await system.until(worker.is_ready, "the worker is ready again", seconds_max=90)
    assert await worker.stop() == 0


async def test_ready_only_while_the_broker_is_up(system: System) -> None:
    """The same without the broker."""
    (closed_port,) = free_ports(1)
    unreachable = f"amqp://guest:guest@127.0.0.1:{closed_port}/"
    worker = await system.start_worker(wait_ready=False, USAGE_AMQP_URL=unreachable)

    async def is_connecting() -> bool:
        return await worker.get("/readyz") == (503, "connecting to the broker\n")

    await system.until(is_connecting, "the worker says that the broker is missing")
    assert await worker.get("/livez") == (200, "ok\n")
    assert await worker.metric("database_up") == 1
    assert await worker.stop() == 0


async def test_ready_while_consuming(system: System) -> None:
    """With both servers there, it is ready and alive."""
    worker = await system.start_worker()
    assert await worker.get("/readyz") == (200, "ok\n")
    assert await worker.get("/livez") == (200, "ok\n")
    assert await worker.stop() == 0


async def test_a_taken_port_is_named(system: System) -> None:
    """The exit status is 2, and the message names the port and what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        worker = await system.start_worker(wait_ready=False, USAGE_HTTP_PORT=port)
        assert await worker.wait() == 2
    assert f"USAGE_HTTP_PORT={port} cannot be listened on" in worker.log()
    assert "choose another port, or 0 for a free one" in worker.log()
