"""The throw-away servers do what the tests rely on: they keep data and port over a restart, freeze, and go away."""

import asyncio
import os
from pathlib import Path

import aio_pika
import asyncpg
import pytest

from worker.demo.postgres_server import PostgresServer
from worker.demo.rabbitmq_server import RabbitServer
from worker.demo.servers import Kind, chosen_kind
from worker.errors import ConfigurationError


async def test_postgres_keeps_its_data_and_port_over_a_crash(own_postgres_server: PostgresServer) -> None:
    """What was committed is there after an immediate stop, at the same address."""
    connection = await asyncpg.connect(own_postgres_server.dsn)
    await connection.execute("CREATE TABLE kept AS SELECT 1 AS number")
    own_postgres_server.restart("immediate")
    await connection.close()
    connection = await asyncpg.connect(own_postgres_server.dsn)
    assert await connection.fetchval("SELECT number FROM kept") == 1
    await connection.close()


async def test_a_frozen_postgres_answers_nothing_and_goes_on_when_thawed(own_postgres_server: PostgresServer) -> None:
    """A freeze keeps connections open without an answer."""
    connection = await asyncpg.connect(own_postgres_server.dsn)
    own_postgres_server.freeze()
    try:
        with pytest.raises(TimeoutError):
            await asyncpg.connect(own_postgres_server.dsn, timeout=0.5)
    finally:
        own_postgres_server.thaw()
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()


async def test_rabbitmq_keeps_its_queues_and_port_over_a_kill(own_rabbitmq_server: RabbitServer) -> None:
    """A confirmed message is there after a kill, at the same address.

    The queue is older than the broker's start: RabbitMQ itself forgets what a quorum queue holds when it is killed
    within the first seconds of the queue's life (seen with 3.10 and 4.3).
    """
    connection = await aio_pika.connect(own_rabbitmq_server.amqp_url)
    channel = await connection.channel()
    await channel.declare_queue("kept", durable=True, arguments={"x-queue-type": "quorum"})
    await connection.close()
    await asyncio.to_thread(own_rabbitmq_server.restart)
    connection = await aio_pika.connect(own_rabbitmq_server.amqp_url)
    channel = await connection.channel()
    await channel.default_exchange.publish(aio_pika.Message(b"still here", delivery_mode=2), routing_key="kept")
    await connection.close()
    await asyncio.to_thread(own_rabbitmq_server.kill)
    await asyncio.to_thread(own_rabbitmq_server.start)
    connection = await aio_pika.connect(own_rabbitmq_server.amqp_url)
    channel = await connection.channel()
    queue = await channel.get_queue("kept")
    async with asyncio.timeout(30), queue.iterator(no_ack=True) as messages:
        message = await anext(messages)
    assert message.body == b"still here"
    await connection.close()


def test_a_wrong_choice_of_servers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable, its value, and what can be chosen."""
    monkeypatch.setenv("USAGE_TEST_SERVERS", "cloud")
    with pytest.raises(ConfigurationError, match=r"USAGE_TEST_SERVERS='cloud': must be one of given, docker, local"):
        chosen_kind()


@pytest.mark.skipif(os.environ.get("USAGE_TEST_SERVERS") != Kind.LOCAL.value, reason="local processes only")
def test_a_closed_server_leaves_nothing_behind(own_postgres_server: PostgresServer) -> None:
    """Its folder and its processes are gone."""
    pid = own_postgres_server.pid
    assert Path(f"/proc/{pid}").exists()
    own_postgres_server.close()
    assert not Path(f"/proc/{pid}").exists()
