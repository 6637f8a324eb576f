"""No command shows a password, whatever happens to it, at the most talkative log level."""

import asyncio
import json
import logging
import os
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from harness import event, until
from harness.events import ORGANIZATION, USER
from harness.worker import COMMAND, WorkerProcess
from usage_events import UsageEvent, UsagePublisher
from usage_events.errors import UsageEventsError

from worker.demo.rabbitmq_server import RabbitServer

CANARIES = ("kanarie", "vogel", "zeisig")
ENCODED = "kanarie%2Fvogel%23%40zeisig"  # kanarie/vogel#@zeisig
NOWHERE = "127.0.0.1:1"
SHORT_COMMANDS = (
    ("check",),
    ("check", "--json"),
    ("migrate",),
    ("migrate", "--dry-run"),
    ("publish", "events.ndjson"),
    ("dead-letters", "summary"),
    ("find", "0198c0de-0000-7000-8000-000000000001"),
)
# Passwords that were not encoded, and other URLs that cannot be read or lead nowhere.
BROKEN = (
    "{scheme}://ada:kanarie/vogel#@zeisig@127.0.0.1:1/usage",
    "{scheme}://ada:kanarie#vogel@127.0.0.1:1/usage",
    "{scheme}://ada:kanarie?vogel@127.0.0.1:1/usage",
    "{scheme}://ada:kanarie%zzvogel@127.0.0.1:1/usage",
    "{scheme}://ada:kanarie@vogel:zeisig@127.0.0.1:1/usage",
    "{scheme}://ada:kanarie%2Fvogel@[::1/usage",
    "{scheme}://ada:kanarie%2Fvogel@127.0.0.1:99999/usage",
    "{scheme}://ada:kanarie%2Fvogel@127.0.0.1:port/usage",
    "http://ada:kanarie%2Fvogel@127.0.0.1:1/usage",
    "kanarievogel",
    "{scheme}://127.0.0.1:1/usage?user=ada&password=kanarievogel",
    "{scheme}://ada:kanarie%2Fvogel@127.0.0.1:1/usage?sslmode=verify-ful&heartbeat=vogel&cadata=vogel",
)


def with_password(url: str, user: str | None = None) -> str:
    """The URL with a password that must not be seen."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user or parts.username}:{ENCODED}@{parts.netloc.rpartition('@')[2]}").geturl()


def assert_no_canary(text: str, where: object) -> None:
    """None of the password's parts is in there, and neither is a traceback."""
    assert not [canary for canary in CANARIES if canary in text.lower()], (where, text)
    assert "Traceback" not in text, (where, text)


def run(folder: Path, amqp_url: str, dsn: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command to its end, with all its output."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("USAGE_")}
    secrets = {"USAGE_AMQP_URL": amqp_url, "USAGE_POSTGRES_DSN": dsn, "USAGE_LOG_LEVEL": "debug"}
    return subprocess.run(
        [COMMAND, *arguments],
        env=given | secrets,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def command_line(pid: int) -> str:
    """What anybody on the machine sees of a process."""
    return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")


def files_in(folder: Path) -> dict[str, str]:
    """The content of each file."""
    return {path.name: path.read_bytes().decode("latin-1") for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file to publish."""
    (tmp_path / "events.ndjson").write_text(json.dumps(event()) + "\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def secret_amqp_url(rabbitmq_server: RabbitServer, names: Any) -> Iterator[str]:
    """The broker, for a user with that password."""
    if rabbitmq_server.management_url is None:
        pytest.skip("making users takes the broker's management API, which is not known of a given broker")
    user = f"user-{names.queue}"
    rabbitmq_server.manage("PUT", f"/api/users/{user}", {"password": "kanarie/vogel#@zeisig", "tags": ""})
    rabbitmq_server.manage("PUT", f"/api/permissions/%2F/{user}", {"configure": ".*", "write": ".*", "read": ".*"})
    yield with_password(rabbitmq_server.amqp_url, user)
    rabbitmq_server.manage("DELETE", f"/api/users/{user}")


@pytest.fixture
async def secret_dsn(migrated_dsn: str) -> Any:
    """The database, for a superuser with that password."""
    connection = await asyncpg.connect(migrated_dsn)
    name = f"user_{urlsplit(migrated_dsn).path[1:]}"
    await connection.execute(f"CREATE ROLE {name} SUPERUSER LOGIN PASSWORD 'kanarie/vogel#@zeisig'")
    yield with_password(migrated_dsn, name)
    await connection.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
    await connection.close()


async def test_when_all_is_well(
    secret_amqp_url: str, secret_dsn: str, names: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker's log, its HTTP port, its command line and the sessions that others see; and every other command."""
    monkeypatch.chdir(folder)
    environment = {
        "USAGE_AMQP_URL": secret_amqp_url,
        "USAGE_POSTGRES_DSN": secret_dsn,
        "USAGE_EXCHANGE": names.exchange,
        "USAGE_QUEUE": names.queue,
        "USAGE_LOG_LEVEL": "debug",
    }
    worker = await WorkerProcess.start(environment, folder / "worker.log")
    try:
        await until(worker.is_ready, "the worker is ready", details=worker.log_tail)
        for path in ("/livez", "/readyz", "/metrics", "/", "/metrics?name=USAGE_AMQP_URL"):
            assert_no_canary((await worker.get(path))[1], path)
        assert_no_canary(command_line(worker.pid), "command line")
        connection = await asyncpg.connect(secret_dsn)
        sessions = await connection.fetch("SELECT * FROM pg_stat_activity WHERE usename = current_user")
        assert len(sessions) > 1
        assert_no_canary(str(sessions), "pg_stat_activity")
        await connection.close()
        for arguments in SHORT_COMMANDS:
            done = await asyncio.to_thread(run, folder, secret_amqp_url, secret_dsn, *arguments)
            assert_no_canary(done.stdout + done.stderr, arguments)
        assert await worker.stop() == 0
    finally:
        await worker.kill()
    assert_no_canary(worker.log(), "log")
    assert worker.has_logged("listening")


async def test_the_port_is_on_loopback(secret_amqp_url: str, secret_dsn: str, names: Any, tmp_path: Path) -> None:
    """Nobody else in the network sees it, unless USAGE_HTTP_HOST says so."""
    environment = {
        "USAGE_AMQP_URL": secret_amqp_url,
        "USAGE_POSTGRES_DSN": secret_dsn,
        "USAGE_EXCHANGE": names.exchange,
        "USAGE_QUEUE": names.queue,
    }
    worker = await WorkerProcess.start(environment, tmp_path / "worker.log")
    try:
        port = int((await worker.url()).rpartition(":")[2])
        with socket.socket() as elsewhere:  # another address of this machine: all of 127/8 is
            assert elsewhere.connect_ex(("127.0.0.2", port)) != 0
        assert (await worker.get("/livez"))[0] == 200
    finally:
        await worker.kill()


@pytest.mark.parametrize("broken", BROKEN)
def test_urls_that_cannot_be_read(folder: Path, broken: str) -> None:
    """What is told about them does not repeat them."""
    amqp_url, dsn = broken.format(scheme="amqp"), broken.format(scheme="postgresql")
    for arguments in (("check",), ("migrate",), ("publish", "events.ndjson")):
        done = run(folder, amqp_url, dsn, *arguments)
        assert_no_canary(done.stdout + done.stderr, (broken, arguments))


@pytest.mark.parametrize("case", ["wrong password", "nobody answers", "no TLS there"])
async def test_servers_that_do_not_let_us_in(amqp_url: str, migrated_dsn: str, folder: Path, case: str) -> None:
    """Each command, and a worker that waits for both."""
    url, dsn = with_password(amqp_url), with_password(migrated_dsn, "nobody_of_that_name")
    if case == "nobody answers":
        url, dsn = f"amqp://ada:{ENCODED}@{NOWHERE}/", f"postgresql://ada:{ENCODED}@{NOWHERE}/usage"
    if case == "no TLS there":
        url = url.replace("amqp://", "amqps://")
        dsn += "?sslmode=verify-full&sslrootcert=/nowhere/ca.crt"
    for arguments in SHORT_COMMANDS:
        done = await asyncio.to_thread(run, folder, url, dsn, *arguments)
        assert done.returncode != 0
        assert_no_canary(done.stdout + done.stderr, arguments)
    for its_url, its_dsn, what in (
        (amqp_url, dsn, "the database is away"),
        (url, migrated_dsn, "waiting for the broker"),
    ):
        environment = {"USAGE_AMQP_URL": its_url, "USAGE_POSTGRES_DSN": its_dsn, "USAGE_LOG_LEVEL": "debug"}
        worker = await WorkerProcess.start(environment, folder / "worker.log")
        try:
            await until(partial(worker.has_logged, what), what, details=worker.log_tail)
            for path in ("/readyz", "/metrics"):
                assert_no_canary((await worker.get(path))[1], path)
            assert await worker.stop() == 0
        finally:
            await worker.kill()
        assert_no_canary(worker.log(), "log")


@pytest.mark.parametrize("is_right", [True, False])
async def test_a_publisher(
    secret_amqp_url: str, names: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, is_right: bool
) -> None:
    """Neither its log and the library's, at debug, nor its errors, nor its spool hold the password."""
    caplog.set_level(logging.DEBUG)
    url = secret_amqp_url if is_right else secret_amqp_url.replace("user-", "nobody-")
    spool = tmp_path / "spool"
    publisher = UsagePublisher(url, exchange=names.exchange, durability="spool", spool_path=spool)
    said = repr(publisher)
    publisher.record(UsageEvent(user_id=USER, organization_id=ORGANIZATION, input_tokens=1))
    try:
        await publisher.connect()
    except UsageEventsError as error:
        said += f"{error!r} {error}"
    try:
        await publisher.close(timeout_seconds=1)
    except UsageEventsError as error:
        said += f"{error!r} {error}"
    assert_no_canary(said + caplog.text.replace("Traceback", ""), "log")
    for name, content in files_in(tmp_path).items():
        assert_no_canary(content, name)
