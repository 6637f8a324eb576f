"""Two databases, a worker for each: organizations are split by the broker, and a worker that dies loses nothing."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest
from harness import until
from harness.worker import WorkerProcess
from usage_events import UnconfirmedError, UsageEvent, UsagePublisher

from worker.demo.postgres_server import PostgresServer
from worker.demo.rabbitmq_server import IMAGE, RabbitServer
from worker.demo.servers import own_kind, start_rabbitmq

DEFINITIONS = Path(__file__).parents[2] / "deploy" / "split" / "definitions.json"
ORGANIZATIONS = [uuid4() for _ in range(40)]
USER = uuid4()
EVENTS_PER_ORGANIZATION = 50


@pytest.fixture(scope="module")
def broker() -> Iterator[RabbitServer]:
    """A broker that splits by organization."""
    with start_rabbitmq(own_kind(IMAGE), plugins=["rabbitmq_consistent_hash_exchange"]) as server:
        server.manage("POST", "/api/definitions", json.loads(DEFINITIONS.read_text()))
        yield server


@pytest.fixture
async def dsns(postgres_server: PostgresServer, migrated_template: str) -> AsyncIterator[list[str]]:
    """Two databases that know every user and organization."""
    names = [f"test_{uuid4().hex[:12]}" for _ in range(2)]
    found = [postgres_server.create_database(name, template=migrated_template) for name in names]
    for dsn in found:
        connection = await asyncpg.connect(dsn)
        await connection.execute("INSERT INTO users VALUES ($1)", USER)
        await connection.executemany("INSERT INTO organizations VALUES ($1)", [(one,) for one in ORGANIZATIONS])
        await connection.close()
    yield found
    for name in names:
        postgres_server.drop_database(name)


def _publisher(broker: RabbitServer, *, partition: bool = True) -> UsagePublisher:
    return UsagePublisher(broker.amqp_url, app_id="shop", partition_by_organization=partition)


async def _start(broker: RabbitServer, dsn: str, number: int, folder: Path) -> WorkerProcess:
    settings = {
        "USAGE_AMQP_URL": broker.amqp_url,
        "USAGE_POSTGRES_DSN": dsn,
        "USAGE_QUEUE": f"usage.events.{number}",
        "USAGE_TOPOLOGY": "passive",
        "USAGE_BATCH_MAX_EVENTS": "100",
    }
    worker = await WorkerProcess.start(settings, folder / f"worker-{number}-{uuid4().hex[:4]}.log")
    await until(worker.is_ready, "the worker is ready", details=worker.log_tail)
    return worker


def _record(publisher: UsagePublisher) -> Counter[UUID]:
    recorded: Counter[UUID] = Counter()
    for _ in range(EVENTS_PER_ORGANIZATION):
        for organization in ORGANIZATIONS:
            publisher.record(UsageEvent(user_id=USER, organization_id=organization, input_tokens=1, model="m"))
            recorded[organization] += 1
    return recorded


async def _stored(dsn: str) -> Counter[UUID]:
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch("SELECT organization_id, count(*) FROM ai_usage_logs GROUP BY 1")
    assert await connection.fetchval("SELECT count(*) FROM ai_usage_dead_letters") == 0
    await connection.close()
    return Counter({UUID(bytes=row[0].bytes): row[1] for row in rows})


async def test_each_organization_is_whole_in_one_database(
    broker: RabbitServer, dsns: list[str], tmp_path: Path
) -> None:
    """One of the two workers is killed under load: all is stored once, and no organization in two databases."""
    workers = [await _start(broker, dsn, number, tmp_path) for number, dsn in enumerate(dsns, 1)]
    recorded: Counter[UUID] = Counter()
    async with _publisher(broker) as publisher:
        recorded += _record(publisher)
        await publisher.flush()

        async def first_has_begun() -> bool:
            return (await _stored(dsns[0])).total() > 0

        await until(first_has_begun, "the first worker stores")
        await workers[0].kill()
        recorded += _record(publisher)
        await publisher.flush()
    workers[0] = await _start(broker, dsns[0], 1, tmp_path)

    async def all_stored() -> bool:
        return sum([(await _stored(dsn)).total() for dsn in dsns]) >= recorded.total()

    await until(all_stored, "everything is stored", details=lambda: "\n".join(w.log_tail() for w in workers))
    for worker in workers:
        await worker.stop()
    first, second = [await _stored(dsn) for dsn in dsns]
    assert first + second == recorded
    assert first.keys().isdisjoint(second.keys())
    assert first, "the hash leaves no database empty"
    assert second, "the hash leaves no database empty"


async def test_an_event_without_its_organization_in_the_key_comes_back(broker: RabbitServer) -> None:
    """A producer that does not partition would tear organizations apart: it is told, and nothing is stored."""
    publisher = _publisher(broker, partition=False)
    await publisher.start()
    publisher.record(UsageEvent(user_id=USER, organization_id=ORGANIZATIONS[0], input_tokens=1, model="m"))
    await until(lambda: publisher.books.returned > 0, "the producer is told")
    with pytest.raises(UnconfirmedError, match=r"no queue is bound that takes 'usage\.recorded'"):
        await publisher.close(timeout_seconds=0.1)
    assert publisher.books.confirmed == 0
    assert all(events == 0 for events in broker.list_queues().values())
