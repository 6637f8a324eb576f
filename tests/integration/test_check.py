"""The check command, run in this process against real servers: what it finds, and that its remedies work."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, tzinfo
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import aio_pika
import asyncpg
import pytest
from aio_pika.abc import AbstractChannel
from aio_pika.queue import Queue
from click.testing import CliRunner
from usage_events.rules import Window

from worker.app import keep_undecoded
from worker.cli import cli
from worker.delivery import Delivery, PlainProperties
from worker.demo.rabbitmq_server import RabbitServer
from worker.findings import Verdict, judge_clock
from worker.postgres.migrations import find_migrations
from worker.postgres.role import MARKS
from worker.rabbitmq.connection import connect
from worker.rabbitmq.inspect import PROBE_APP_ID
from worker.rabbitmq.topology import dead_queue, ensure_topology, main_queue
from worker.settings import Settings, load_settings


class Check(NamedTuple):
    """What a check has said."""

    status: int
    output: str

    @property
    def wrong(self) -> list[str]:
        """The lines about what is wrong, without the mark."""
        return [line.removeprefix("--  ") for line in self.output.splitlines() if line.startswith("--  ")]

    @property
    def fine(self) -> list[str]:
        """The lines about what is well, without the mark."""
        return [line.removeprefix("ok  ") for line in self.output.splitlines() if line.startswith("ok  ")]


async def check(*arguments: str) -> Check:
    """Runs the command in a thread: it has an event loop of its own."""
    result = await asyncio.to_thread(CliRunner().invoke, cli, ["check", *arguments], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return Check(result.return_value, result.stdout)


@pytest.fixture
def settings(migrated_dsn: str, amqp_url: str, names: Any, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The environment names a migrated database, and exchange and queue of this test's own."""
    monkeypatch.setenv("USAGE_POSTGRES_DSN", migrated_dsn)
    monkeypatch.setenv("USAGE_AMQP_URL", amqp_url)
    monkeypatch.setenv("USAGE_EXCHANGE", names.exchange)
    monkeypatch.setenv("USAGE_QUEUE", names.queue)
    return load_settings()


@asynccontextmanager
async def open_channel(settings: Settings) -> AsyncIterator[AbstractChannel]:
    """A channel of a connection of its own."""
    connection = await aio_pika.connect(settings.amqp_url.get_secret_value())
    async with connection, connection.channel() as channel:
        yield channel


@pytest.fixture
async def topology(settings: Settings) -> None:
    """Exchanges and queues as a worker declares them."""
    connection = await connect(settings, "usage-worker tests")
    async with connection:
        await ensure_topology(connection, settings)


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """The database, as its owner."""
    connection = await asyncpg.connect(settings.postgres_dsn.get_secret_value())
    yield connection
    await connection.close()


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address where nothing answers: bound, but not listened on."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{reserved.getsockname()[1]}"


@pytest.mark.usefixtures("topology")
async def test_all_is_well(settings: Settings) -> None:
    """After migrate and a worker's start every line is ok, every setting is shown, the secrets are not."""
    found = await check()
    assert (found.status, found.wrong) == (0, [])
    [warning] = [line for line in found.output.splitlines() if not line.startswith("ok  ")]
    assert warning == (
        "!!  Postgres: postgres is a superuser, and the worker needs far less: let the worker log in as usage_worker,"
        " which usage-worker migrate --roles makes"
    )
    for name in Settings.model_fields:
        assert f"setting: USAGE_{name.upper()}=" in found.output
    assert "setting: USAGE_AMQP_URL=***" in found.fine
    assert f"setting: USAGE_QUEUE={settings.queue}" in found.fine
    assert "setting: USAGE_WRITERS=2 (default)" in found.fine
    assert "Postgres: takes writes" in found.fine
    assert f"RabbitMQ: queue {settings.queue}: messages ready: 0, consumers: 0" in found.fine
    assert (
        f"RabbitMQ: exchange {settings.dead_exchange} with routing key {settings.queue} routes to a queue" in found.fine
    )
    for secret in (settings.amqp_url, settings.postgres_dsn):
        assert secret.get_secret_value() not in found.output
        assert urlsplit(secret.get_secret_value()).netloc not in found.output


@pytest.mark.usefixtures("topology")
async def test_programs_read_it_too() -> None:
    """With --json each finding is an object with what the line says."""
    lines, objects = await check(), await check("--json")
    found = [json.loads(line) for line in objects.output.splitlines()]
    assert objects.status == 0
    assert len(found) == len(lines.output.splitlines())
    assert {tuple(item) for item in found} == {("topic", "verdict", "text", "remedy")}
    assert {"topic": "Postgres", "verdict": "ok", "text": "takes writes", "remedy": ""} in found


async def test_servers_that_hold_nothing_yet(
    settings: Settings, database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty database needs `migrate`; what a worker declares at its start is no fault."""
    monkeypatch.setenv("USAGE_POSTGRES_DSN", database_dsn)
    found = await check()
    assert found.status == 1
    names = ", ".join(migration.name for migration in find_migrations())
    assert f"Postgres: schema public lacks {names}: run usage-worker migrate" in found.wrong
    assert all("run usage-worker migrate" in line for line in found.wrong)
    assert f"RabbitMQ: queue {settings.queue} is not there yet; the worker declares it at its start" in found.fine
    assert "Postgres: not checked: rights on tables: there are none yet" in found.fine


async def test_what_others_have_to_declare(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a passive topology a missing queue is wrong, and the line says with which arguments to declare it."""
    monkeypatch.setenv("USAGE_TOPOLOGY", "passive")
    found = await check()
    assert found.status == 1
    assert len(found.wrong) == 4
    for queue in (main_queue(settings), dead_queue(settings)):
        wanted = f"declare a durable queue {queue.name} with the arguments {json.dumps(queue.arguments)}"
        assert f"RabbitMQ: queue {queue.name} is missing: {wanted}, or set USAGE_TOPOLOGY=declare" in found.wrong
    assert any(line.startswith("RabbitMQ: not checked: the binding of queue") for line in found.fine)


@pytest.mark.usefixtures("settings", "topology")
async def test_a_database_that_is_ahead(database: asyncpg.Connection) -> None:
    """A schema newer than this version: the remedy is to upgrade."""
    await database.execute("INSERT INTO ai_usage_migrations (version, name, checksum) VALUES (9999, 'x', 'y')")
    found = await check()
    assert (found.status, len(found.wrong)) == (1, 1)
    assert found.wrong[0].startswith("Postgres: the database is at migration 9999, this version knows up to ")
    assert found.wrong[0].endswith(": upgrade usage-worker")


@pytest.mark.usefixtures("settings", "topology")
async def test_a_table_that_differs(database: asyncpg.Connection) -> None:
    """What the host has made otherwise is named, each difference with what follows."""
    await database.execute("DROP INDEX idx_ai_usage_type; DROP VIEW ai_usage_daily")
    found = await check()
    assert found.status == 1
    index, view = found.wrong
    assert index == (
        "Postgres: public.ai_usage_logs: no index begins with request_type, as idx_ai_usage_type does:"
        " searches by it read the whole table"
    )
    assert view == "Postgres: public.ai_usage_daily is missing: run usage-worker migrate"


@pytest.mark.usefixtures("topology")
async def test_missing_rights_come_with_the_grants(
    settings: Settings, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role without rights: once the printed statements have been executed, nothing is missing any more."""
    role = f"role-{settings.queue}"  # a name that has to be quoted
    dsn = settings.postgres_dsn.get_secret_value()
    parts = urlsplit(dsn)
    host = parts.netloc.rpartition("@")[2]
    await database.execute(
        f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'geheim';"
        f'REVOKE TEMPORARY ON DATABASE "{parts.path[1:]}" FROM PUBLIC;'
        "REVOKE USAGE ON SCHEMA public FROM PUBLIC"
    )
    try:
        monkeypatch.setenv("USAGE_POSTGRES_DSN", parts._replace(netloc=f"{role}:geheim@{host}").geturl())
        statements: list[str] = []
        # The schema's own right first: without it the table of migrations cannot be read.
        while (found := await check()).status != 0:
            new = [f"GRANT {line.partition(': GRANT ')[2]}" for line in found.wrong if ": GRANT " in line]
            assert new
            assert not set(new) & set(statements), "a statement that was executed is asked for again"
            statements += new
            for statement in new:
                await database.execute(statement)
        rights = {statement.partition(" TO ")[0].removeprefix("GRANT ") for statement in statements}
        assert rights == {
            f"TEMPORARY ON DATABASE {parts.path[1:]}",
            'USAGE ON SCHEMA "public"',
            'SELECT (id) ON "public".users',
            'SELECT (id) ON "public".organizations',
            'SELECT ON "public".ai_usage_logs',
            'INSERT ON "public".ai_usage_logs',
            'SELECT ON "public".ai_usage_dead_letters',
            'INSERT ON "public".ai_usage_dead_letters',
            f'UPDATE ({", ".join(MARKS)}) ON "public".ai_usage_dead_letters',
            'INSERT ON "public".ai_usage_dead_letter_actions',
            'SELECT ON "public".ai_usage_migrations',
        }
        assert "geheim" not in found.output
    finally:
        await database.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


@pytest.mark.usefixtures("topology")
async def test_a_database_that_takes_no_writes(
    settings: Settings, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only server is told from one that is away."""
    name = urlsplit(settings.postgres_dsn.get_secret_value()).path[1:]
    await database.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    found = await check()
    assert len(found.wrong) == 1
    assert found.wrong[0].endswith("no host takes writes; name the primary in USAGE_POSTGRES_DSN")
    dsn = f"{settings.postgres_dsn.get_secret_value()}?target_session_attrs=any"
    monkeypatch.setenv("USAGE_POSTGRES_DSN", dsn)
    found = await check()
    assert [line.partition(" takes no writes: ")[2] for line in found.wrong] == [
        "name the primary in USAGE_POSTGRES_DSN"
    ]


@pytest.mark.usefixtures("settings", "topology")
async def test_postgres_away_rabbitmq_is_looked_at(nowhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure of the one does not hide the other; the address is shown, the password is not."""
    monkeypatch.setenv("USAGE_POSTGRES_DSN", f"postgresql://ada:geheim@{nowhere}/usage")
    found = await check()
    assert (found.status, len(found.wrong)) == (1, 1)
    assert found.wrong[0].startswith(f"Postgres: {nowhere}/usage does not answer: ")
    assert found.wrong[0].endswith(": start Postgres, or set USAGE_POSTGRES_DSN")
    assert any(line.startswith("RabbitMQ: connected to ") for line in found.fine)
    assert "geheim" not in found.output


@pytest.mark.usefixtures("settings")
async def test_rabbitmq_away_postgres_is_looked_at(nowhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same the other way round."""
    monkeypatch.setenv("USAGE_AMQP_URL", f"amqp://ada:geheim@{nowhere}/")
    found = await check()
    assert (found.status, len(found.wrong)) == (1, 1)
    assert found.wrong[0].startswith(f"RabbitMQ: {nowhere}/ does not answer: ")
    assert found.wrong[0].endswith(": start RabbitMQ, or set USAGE_AMQP_URL")
    assert any(line.startswith("Postgres: connected to ") for line in found.fine)
    assert "geheim" not in found.output


async def test_names_that_are_not_there(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing database, a missing virtual host, a wrong password: each has a remedy of its own."""
    parts = urlsplit(settings.postgres_dsn.get_secret_value())
    monkeypatch.setenv("USAGE_POSTGRES_DSN", parts._replace(path="/nope").geturl())
    url = urlsplit(settings.amqp_url.get_secret_value())
    monkeypatch.setenv("USAGE_AMQP_URL", url._replace(path="/nope").geturl())
    postgres, rabbitmq = (await check()).wrong
    assert postgres.endswith(": create the database, or name another in USAGE_POSTGRES_DSN")
    assert rabbitmq.endswith(": create the virtual host and let the user in, or name another in USAGE_AMQP_URL")
    wrong_password = url._replace(netloc=f"guest:geheim@{url.netloc.rpartition('@')[2]}")
    monkeypatch.setenv("USAGE_AMQP_URL", wrong_password.geturl())
    assert (await check()).wrong[1].endswith(": set user and password in USAGE_AMQP_URL")


@pytest.mark.usefixtures("topology")
async def test_a_queue_of_another_kind(settings: Settings) -> None:
    """A queue without the delivery limit is named with what differs and what to declare; it is left as it is."""
    spec = main_queue(settings)
    arguments = {name: value for name, value in spec.arguments.items() if name != "x-delivery-limit"}
    async with open_channel(settings) as channel:
        await channel.queue_delete(spec.name)
        await channel.declare_queue(spec.name, durable=True, arguments=arguments)
        found = await check()
        assert (found.status, len(found.wrong)) == (1, 1)
        assert found.wrong[0].startswith(f"RabbitMQ: queue {spec.name} is not as this version declares it: ")
        assert "x-delivery-limit" in found.wrong[0].partition(": delete it once ")[0]
        await channel.declare_queue(spec.name, durable=True, arguments=arguments)  # raises where it was changed


@pytest.mark.usefixtures("topology")
@pytest.mark.parametrize("is_led", [True, False])
async def test_a_queue_without_a_leader(settings: Settings, monkeypatch: pytest.MonkeyPatch, *, is_led: bool) -> None:
    """It is declared and counted like an empty one, but never answers a get: named, with what to do."""

    async def unanswered(*_: Any, **__: Any) -> None:
        raise TimeoutError

    if not is_led:
        monkeypatch.setattr("aio_pika.queue.Queue.get", unanswered)
    found = await check()
    if is_led:
        assert (found.status, found.wrong) == (0, [])
        return
    assert (found.status, len(found.wrong)) == (1, 2)
    for queue, line in zip((settings.queue, settings.dead_queue), found.wrong, strict=True):
        assert line.startswith(f"RabbitMQ: queue {queue} has no leader: nobody can publish to it or consume: start the")
        assert line.endswith("nothing can be in it: delete it, and start a worker, which declares it anew")


@pytest.mark.usefixtures("topology")
async def test_a_message_that_comes_while_one_looks_stays(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that arrives between the count and the get is given back."""
    get = Queue.get

    async def publish_and_get(queue: Queue, **given: Any) -> Any:
        await queue.channel.default_exchange.publish(aio_pika.Message(b"an event"), queue.name)
        return await get(queue, **given)

    monkeypatch.setattr(Queue, "get", publish_and_get)
    assert (await check()).wrong == []
    monkeypatch.undo()
    async with open_channel(settings) as channel:
        for name in (settings.queue, settings.dead_queue):
            queue = await channel.declare_queue(name, durable=True, passive=True)
            message = await queue.get(fail=False)
            assert message is not None
            assert message.body == b"an event"
            await message.ack()


@pytest.mark.usefixtures("topology")
async def test_dead_letters_that_arrive_nowhere(settings: Settings) -> None:
    """With the dead queue unbound dead messages would wait unseen: only a probe can tell."""
    async with open_channel(settings) as channel:
        queue = await channel.get_queue(settings.dead_queue)
        await queue.unbind(settings.dead_exchange, settings.queue)
    found = await check()
    assert (found.status, len(found.wrong)) == (1, 1)
    way = f"exchange {settings.dead_exchange} with routing key {settings.queue}"
    assert found.wrong[0] == (
        f"RabbitMQ: {way} routes nowhere: dead messages would wait unseen: start a worker, which binds it, or"
        f" bind queue {settings.dead_queue} to {way}"
    )


@pytest.fixture
def reader(rabbitmq_server: RabbitServer, settings: Settings) -> Iterator[str]:
    """The broker's address for a user who may read from the test's queues, and nothing else."""
    if rabbitmq_server.management_url is None:
        pytest.skip("making users takes the broker's management API, which is not known of a given broker")
    user = f"reader-{settings.queue}"
    rabbitmq_server.manage("PUT", f"/api/users/{user}", {"password": "geheim", "tags": ""})
    rights = {"configure": "^$", "write": "^$", "read": f"^{settings.exchange}"}
    rabbitmq_server.manage("PUT", f"/api/permissions/%2F/{user}", rights)
    url = urlsplit(rabbitmq_server.amqp_url)
    yield url._replace(netloc=f"{user}:geheim@{url.netloc.rpartition('@')[2]}").geturl()
    rabbitmq_server.manage("DELETE", f"/api/users/{user}")


@pytest.mark.usefixtures("topology")
async def test_a_user_who_may_only_read(settings: Settings, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough where others declare: the rest is said to be not checked. A worker that is to declare needs more."""
    monkeypatch.setenv("USAGE_AMQP_URL", reader)
    monkeypatch.setenv("USAGE_TOPOLOGY", "passive")
    found = await check()
    assert (found.status, found.wrong) == (0, [])
    counts = "messages ready: 0, consumers: 0; arguments not checked: this user may not declare it"
    assert f"RabbitMQ: queue {settings.queue}: {counts}" in found.fine
    assert (
        f"RabbitMQ: not checked: whether dead letters arrive: this user may not publish to {settings.dead_exchange}"
        in found.fine
    )
    assert "RabbitMQ: not checked: the server's clock: this user may not declare queues of its own" in found.fine
    monkeypatch.setenv("USAGE_TOPOLOGY", "declare")
    found = await check()
    assert (found.status, len(found.wrong)) == (1, 5)
    for line in found.wrong:
        assert "ACCESS_REFUSED" in line
        assert line.endswith(
            ": rabbitmqctl set_permissions gives the right, or set USAGE_TOPOLOGY=passive and declare it yourself"
        )


@pytest.mark.usefixtures("topology")
async def test_only_a_probe_is_sent(settings: Settings) -> None:
    """The queue of events gets nothing; the dead queue gets an empty message that says who sent it and will expire."""
    assert (await check()).status == 0
    async with open_channel(settings) as channel:
        events = await channel.declare_queue(settings.queue, passive=True)
        assert events.declaration_result.message_count == 0
        probe = await (await channel.get_queue(settings.dead_queue)).get(no_ack=True)
        assert probe is not None
        assert (probe.body, probe.app_id, probe.expiration) == (b"", PROBE_APP_ID, 60.0)


@pytest.mark.parametrize(
    ("body", "app_id", "letters"),
    [(b"", PROBE_APP_ID, 0), (b"", None, 1), (b"", "billing", 1), (b"{}", PROBE_APP_ID, 1)],
)
def test_a_probe_is_no_letter(body: bytes, app_id: str | None, letters: int) -> None:
    """The dead queue's decoder makes nothing of a probe, and a letter of all else, whoever sent it."""
    window = Window.around(0, max_age_seconds=1, max_ahead_seconds=1)
    decoded = keep_undecoded(Delivery(1, 1, body, PlainProperties(app_id=app_id)), window)
    assert (decoded.events, len(decoded.rejects)) == ([], letters)


class _Later(datetime):
    """A clock of this machine that is ten seconds ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) + timedelta(seconds=10)


@pytest.mark.usefixtures("settings", "topology")
async def test_clocks_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is ten seconds ahead learns it from both servers."""
    for module in ("worker.postgres.inspect", "worker.rabbitmq.inspect"):
        monkeypatch.setattr(f"{module}.datetime", _Later)
    found = await check()
    assert (found.status, len(found.wrong)) == (1, 2)
    for line, server in zip(found.wrong, ("Postgres", "RabbitMQ"), strict=True):
        assert line.startswith(f"{server}: the server's clock is ")
        assert " s or more behind this machine's, the limit is 2 s: let NTP set both" in line


@pytest.mark.parametrize(
    ("ahead_seconds_min", "ahead_seconds_max", "verdict", "part"),
    [
        (-0.1, 0.2, Verdict.OK, "differ by 0.2 s at most"),
        (1.0, 9.0, Verdict.OK, "differ by 9.0 s at most"),
        (2.0, 3.0, Verdict.OK, "differ by 3.0 s at most"),
        (2.1, 3.0, Verdict.WRONG, "2.1 s or more ahead of this"),
        (-3.0, -2.0, Verdict.OK, "differ by 3.0 s at most"),
        (-3.0, -2.1, Verdict.WRONG, "2.1 s or more behind this"),
    ],
)
def test_clocks_are_judged_by_what_is_sure(
    ahead_seconds_min: float, ahead_seconds_max: float, verdict: Verdict, part: str
) -> None:
    """Only a difference that the reading's own uncertainty cannot explain is a fault."""
    finding = judge_clock("x", "the server's", ahead_seconds_min, ahead_seconds_max)
    assert finding.verdict is verdict
    assert part in finding.text


@pytest.mark.usefixtures("settings", "topology")
async def test_settings_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prefetch below one batch is allowed, and advised against."""
    monkeypatch.setenv("USAGE_PREFETCH", "4999")
    found = await check()
    assert (found.status, len(found.wrong)) == (1, 1)
    assert found.wrong[0].startswith("setting: USAGE_PREFETCH=4999 is below one batch of single events")
    monkeypatch.setenv("USAGE_PREFETCH", "5000")
    assert (await check()).status == 0
