"""The users of `deploy/rabbitmq/definitions.json` on a real broker: each does its work, and nothing else."""

import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aiormq.exceptions import ChannelAccessRefused, ProbableAuthenticationError
from batches import host
from harness import until
from harness.events import ORGANIZATION, USER
from harness.worker import COMMAND, WorkerProcess
from usage_events import UsageEvent, UsagePublisher

from worker.demo import rabbitmq_server
from worker.demo.rabbitmq_server import RabbitServer
from worker.demo.servers import own_kind, start_rabbitmq

DEFINITIONS = Path(__file__).parents[2] / "deploy" / "rabbitmq" / "definitions.json"
PASSWORD = "throw-away"
PRODUCER, WORKER, OPERATOR = "usage_producer", "usage_worker", "usage_operator"

Attempt = Callable[[AbstractChannel], Awaitable[object]]


@pytest.fixture(scope="module")
def broker() -> Iterator[RabbitServer]:
    """A broker of this module's own, with the definitions and passwords."""
    with start_rabbitmq(own_kind(rabbitmq_server.IMAGE)) as started:
        started.manage("POST", "/api/definitions", json.loads(DEFINITIONS.read_text(encoding="utf-8")))
        yield started


@pytest.fixture(scope="module")
def users(broker: RabbitServer) -> Callable[[str], str]:
    """The broker's address for one of the users, once they have passwords."""
    definitions = json.loads(DEFINITIONS.read_text(encoding="utf-8"))
    for user in definitions["users"]:
        tags = ",".join(user["tags"])
        broker.manage("PUT", f"/api/users/{user['name']}", {"password": PASSWORD, "tags": tags})
    return lambda user: as_user(broker, user)


def as_user(broker: RabbitServer, user: str, password: str = PASSWORD) -> str:
    """The broker's address for a user."""
    parts = urlsplit(broker.amqp_url)
    return parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()


async def test_nobody_gets_in_without_a_password(broker: RabbitServer) -> None:
    """As imported, no user can log in; once there is a password he can, until the file is imported again."""
    name = "usage_newcomer"
    newcomer = json.loads(DEFINITIONS.read_text(encoding="utf-8"))["users"][0] | {"name": name}

    async def may_come(password: str) -> bool:
        try:
            async with await aio_pika.connect(as_user(broker, name, password)):
                return True
        except ProbableAuthenticationError:
            return False

    broker.manage("POST", "/api/definitions", {"users": [newcomer]})
    broker.manage("PUT", f"/api/permissions/%2F/{name}", {"configure": ".*", "write": ".*", "read": ".*"})
    assert not await may_come("")
    assert not await may_come(PASSWORD)
    broker.manage("PUT", f"/api/users/{name}", {"password": PASSWORD, "tags": ""})
    assert await may_come(PASSWORD)
    broker.manage("POST", "/api/definitions", {"users": [newcomer]})
    assert not await may_come(PASSWORD)


def consume(queue: str) -> Attempt:
    """Take messages."""
    return lambda channel: _consume(channel, queue)


async def _consume(channel: AbstractChannel, queue: str) -> None:
    found = await channel.get_queue(queue, ensure=False)
    await found.consume(_ignore, no_ack=True)


async def _ignore(_: AbstractIncomingMessage) -> None:
    """Take it, and do nothing with it."""


def publish(exchange: str, routing_key: str) -> Attempt:
    """Send a message."""
    return lambda channel: _publish(channel, exchange, routing_key)


async def _publish(channel: AbstractChannel, exchange: str, routing_key: str) -> None:
    target = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
    await target.publish(aio_pika.Message(b"{}"), routing_key)


async def _bind(channel: AbstractChannel) -> None:
    queue = await channel.get_queue("usage.events.dead", ensure=False)
    await queue.bind("usage", "usage.recorded.#")


async def _purge(channel: AbstractChannel) -> None:
    await (await channel.get_queue("usage.events", ensure=False)).purge()


ATTEMPTS: dict[str, Attempt] = {
    "consume events": consume("usage.events"),
    "consume what is dead": consume("usage.events.dead"),
    "empty the queue": _purge,
    "declare a queue": lambda channel: channel.declare_queue("mine"),
    "declare an exchange": lambda channel: channel.declare_exchange("mine"),
    "bind a queue": _bind,
    "delete the queue": lambda channel: channel.queue_delete("usage.events"),
    "delete the exchange": lambda channel: channel.exchange_delete("usage"),
    "publish events": publish("usage", "usage.recorded"),
    "publish under another key": publish("usage", "other.recorded"),
    "publish to the dead exchange": publish("usage.dead", "usage.events"),
    "publish to the queue directly": publish("", "usage.events"),
}
READS = {"consume events", "consume what is dead", "empty the queue"}
REFUSED = [(PRODUCER, attempt) for attempt in ATTEMPTS if attempt != "publish events"]
REFUSED += [(WORKER, attempt) for attempt in ATTEMPTS if attempt not in READS]
REFUSED += [(OPERATOR, attempt) for attempt in ATTEMPTS]


@pytest.mark.parametrize(("user", "attempt"), REFUSED)
async def test_what_a_user_must_not_do(users: Callable[[str], str], user: str, attempt: str) -> None:
    """The broker refuses it: 403, ACCESS_REFUSED."""
    connection = await aio_pika.connect(users(user))
    async with connection:
        channel = await connection.channel()
        with pytest.raises(ChannelAccessRefused):
            await ATTEMPTS[attempt](channel)


@pytest.fixture
async def worker(users: Callable[[str], str], migrated_dsn: str, tmp_path: Path) -> AsyncIterator[WorkerProcess]:
    """A worker that finds the topology, and is let in as usage_worker."""
    environment = {"USAGE_AMQP_URL": users(WORKER), "USAGE_POSTGRES_DSN": migrated_dsn, "USAGE_TOPOLOGY": "passive"}
    process = await WorkerProcess.start(environment, tmp_path / "worker.log")
    await until(process.is_ready, "the worker is ready", details=process.log_tail)
    yield process
    if process.status is None:
        await process.kill()


async def test_from_the_producer_to_the_table(
    users: Callable[[str], str], worker: WorkerProcess, migrated_dsn: str, tmp_path: Path
) -> None:
    """Confirmed, mandatory, under an organization's key, too; stored, acknowledged; what is dead becomes a letter."""
    async with host(migrated_dsn) as database:
        for by_organization in (False, True):
            async with UsagePublisher(users(PRODUCER), partition_by_organization=by_organization) as publisher:
                publisher.record(UsageEvent(user_id=USER, organization_id=ORGANIZATION, input_tokens=1))
                await publisher.flush(30)
        await until(lambda: counts(database, "ai_usage_logs", 2), "both are stored", details=worker.log_tail)
        assert await worker.stop() == 0
        # A consumer that gives up on a message: it goes to the dead queue without anybody's right to write.
        async with UsagePublisher(users(PRODUCER)) as publisher:
            publisher.record(UsageEvent(user_id=USER, organization_id=ORGANIZATION, input_tokens=2))
            await publisher.flush(30)
        connection = await aio_pika.connect(users(WORKER))
        async with connection:
            channel = await connection.channel()
            queue = await channel.get_queue("usage.events", ensure=False)
            message = await queue.get(timeout=30)
            await message.reject(requeue=False)
            dead = await channel.get_queue("usage.events.dead", ensure=False)
            await until(lambda: is_waiting(dead.name, channel), "it is dead-lettered")
        again = await WorkerProcess.start(
            {"USAGE_AMQP_URL": users(WORKER), "USAGE_POSTGRES_DSN": migrated_dsn, "USAGE_TOPOLOGY": "passive"},
            tmp_path / "again.log",
        )
        try:
            letters = "ai_usage_dead_letters WHERE reason = 'delivery_limit'"
            await until(lambda: counts(database, letters, 1), "it is a letter", details=again.log_tail)
            assert await again.stop() == 0
        finally:
            await again.kill()


async def counts(database: object, table: str, rows: int) -> bool:
    """Whether the table has so many rows."""
    return bool(await database.fetchval(f"SELECT count(*) = {rows} FROM {table}"))  # type: ignore[attr-defined]


async def is_waiting(queue: str, channel: AbstractChannel) -> bool:
    """Whether a message is ready."""
    found = await channel.declare_queue(queue, passive=True)
    return found.declaration_result.message_count == 1


@pytest.mark.parametrize("topology", ["passive", "declare"])
def test_check_as_the_worker(users: Callable[[str], str], migrated_dsn: str, topology: str) -> None:
    """All is well where others declare; a worker that is told to declare is told that it may not."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("USAGE_")}
    environment = {"USAGE_AMQP_URL": users(WORKER), "USAGE_POSTGRES_DSN": migrated_dsn, "USAGE_TOPOLOGY": topology}
    done = subprocess.run(
        [COMMAND, "check"], env=given | environment, capture_output=True, text=True, timeout=60, check=False
    )
    wrong = [line for line in done.stdout.splitlines() if line.startswith("--")]
    if topology == "passive":
        assert (done.returncode, wrong) == (0, [])
        assert "ok  RabbitMQ: queue usage.events: messages ready: " in done.stdout
    else:
        assert done.returncode == 1
        assert wrong
        assert all("set_permissions gives the right" in line for line in wrong)


def test_what_an_operator_sees(broker: RabbitServer, users: Callable[[str], str]) -> None:
    """The lengths of the queues, as a dashboard or a scaler reads them; no message, and nothing to be emptied."""
    url = urlsplit(users(OPERATOR))
    assert broker.management_url is not None
    address = urlsplit(broker.management_url)
    netloc = f"{url.username}:{url.password}@{address.netloc.rpartition('@')[2]}"
    seen = RabbitServer(broker.amqp_url, broker._host, management_url=address._replace(netloc=netloc).geturl())
    assert {queue["name"] for queue in seen.manage("GET", "/api/queues/%2F")} >= {"usage.events", "usage.events.dead"}
    get = {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}
    for method, path, body in (
        ("POST", "/api/queues/%2F/usage.events/get", get),
        ("DELETE", "/api/queues/%2F/usage.events/contents", None),
        ("DELETE", "/api/queues/%2F/usage.events", None),
    ):
        with pytest.raises(Exception, match=r"40[013]|ACCESS_REFUSED"):
            seen.manage(method, path, body)
