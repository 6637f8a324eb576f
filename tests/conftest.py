"""Fixtures: real servers for the session, a fresh database and names of its own for each test."""

from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass
from uuid import uuid4

import aio_pika
import asyncpg
import pytest

from worker.demo.servers import (
    Kind,
    PostgresServer,
    RabbitServer,
    choose,
    given,
    start_postgres,
    start_rabbitmq,
)
from worker.postgres.migrations import migrate
from worker.postgres.session import connect

SCHEMA = "public"


@dataclass(frozen=True)
class GivenPostgres:
    """A server that `USAGE_POSTGRES_DSN` names; tests make databases of their own in it."""

    dsn: str

    def dsn_of(self, database: str) -> str:
        """Another database of it."""
        return f"{self.dsn.rpartition('/')[0]}/{database}"


@dataclass(frozen=True)
class GivenRabbit:
    """A broker that `USAGE_AMQP_URL` names; tests make exchanges and queues of their own in it."""

    amqp_url: str


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


def own_kind() -> Kind:
    """What kind of server a test gets that may break it: never a given one."""
    kind = choose()
    return Kind.LOCAL if kind is Kind.GIVEN else kind


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer | GivenPostgres]:
    """A Postgres for the whole session; no test may break it."""
    dsn = given("postgres_dsn")
    if choose() is Kind.GIVEN and dsn is not None:
        yield GivenPostgres(dsn)
        return
    with closing(start_postgres(own_kind())) as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitServer | GivenRabbit]:
    """A RabbitMQ for the whole session; no test may break it."""
    amqp_url = given("amqp_url")
    if choose() is Kind.GIVEN and amqp_url is not None:
        yield GivenRabbit(amqp_url)
        return
    with closing(start_rabbitmq(own_kind())) as server:
        yield server


@pytest.fixture
def own_postgres_server() -> Iterator[PostgresServer]:
    """A Postgres of the test's own: it may stop, kill, freeze and restart it."""
    with closing(start_postgres(own_kind())) as server:
        yield server


@pytest.fixture
def own_rabbitmq_server() -> Iterator[RabbitServer]:
    """A RabbitMQ of the test's own: it may stop, kill, freeze and restart it."""
    with closing(start_rabbitmq(own_kind())) as server:
        yield server


@pytest.fixture(scope="session")
def amqp_url(rabbitmq_server: RabbitServer | GivenRabbit) -> str:
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


async def create_database(server: PostgresServer | GivenPostgres, template: str | None = None) -> str:
    """A new database, empty or a clone; its name."""
    name = f"test_{uuid4().hex[:12]}"
    connection = await asyncpg.connect(server.dsn)
    try:
        source = "template0" if template is None else f'"{template}"'
        await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE {source}')
    finally:
        await connection.close()
    return name


async def drop_database(server: PostgresServer | GivenPostgres, name: str) -> None:
    """Remove a database with whoever is still connected to it."""
    connection = await asyncpg.connect(server.dsn)
    try:
        await connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    finally:
        await connection.close()


@pytest.fixture
async def database_dsn(postgres_server: PostgresServer | GivenPostgres) -> AsyncIterator[str]:
    """A fresh, empty database."""
    name = await create_database(postgres_server)
    yield postgres_server.dsn_of(name)
    await drop_database(postgres_server, name)


@pytest.fixture(scope="session")
def _template() -> dict[str, str]:
    """The migrated database that others are cloned from, once there is one."""
    return {}


@pytest.fixture
async def migrated_dsn(
    postgres_server: PostgresServer | GivenPostgres, _template: dict[str, str]
) -> AsyncIterator[str]:
    """A database with the schema and nothing in it, cloned from one that was migrated once a session."""
    if not _template:
        template = await create_database(postgres_server)
        connection = await connect(postgres_server.dsn_of(template), SCHEMA, name="tests")
        await migrate(connection, SCHEMA)
        await connection.close()
        _template["name"] = template
    name = await create_database(postgres_server, _template["name"])
    yield postgres_server.dsn_of(name)
    await drop_database(postgres_server, name)
