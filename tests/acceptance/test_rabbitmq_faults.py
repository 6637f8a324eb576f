"""RabbitMQ fails or is operated upon: the worker consumes again, each time with one consumer, and nothing is lost."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aio_pika
import asyncpg
import pytest
from delivery_paths import both_paths_at_length
from harness import System, WorkerProcess, event, message
from yarl import URL

from worker.errors import ConfigurationError

pytestmark = both_paths_at_length


@pytest.fixture
async def own_system(
    migrated_dsn: str, own_rabbitmq_server: Any, tmp_path: Path, delivery_path: str
) -> AsyncIterator[System]:
    """A system on a broker that the test may break."""
    amqp_url = own_rabbitmq_server.amqp_url
    names = {"exchange": "usage", "queue": "usage.events"}
    async with System(migrated_dsn, amqp_url, **names, folder=tmp_path, delivery_path=delivery_path) as opened:
        yield opened


class Operator:
    """What an operator of the broker sees and does; the workers log in as a user of their own."""

    def __init__(self, server: Any, system: System) -> None:
        self._server = server
        self._system = system
        self.user = f"{system.exchange}-worker"

    async def manage(self, method: str, path: str, body: object = None) -> Any:
        """Call the broker's management API; skips the test where there is none."""
        try:
            return await asyncio.to_thread(self._server.manage, method, path, body)
        except ConfigurationError as error:
            pytest.skip(str(error))

    async def add_user(self) -> None:
        """Add the workers' user."""
        await self.manage("PUT", f"/api/users/{self.user}", {"password": "secret", "tags": ""})
        permissions = {"configure": ".*", "write": ".*", "read": ".*"}
        await self.manage("PUT", f"/api/permissions/%2F/{self.user}", permissions)

    async def start_worker(self, **environment: Any) -> WorkerProcess:
        """Start a worker that logs in as this user."""
        amqp_url = str(URL(self._system.amqp_url).with_user(self.user).with_password("secret"))
        return await self._system.start_worker(USAGE_AMQP_URL=amqp_url, **environment)

    async def close_connections(self) -> None:
        """Close all connections of the workers."""
        await self.manage("DELETE", f"/api/connections/username/{self.user}")

    async def connections(self) -> int:
        """How many connections the workers have."""
        return len(await self.manage("GET", f"/api/connections/username/{self.user}"))

    async def consumers(self) -> int:
        """Consumers of the queue of events."""
        connection = await aio_pika.connect(self._system.amqp_url)
        async with connection, connection.channel() as channel:
            answer = await channel.declare_queue(self._system.queue, passive=True)
            return answer.declaration_result.consumer_count or 0

    async def until_consumed_by_one(self) -> None:
        """Until there is one consumer, and not two."""

        async def by_one() -> bool:
            return await self.consumers() == 1

        await self._system.until(by_one, "one consumer is there")


@pytest.fixture
async def operator(rabbitmq_server: Any, system: System) -> AsyncIterator[Operator]:
    """The operator of the session's broker."""
    made = Operator(rabbitmq_server, system)
    await made.add_user()
    yield made
    await made.manage("DELETE", f"/api/users/{made.user}")


async def publish(system: System, count: int) -> None:
    """So many good events, each a message."""
    await system.publish(*(message(event()) for _ in range(count)))


def losses(worker: WorkerProcess) -> list[str]:
    """Why the worker has lost the consumer of events, each time."""
    return [
        line["why"]
        for line in worker.log_lines()
        if line["event"] == "lost the broker" and not line["queue"].endswith(".dead")
    ]


async def until_lost(system: System, worker: WorkerProcess, times: int) -> None:
    """Until the worker has lost the broker so often."""
    await system.until(lambda: len(losses(worker)) >= times, "the worker has noticed")


async def check(system: System, events: int) -> None:
    """All is stored once, and nothing is refused."""
    await system.until_stored(events)
    await system.settle()
    found = await system.books()
    found.check()
    assert (len(found.stored), found.letters) == (events, {})


@pytest.mark.parametrize(
    "is_killed",
    [pytest.param(False, marks=pytest.mark.slow), True],  # the kill is the harder one
    ids=["restarted", "killed"],
)
async def test_broker_restarts_in_the_middle_of_a_batch(
    own_system: System, own_rabbitmq_server: Any, *, is_killed: bool
) -> None:
    """What was held comes again from the restarted broker, and is known by its ids."""
    if is_killed:  # within a queue's first seconds RabbitMQ itself forgets what is in it when it is killed
        await asyncio.to_thread(own_rabbitmq_server.restart)
    worker = await own_system.start_worker()
    blocker = await asyncpg.connect(own_system.dsn)
    await blocker.execute("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
    await publish(own_system, 300)
    await until_held(own_system, worker, 1)
    if is_killed:
        await asyncio.to_thread(own_rabbitmq_server.kill)
    else:
        await asyncio.to_thread(own_rabbitmq_server.stop)
    await blocker.execute("ROLLBACK")
    await blocker.close()
    await asyncio.to_thread(own_rabbitmq_server.start)
    await publish(own_system, 300)
    await check(own_system, 600)
    assert len(losses(worker)) == 1


async def until_held(system: System, worker: WorkerProcess, events: int) -> None:
    """Until the worker holds so many events, or more."""

    async def holds() -> bool:
        return await worker.metric("held_events") >= events

    await system.until(holds, f"{events} events are held")


async def test_broker_is_frozen_and_goes_on(own_system: System, own_rabbitmq_server: Any) -> None:
    """A broker that stands still for less than the heartbeats' patience costs nothing."""
    worker = await own_system.start_worker()
    await publish(own_system, 300)
    own_rabbitmq_server.freeze()
    try:
        assert (await worker.get("/livez"))[0] == 200
        publishing = asyncio.ensure_future(publish(own_system, 300))
        await asyncio.wait({publishing}, timeout=1)
        assert not publishing.done()
    finally:
        own_rabbitmq_server.thaw()
    await publishing
    await check(own_system, 600)


async def test_queue_deleted_under_its_consumer(system: System, operator: Operator) -> None:
    """The broker's cancel is noticed: the worker declares the queue again, and leaves no connection behind."""
    worker = await operator.start_worker()
    await publish(system, 100)
    await system.until_stored(100)
    for lost in range(1, 4):
        connection = await aio_pika.connect(system.amqp_url)
        async with connection, connection.channel() as channel:
            await channel.queue_delete(system.queue)
        await until_lost(system, worker, lost)
        await system.until(worker.is_ready, "the worker consumes again")
        assert await operator.consumers() == 1
    await publish(system, 100)
    await system.until_stored(200)
    assert losses(worker) == ["the broker cancelled the consumer"] * 3

    async def no_more_than_it_needs() -> bool:
        return await operator.connections() == 2  # one for events, one for the dead queue

    await system.until(no_more_than_it_needs, "the connections of cancelled consumers are closed")
    await check(system, 200)


async def test_connection_closed_by_an_operator_20_times(system: System, operator: Operator) -> None:
    """After each loss there is exactly one consumer again, and what comes is stored."""
    worker = await operator.start_worker()
    for turn in range(1, 21):
        await publish(system, 20)
        await operator.close_connections()
        await until_lost(system, worker, turn)
        await system.until_stored(20 * turn)
        await operator.until_consumed_by_one()
    await check(system, 400)
    assert len(losses(worker)) == 20
    assert all("CONNECTION_FORCED" in why for why in losses(worker))


async def test_deliveries_of_a_dead_channel_are_dropped(system: System, operator: Operator) -> None:
    """A batch that waits for a writer when its channel dies is not written, and no acknowledgement goes astray."""
    worker = await operator.start_worker(USAGE_WRITERS="1", USAGE_BATCH_MAX_EVENTS="10")
    await publish(system, 200)
    await system.until_stored(200)  # the prefetch has grown to two batches
    events = [event() for _ in range(100)]
    blocker = await asyncpg.connect(system.dsn)
    # Somebody else is storing the first event, so that a batch waits, and nothing else of the database does.
    await blocker.execute("BEGIN")
    await blocker.execute(
        "INSERT INTO ai_usage_logs (id, user_id, organization_id)"
        " SELECT $1, u.id, o.id FROM users u, organizations o LIMIT 1",
        events[0]["id"],
    )
    await system.publish(*(message(one) for one in events))
    await until_held(system, worker, 20)
    await operator.close_connections()
    await until_lost(system, worker, 1)
    await operator.until_consumed_by_one()
    await blocker.execute("ROLLBACK")
    await blocker.close()
    await system.until_stored(300)

    async def all_settled() -> bool:
        return await worker.metric("held_events") == 0

    await system.until(all_settled, "nothing is held")
    duplicates = await worker.metric("events_total", outcome="duplicate")
    assert duplicates <= 10  # the one batch that was being written; the other was dropped
    assert await worker.metric("redeliveries_total") >= 20
    await check(system, 300)
    (why,) = losses(worker)  # an acknowledgement on the wrong channel would have closed that one, too
    assert "CONNECTION_FORCED" in why
