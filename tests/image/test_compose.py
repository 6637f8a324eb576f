"""docker-compose.yml: it comes up, scales under load, keeps its secrets to itself, and loses nothing."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from uuid import uuid4

import aio_pika
import asyncpg
import pytest
from engine import ROOT, Stack, why_no_engine
from harness import System, event, message, until

from worker.demo import postgres_server, rabbitmq_server

COME_UP_SECONDS_MAX = 180.0
MESSAGES = 50  # published at once
EVENTS_A_MESSAGE = 20


def free_ports(number: int) -> list[str]:
    """Ports of this machine that nobody has at the moment, all of them different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [str(one.getsockname()[1]) for one in sockets]


@pytest.fixture
def stack(image: str, tmp_path: Path) -> Iterator[Stack]:
    """A project of its own, with secrets of its own, on ports of its own; nothing of it is left."""
    if (reason := why_no_engine(postgres_server.IMAGE, rabbitmq_server.IMAGE)) is not None:
        pytest.skip(reason)
    rabbitmq, management, postgres = free_ports(3)
    opened = Stack(
        f"usage-test-{uuid4().hex[:8]}",
        tmp_path / "secrets",
        USAGE_IMAGE=image,
        USAGE_RABBITMQ_PORT=rabbitmq,
        USAGE_RABBITMQ_MANAGEMENT_PORT=management,
        USAGE_POSTGRES_PORT=postgres,
    )
    yield opened
    opened.compose("down", "--volumes", "--timeout", "5")


@pytest.fixture
async def system(stack: Stack, tmp_path: Path) -> AsyncIterator[System]:
    """What is published to the project, and what it has stored."""
    await asyncio.to_thread(stack.compose, "up", "--detach", "--no-build")
    async with System(
        stack.url("owner-dsn"), stack.url("amqp-url"), exchange="usage", queue="usage.events", folder=tmp_path
    ) as opened:
        yield opened


async def consumers(stack: Stack) -> int:
    """How many workers take events from the queue."""
    connection = await aio_pika.connect(stack.url("amqp-url"))
    async with connection, connection.channel() as channel:
        queue = await channel.declare_queue("usage.events", passive=True)
        return queue.declaration_result.consumer_count or 0


async def publish_until(done: asyncio.Event, system: System) -> int:
    """Publish without a pause, each message confirmed; how many events these were."""
    for number in count(1):
        await system.publish(*(message(*(event() for _ in range(EVENTS_A_MESSAGE))) for _ in range(MESSAGES)))
        if done.is_set():
            return number * MESSAGES * EVENTS_A_MESSAGE
    raise AssertionError


async def scale(stack: Stack, workers: int) -> None:
    """As an operator does; returns when all of them consume and no other does."""
    await asyncio.to_thread(
        stack.compose, "up", "--detach", "--no-build", "--no-recreate", "--scale", f"worker={workers}"
    )

    async def all_consume() -> bool:
        return await consumers(stack) == workers

    await until(
        all_consume,
        f"{workers} workers consume",
        seconds_max=COME_UP_SECONDS_MAX,
        details=lambda: stack.compose("logs"),
    )


async def test_it_scales_under_load_and_loses_nothing(stack: Stack, system: System) -> None:
    """One worker becomes four and one again while events come: each is stored once, and every worker ends cleanly."""
    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        publishing = group.create_task(publish_until(done, system))
        for workers in (1, 4, 1):
            await scale(stack, workers)
            await system.until_stored(await system.stored() + 1)
        done.set()
    await system.until_stored(publishing.result(), seconds_max=COME_UP_SECONDS_MAX)
    assert await system.stored() == publishing.result()
    (await system.books()).check()

    await asyncio.to_thread(stack.compose, "stop", "worker")
    assert stack.exit_statuses("worker") == [0]


def test_the_number_of_workers_can_be_written_down(stack: Stack) -> None:
    """Otherwise the next `up` without `--scale`, such as an upgrade, would leave one."""
    assert stack.config()["services"]["worker"]["deploy"]["replicas"] == 1
    assert stack.config(USAGE_WORKERS="4")["services"]["worker"]["deploy"]["replicas"] == 4


async def test_the_worker_has_least_rights_and_shows_no_secret(stack: Stack, system: System) -> None:
    """It logs in as its own role, `check` is content, and the engine shows no password of any container."""
    await scale(stack, 1)
    who = await system.database.fetchval(
        "SELECT string_agg(DISTINCT usename, ',') FROM pg_stat_activity WHERE application_name LIKE 'usage-worker%'"
        " AND usename <> 'usage'"
    )
    assert who == "usage_worker"
    said = await asyncio.to_thread(stack.compose, "exec", "-T", "worker", "usage-worker", "check")
    assert "!!" not in said
    worker = await asyncpg.connect(stack.url("worker-dsn"))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await worker.execute("DELETE FROM ai_usage_logs")
    await worker.close()
    shown = "".join(stack.inspected(service) for service in ("rabbitmq", "postgres", "migrate", "worker"))
    passwords = [path.read_text().strip() for path in stack.secrets.glob("*-password")]
    assert len(set(passwords)) == 4
    assert not any(password in shown for password in passwords)


def test_monitoring_is_valid(stack: Stack) -> None:
    """The engine's own reading of the file, with Prometheus and Grafana, whose images are not tried here."""
    services = stack.config()["services"]
    assert services.keys() >= {"prometheus", "grafana"}
    mounted = [volume["source"] for volume in services["prometheus"]["volumes"]]
    assert str(ROOT / "deploy" / "prometheus") in mounted
