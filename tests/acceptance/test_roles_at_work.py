"""The commands as the roles of `schema/roles.sql`: each does its whole work, however they were set up."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest
from desk import Desk
from harness import System, event, message
from harness.events import ORGANIZATION, USER
from hosted import PASSWORD, Hosted, execute, let_log_in, make_host

from worker import app, heal
from worker.demo import postgres_server
from worker.demo.postgres_server import PostgresServer
from worker.demo.servers import own_kind, start_postgres
from worker.findings import Verdict
from worker.postgres.role import WORKER_RIGHTS, inspect_rights
from worker.settings import load_settings


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of this module's own: roles are shared by all databases of a server."""
    with start_postgres(own_kind(postgres_server.IMAGE)) as started:
        yield started


@pytest.fixture
def bare(server: PostgresServer) -> Hosted:
    """A host's database without usage tables."""
    return make_host(server)


@pytest.fixture
def hosted(bare: Hosted) -> Hosted:
    """The same after `usage-worker migrate --roles`, with roles that may log in."""
    done = bare.run(None, "migrate", "--roles")
    assert (done.returncode, done.stderr) == (0, "")
    let_log_in(bare)
    return bare


@pytest.fixture
async def system(hosted: Hosted, amqp_url: str, names: Any, tmp_path: Path) -> AsyncIterator[System]:
    """Workers of the role usage_worker between this database and a queue of the test's own."""
    async with System(hosted.admin, amqp_url, exchange=names.exchange, queue=names.queue, folder=tmp_path) as opened:
        yield opened


async def test_the_worker_stores_refuses_and_opens_again(system: System, hosted: Hosted) -> None:
    """Stored, duplicate, conflicting, refused, refused again after it was settled, given-up bodies that come again."""
    good, late = event(), event(user_id=str(uuid4()))
    role = hosted.dsn("usage_worker")
    await system.start_worker(USAGE_POSTGRES_DSN=role, USAGE_SELF_HEAL="false")
    await system.publish(message(good), message(good), message(good | {"input_tokens": 7}), message(late))
    await system.until(lambda: holds(system, "status = 'open'", 2), "both letters are written")
    done = hosted.run("usage_operator", "dead-letters", "discard", "--why", "a test", "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    await system.database.execute("UPDATE ai_usage_dead_letters SET body = NULL WHERE reason = 'unknown_user'")
    await system.publish(message(late))
    again = "status = 'open' AND reason = 'unknown_user' AND body IS NOT NULL"
    await system.until(lambda: holds(system, again, 1), "it is open again, with its body")
    await system.settle()
    assert await system.stored() == 1
    (await system.books()).check()


async def holds(system: System, condition: str, letters: int) -> bool:
    """Whether so many letters meet the condition."""
    return bool(await system.value(f"SELECT count(*) = {letters} FROM ai_usage_dead_letters WHERE {condition}"))


async def test_the_worker_heals(system: System, hosted: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    """A letter whose user came late is replayed by the worker's role."""
    monkeypatch.setattr(heal.Healer.__init__, "__kwdefaults__", {"interval_seconds": 0.05})
    late = event(user_id=str(uuid4()))
    await system.publish(message(late))
    settings = load_settings(
        amqp_url=system.amqp_url,
        postgres_dsn=hosted.dsn("usage_worker"),
        exchange=system.exchange,
        queue=system.queue,
        http_port=0,
    )
    running: asyncio.Future[int] = asyncio.ensure_future(app.run(settings))
    await system.until(lambda: holds(system, "status = 'open'", 1), "it is refused")
    await system.database.execute("INSERT INTO users VALUES ($1)", UUID(late["user_id"]))
    await system.until(lambda: holds(system, "status = 'recovered'", 1), "it is healed")
    signal.raise_signal(signal.SIGTERM)
    assert await asyncio.wait_for(running, 30) == 0
    (await system.books()).check()


async def test_check_as_the_worker_and_as_others(system: System, hosted: Hosted) -> None:
    """The worker's role is fine; one that may do far more is warned of, by its reason; the exit status stays 0."""
    environment = system.environment() | {"USAGE_POSTGRES_DSN": hosted.dsn("usage_worker")}
    done = hosted.run(None, "check", **environment)
    assert done.returncode == 0
    assert "ok  Postgres: usage_worker has the rights that the worker needs, and not many more\n" in done.stdout
    for dsn, why in (
        (hosted.admin, "postgres is a superuser"),
        (hosted.dsn("usage_owner"), "usage_owner owns usage tables"),
    ):
        done = hosted.run(None, "check", **environment | {"USAGE_POSTGRES_DSN": dsn})
        assert done.returncode == 0, done.stdout
        assert f"!!  Postgres: {why}, and the worker needs far less: let the worker log in as" in done.stdout
    execute(hosted.admin, "GRANT DELETE ON ai_usage_logs TO usage_worker")
    done = hosted.run(None, "check", **environment)
    assert "!!  Postgres: usage_worker may delete from usage tables, and" in done.stdout
    execute(hosted.admin, "REVOKE DELETE ON ai_usage_logs FROM usage_worker")
    execute(hosted.admin, "GRANT UPDATE (model) ON ai_usage_logs TO usage_worker")
    done = hosted.run(None, "check", "--json", **environment)
    [finding] = [line for line in map(json.loads, done.stdout.splitlines()) if line["verdict"] == "warning"]
    assert finding["text"] == "usage_worker may change stored events, and the worker needs far less"


async def test_each_right_of_the_worker_is_looked_for(hosted: Hosted) -> None:
    """Without any one of them `check` finds something wrong and names the grant, which mends it."""
    settings = load_settings(postgres_dsn=hosted.dsn("usage_worker"))
    connection = await asyncpg.connect(hosted.dsn("usage_worker"))
    for table, right, columns in WORKER_RIGHTS:
        named = f" ({columns[-1]})" if columns else ""
        execute(hosted.admin, f"REVOKE {right}{named} ON {table} FROM usage_worker")
        [finding] = await inspect_rights(connection, settings)
        assert finding.verdict is Verdict.WRONG
        assert finding.remedy.startswith(f"GRANT {right}")
        execute(hosted.admin, finding.remedy)
    [finding] = await inspect_rights(connection, settings)
    assert finding.verdict is Verdict.OK
    await connection.close()


@pytest.fixture
async def desk(hosted: Hosted) -> AsyncIterator[Desk]:
    """An operator's desk: letters are refused as usage_worker, commands run as usage_operator."""
    database = await asyncpg.connect(hosted.admin)
    made = Desk(hosted.dsn("usage_operator"), database)
    writer = Desk(hosted.dsn("usage_worker"), database)
    made.refuse = writer.refuse  # type: ignore[method-assign]
    yield made
    await database.close()


async def test_the_operator_does_everything_but_remove(desk: Desk, hosted: Hosted, tmp_path: Path) -> None:
    """Each command of `dead-letters`, and `find`; what removes (`purge`, `erase`) says that it is the owner's work."""
    late, misnamed, conflicting = event(user_id=str(uuid4())), event(), event()
    misnamed["input_token"] = misnamed.pop("input_tokens")
    await desk.refuse(late, misnamed, b"garbage")
    await desk.refuse(conflicting, conflicting | {"model": "other"})
    await desk.refuse(json.dumps([event(), late | {"id": str(uuid4())}]).encode())
    letter = str(await desk.database.fetchval("SELECT id FROM ai_usage_dead_letters WHERE body = 'garbage'"))
    for arguments in (
        ("summary",),
        ("list", "--reason", "invalid"),
        ("show", letter),
        ("note", letter, "asked"),
        ("history", letter),
        ("export", str(tmp_path / "letters.ndjson")),
        ("edit", "--reason", "invalid", "--rename", "input_token=input_tokens", "--yes"),
        ("try",),
        ("discard", "--reason", "bad_json", "--why", "a test", "--yes"),
        ("reopen", "--status", "discarded", "--yes"),
        ("discard", "--reason", "bad_json", "--why", "a test", "--yes"),
    ):
        done = await asyncio.to_thread(desk.run, *arguments)
        assert done.returncode == 0, (arguments, done.stderr)
    await desk.database.execute("INSERT INTO users VALUES ($1)", UUID(late["user_id"]))
    await asyncio.to_thread(desk.run, "replay", "--yes")
    left = await desk.database.fetch("SELECT reason, status FROM ai_usage_dead_letters WHERE status <> 'recovered'")
    assert {tuple(row) for row in left} == {("bad_json", "discarded"), ("id_conflict", "open")}
    done = await asyncio.to_thread(hosted.run, "usage_operator", "find", misnamed["id"], late["id"])
    assert (done.returncode, done.stderr) == (0, "")
    purge, erase = ("purge", "--settled-before", "0d", "--yes"), ("erase", "--user", late["user_id"], "--yes")
    for removal in (purge, erase):
        done = await asyncio.to_thread(desk.run, *removal)
        assert done.returncode == 1
        assert "the role usage_operator may not do this (SQLSTATE 42501), and nothing was changed" in done.stderr
        done = await asyncio.to_thread(desk.run, *removal, USAGE_POSTGRES_DSN=hosted.dsn("usage_owner"))
        assert (done.returncode, done.stderr) == (0, "")


async def test_the_owner_from_the_beginning(bare: Hosted) -> None:
    """The roles first, by the file; then all is made, migrated and granted by usage_owner, who is no superuser."""
    done = bare.run(None, "migrate", "--roles", USAGE_POSTGRES_SCHEMA="elsewhere")  # makes the roles
    assert done.returncode == 0
    let_log_in(bare)
    refused = bare.run("usage_owner", "migrate", USAGE_POSTGRES_SCHEMA="public")
    assert refused.returncode == 1
    execute(bare.admin, "GRANT USAGE, CREATE ON SCHEMA public TO usage_owner")
    execute(bare.admin, "GRANT REFERENCES, SELECT ON users, organizations TO usage_owner")
    done = bare.run("usage_owner", "migrate", "--roles")
    assert done.returncode == 1
    refusal = "usage_owner may not give all the rights, so nothing was changed: let their owner, or a superuser, say: "
    assert refusal in done.stderr
    assert "GRANT SELECT (id) ON public.users TO usage_worker; GRANT SELECT (id) ON public.org" in done.stderr
    statements = done.stderr.partition(" say: ")[2]
    execute(bare.admin, statements)
    done = bare.run("usage_owner", "migrate", "--roles")
    assert (done.returncode, done.stderr) == (0, "")
    connection = await asyncpg.connect(bare.admin)
    owners = await connection.fetch("SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'public'")
    await connection.close()
    assert {name: owner for name, owner in owners if owner != "shop"} == dict.fromkeys(
        ("ai_usage_logs", "ai_usage_dead_letters", "ai_usage_dead_letter_actions", "ai_usage_migrations"), "usage_owner"
    )
    assert bare.run("usage_owner", "migrate", "--roles").stdout.startswith("nothing to do")


async def test_an_administrator_who_is_no_superuser(bare: Hosted) -> None:
    """As in managed databases: CREATEROLE and the schema's ownership suffice, also for rows that are there already."""
    name = urlsplit(bare.admin).path[1:]
    execute(
        bare.admin,
        f"""
        DO $$ BEGIN CREATE ROLE manager LOGIN CREATEROLE PASSWORD '{PASSWORD}';
        EXCEPTION WHEN duplicate_object THEN NULL; END $$;
        GRANT shop TO manager;
        ALTER DATABASE "{name}" OWNER TO manager;
        ALTER SCHEMA public OWNER TO manager;
        """,
    )
    assert bare.run("manager", "migrate").returncode == 0
    admitted = "GRANT usage_owner, usage_worker, usage_reader, usage_operator TO manager WITH ADMIN OPTION"
    execute(
        bare.admin,
        f"DO $$ BEGIN {admitted}; EXCEPTION WHEN undefined_object THEN NULL; END $$",  # another test's roles are there
    )
    stored = f"INSERT INTO ai_usage_logs (user_id, organization_id) VALUES ('{USER}', '{ORGANIZATION}')"
    execute(bare.dsn("manager"), stored)
    done = bare.run("manager", "migrate", "--roles")
    assert (done.returncode, done.stderr) == (0, "")
    execute(bare.dsn("manager"), stored)  # what was its own it can still use
    let_log_in(bare)
    execute(bare.dsn("usage_worker"), "SELECT id FROM users; SELECT id FROM ai_usage_logs")


def test_a_user_who_may_not(bare: Hosted) -> None:
    """A role that may neither make roles nor take others' is told who may; a dry run does not go with it."""
    assert bare.run(None, "migrate", "--roles", USAGE_POSTGRES_SCHEMA="elsewhere").returncode == 0  # makes the roles
    assert bare.run("shop", "migrate", "--roles", "--dry-run").returncode == 2
    done = bare.run("shop", "migrate", "--roles")
    assert done.returncode == 1
    assert "run it as a superuser, or as a role with CREATEROLE that owns the schema" in done.stderr


def test_retention_is_the_owners(hosted: Hosted) -> None:
    """`retain` works for usage_owner; the worker's role is refused, and nothing is deleted."""
    execute(
        hosted.admin,
        f"INSERT INTO ai_usage_logs (user_id, organization_id, created_at) VALUES ('{USER}',"
        f" '{ORGANIZATION}', now() - interval '5 years')",
    )
    refused = hosted.run("usage_worker", "retain", "--older-than", "24", "--yes")
    done = hosted.run("usage_owner", "retain", "--older-than", "24", "--yes")
    assert (refused.returncode, done.returncode) == (1, 0), (refused.stderr, done.stderr)
    assert "Traceback" not in refused.stderr
    assert "deleted 1" in done.stdout + done.stderr
