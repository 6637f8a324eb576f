"""The throw-away servers do what the tests rely on: they keep data and port over a restart, freeze, and go away."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import psutil  # type: ignore[import-untyped] # ships no types
import pytest

from worker.demo import postgres_server
from worker.demo import rabbitmq_server as rabbitmq_server_module
from worker.demo.postgres_server import PostgresServer, local_postgres
from worker.demo.rabbitmq_server import RabbitServer, local_rabbitmq
from worker.demo.servers import Kind, chosen_kind, own_kind, start_postgres, start_rabbitmq, why_no_container
from worker.errors import ConfigurationError

CLEANED_SECONDS_MAX = 30.0
NOWHERE = "unix:///nonexistent/docker.sock"

# Starts a server, tells its address, and lives until it is killed or interrupted.
HOLDER = """
import signal, sys
from worker.demo import servers
with getattr(servers, sys.argv[1])(servers.Kind(sys.argv[2])) as server:
    print(getattr(server, sys.argv[3]), flush=True)
    signal.pause()
"""


async def test_postgres_keeps_its_data_and_port_over_a_crash(own_postgres_server: PostgresServer) -> None:
    """What was committed is there after an immediate stop and after a kill, at the same address."""
    connection = await asyncpg.connect(own_postgres_server.dsn)
    await connection.execute("CREATE TABLE kept AS SELECT 1 AS number")
    await asyncio.to_thread(own_postgres_server.restart, "immediate")
    await connection.close()
    await asyncio.to_thread(own_postgres_server.kill)
    with pytest.raises(OSError, match=r"."):
        await asyncpg.connect(own_postgres_server.dsn)
    await asyncio.to_thread(own_postgres_server.start)
    connection = await asyncpg.connect(own_postgres_server.dsn)
    assert await connection.fetchval("SELECT number FROM kept") == 1
    await connection.close()


async def test_a_frozen_postgres_answers_nothing_and_goes_on_when_thawed(own_postgres_server: PostgresServer) -> None:
    """A freeze keeps connections open without an answer, new ones and those with a process of their own alike."""
    connection = await asyncpg.connect(own_postgres_server.dsn)
    await asyncio.to_thread(own_postgres_server.freeze)
    try:
        with pytest.raises(TimeoutError):
            await asyncpg.connect(own_postgres_server.dsn, timeout=0.5)
        answer = asyncio.create_task(connection.fetchval("SELECT 1"))
        assert not (await asyncio.wait({answer}, timeout=0.5))[0]
    finally:
        await asyncio.to_thread(own_postgres_server.thaw)
    assert await answer == 1
    await connection.close()


@pytest.mark.slow  # every test that kills a broker rests on it, and fails with it
async def test_rabbitmq_keeps_its_queues_and_port_over_a_kill(own_rabbitmq_server: RabbitServer) -> None:
    """A confirmed message is there after a kill, at the same address.

    The queue is older than the broker's start: RabbitMQ itself forgets what a quorum queue holds when it is killed
    within the first second of the queue's life (seen with 3.10 and 4.3).
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
    assert "kept" in await asyncio.to_thread(own_rabbitmq_server.list_queues)
    connection = await aio_pika.connect(own_rabbitmq_server.amqp_url)
    channel = await connection.channel()
    queue = await channel.get_queue("kept")
    async with asyncio.timeout(30), queue.iterator(no_ack=True) as messages:
        message = await anext(messages)
    assert message.body == b"still here"
    await connection.close()


def test_a_frozen_rabbitmq_answers_nothing_and_harms_no_other(
    rabbitmq_server: RabbitServer, own_rabbitmq_server: RabbitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brokers stand side by side: while one is frozen, the other greets; thawed, it greets again."""
    monkeypatch.setattr(rabbitmq_server_module, "CONNECT_SECONDS_MAX", 0.5)
    own_rabbitmq_server.freeze()
    try:
        with pytest.raises(TimeoutError):
            _ = own_rabbitmq_server.version
        assert rabbitmq_server.version
    finally:
        own_rabbitmq_server.thaw()
    monkeypatch.undo()
    own_rabbitmq_server.wait_until_ready()


def test_a_closed_server_leaves_nothing_behind(own_postgres_server: PostgresServer) -> None:
    """Nobody listens any more, its process is gone, and closing it again does no harm."""
    pid, dsn = own_postgres_server.pid, own_postgres_server.dsn
    assert Path(f"/proc/{pid}").exists() or sys.platform != "linux"
    own_postgres_server.close()
    assert not Path(f"/proc/{pid}").exists()
    assert not _is_open(dsn)
    own_postgres_server.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for temporary files that the servers' users can reach, unlike pytest's own."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize(
    ("starter", "address", "number"),
    [
        ("start_postgres", "dsn", signal.SIGTERM),
        ("start_postgres", "dsn", signal.SIGINT),
        ("start_postgres", "dsn", signal.SIGKILL),
        ("start_rabbitmq", "amqp_url", signal.SIGKILL),
    ],
)
def test_a_server_ends_with_whoever_started_it(
    folder: Path, starter: str, address: str, number: signal.Signals
) -> None:
    """However its starter ends, nobody listens afterwards, and neither processes nor files are left."""
    kind = own_kind(postgres_server.IMAGE if starter == "start_postgres" else rabbitmq_server_module.IMAGE)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, starter, kind, address],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"TMPDIR": str(folder)},
    )
    with holder:
        assert holder.stdout is not None
        url = holder.stdout.readline().strip()
        assert _is_open(url)
        holder.send_signal(number)
    deadline = time.monotonic() + CLEANED_SECONDS_MAX
    while left := _left_behind(url, folder):
        assert time.monotonic() < deadline, f"left behind after {CLEANED_SECONDS_MAX:g} s: {left}"
        time.sleep(0.05)


def _left_behind(url: str, folder: Path) -> list[str]:
    files = [str(path) for path in folder.iterdir()]
    processes = [str(one.info) for one in psutil.process_iter(["cwd", "cmdline"]) if str(folder) in str(one.info)]
    return [*files, *processes, *([url] if _is_open(url) else [])]


def _is_open(url: str) -> bool:
    parts = urlsplit(url)
    with socket.socket() as tried:
        return tried.connect_ex((parts.hostname or "", parts.port or 0)) == 0


def test_a_given_server_is_used_and_never_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment gives is taken as it is; to stop it is refused, and the message says what to do."""
    monkeypatch.delenv("USAGE_TEST_SERVERS", raising=False)
    monkeypatch.setenv("USAGE_AMQP_URL", "amqp://somebody@broker.invalid/")
    monkeypatch.setenv("USAGE_POSTGRES_DSN", "postgresql://somebody@database.invalid/usage")
    with start_rabbitmq() as broker, start_postgres() as database:
        assert broker.amqp_url == "amqp://somebody@broker.invalid/"
        assert database.dsn == "postgresql://somebody@database.invalid/usage"
        with pytest.raises(ConfigurationError, match=r"USAGE_AMQP_URL was given .*: unset it"):
            broker.kill()
        with pytest.raises(ConfigurationError, match=r"USAGE_POSTGRES_DSN was given .*: unset it"):
            database.restart()


def test_a_server_that_should_be_given_and_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The missing variable is named."""
    monkeypatch.setenv("USAGE_TEST_SERVERS", "given")
    monkeypatch.delenv("USAGE_AMQP_URL", raising=False)
    monkeypatch.delenv("USAGE_AMQP_URL_FILE", raising=False)
    with pytest.raises(
        ConfigurationError, match=r"^USAGE_AMQP_URL is not set, and USAGE_TEST_SERVERS=given .*: set it"
    ):
        start_rabbitmq()


def test_a_wrong_choice_of_servers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable, its value, and what can be chosen."""
    monkeypatch.setenv("USAGE_TEST_SERVERS", "cloud")
    with pytest.raises(ConfigurationError, match=r"USAGE_TEST_SERVERS='cloud': must be one of given, docker, local"):
        chosen_kind()


def test_without_an_engine_local_processes_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is said; where containers are asked for by name, it is an error instead."""
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)
    monkeypatch.delenv("USAGE_TEST_SERVERS", raising=False)
    said: list[str] = []
    assert own_kind("postgres:18", said.append) is Kind.LOCAL
    assert said == ["no Docker engine answers: taking a local process instead of postgres:18"]
    monkeypatch.setenv("USAGE_TEST_SERVERS", "docker")
    with pytest.raises(ConfigurationError, match="USAGE_TEST_SERVERS=docker, but no Docker engine answers"):
        own_kind("postgres:18")


def test_an_image_that_cannot_be_had_is_named() -> None:
    """An engine alone is not enough."""
    if (reason := why_no_container(postgres_server.IMAGE)) is not None:
        pytest.skip(reason)
    reason = why_no_container("127.0.0.1:1/absent:1")
    assert reason is not None
    assert reason.startswith("the Docker engine has no image 127.0.0.1:1/absent:1 and cannot pull it (")


def test_without_a_broker_the_command_to_type_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where there is no rabbitmq-server, the message holds the command that installs it."""
    monkeypatch.setattr(rabbitmq_server_module, "_SCRIPTS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError) as caught:
        local_rabbitmq()
    assert "apt-get install rabbitmq-server" in str(caught.value)
    assert "brew install rabbitmq" in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's files are out of the server's reach")
def test_root_may_keep_its_files_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Postgres, which does not run as root, starts from a copy where its programs are in a folder of root's alone."""
    monkeypatch.setattr(postgres_server, "_open_to_all", lambda _folder: False)
    with local_postgres() as server:
        program = Path(psutil.Process(server.pid).exe())
        assert program.name == "postgres"
        assert "usage-worker-postgres-" in str(program)
