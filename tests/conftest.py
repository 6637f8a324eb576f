"""Fixtures: real servers for the session, a fresh database and names of its own for each test."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from uuid import uuid4

import aio_pika
import pytest

from worker.demo import postgres_server as postgres_server_module
from worker.demo import rabbitmq_server as rabbitmq_server_module
from worker.demo.postgres_server import PostgresServer
from worker.demo.rabbitmq_server import RabbitServer
from worker.demo.servers import own_kind, start_postgres, start_rabbitmq
from worker.postgres.migrations import migrate
from worker.postgres.session import connect

SCHEMA = "public"

# A shell starts what it runs in the background with SIGINT ignored, and so would be whatever a test means to interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Names:
    """The exchange and the queue of one test."""

    exchange: str
    queue: str

    @property
    def dead_exchange(self) -> str:
        """What the queue dead-letters to."""
        return f"{self.exchange}.dead"

    @property
    def dead_queue(self) -> str:
        """Where what was handed out too often goes."""
        return f"{self.queue}.dead"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A Postgres for the whole session; no test may break it."""
    with start_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitServer]:
    """A RabbitMQ for the whole session; no test may break it."""
    with start_rabbitmq() as server:
        yield server


@pytest.fixture
def own_postgres_server() -> Iterator[PostgresServer]:
    """A Postgres of the test's own: it may stop, kill, freeze and restart it."""
    with start_postgres(own_kind(postgres_server_module.IMAGE)) as server:
        yield server


@pytest.fixture
def own_rabbitmq_server() -> Iterator[RabbitServer]:
    """A RabbitMQ of the test's own: it may stop, kill, freeze and restart it."""
    with start_rabbitmq(own_kind(rabbitmq_server_module.IMAGE)) as server:
        yield server


@pytest.fixture(scope="session")
def amqp_url(rabbitmq_server: RabbitServer) -> str:
    """The session's broker."""
    return rabbitmq_server.amqp_url


@pytest.fixture
async def names(amqp_url: str) -> AsyncIterator[Names]:
    """An exchange's and a queue's name that no other test has; what came to be under them is deleted at the end."""
    unique = uuid4().hex[:12]
    found = Names(f"test-{unique}", f"test-{unique}.events")
    yield found
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        channel = await connection.channel()
        for queue in (found.queue, found.dead_queue):
            await channel.queue_delete(queue)
        for exchange in (found.exchange, found.dead_exchange):
            await channel.exchange_delete(exchange)


@pytest.fixture
def database_dsn(postgres_server: PostgresServer) -> Iterator[str]:
    """A fresh, empty database."""
    name = f"test_{uuid4().hex[:12]}"
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


async def _migrate(dsn: str) -> None:
    connection = await connect(dsn, SCHEMA, name="tests")
    await migrate(connection, SCHEMA)
    await connection.close()


@pytest.fixture(scope="session")
def migrated_template(postgres_server: PostgresServer) -> Iterator[str]:
    """A migrated database that others are cloned from."""
    name = f"template_{uuid4().hex[:12]}"
    asyncio.run(_migrate(postgres_server.create_database(name)))
    yield name
    postgres_server.drop_database(name)


@pytest.fixture
def migrated_dsn(postgres_server: PostgresServer, migrated_template: str) -> Iterator[str]:
    """A database with the schema and nothing in it."""
    name = f"test_{uuid4().hex[:12]}"
    yield postgres_server.create_database(name, template=migrated_template)
    postgres_server.drop_database(name)
