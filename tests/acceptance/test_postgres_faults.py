"""Postgres fails in every way it knows: the worker holds, refuses nothing, gives nothing back, and goes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from harness import System, WorkerProcess, event, message, until

from worker.postgres.migrations import migrate
from worker.postgres.session import connect

AWAY = "the database is away"


@pytest.fixture
async def own_system(own_postgres_server: Any, amqp_url: str, names: Any, tmp_path: Path) -> AsyncIterator[System]:
    """A system on a database server that the test may break."""
    dsn = await asyncio.to_thread(own_postgres_server.create_database, "faults")
    connection = await connect(dsn, "public", name="tests")
    await migrate(connection, "public")
    await connection.close()
    async with System(dsn, amqp_url, exchange=names.exchange, queue=names.queue, folder=tmp_path) as opened:
        yield opened


@asynccontextmanager
async def reconnected(system: System) -> AsyncIterator[None]:
    """The test's own connection has gone with the server, too."""
    system.database = await asyncpg.connect(system.dsn)
    try:
        yield
    finally:
        await system.database.close()


@asynccontextmanager
async def host_transaction(system: System, *statements: str) -> AsyncIterator[asyncpg.Connection]:
    """A transaction of the host application; committed at the end, unless its server has gone."""
    connection = await asyncpg.connect(system.dsn)
    try:
        await connection.execute("; ".join(["BEGIN", *statements]))
        yield connection
        if not connection.is_closed():
            await connection.execute("COMMIT")
    finally:
        await connection.close()


async def until_a_writer_waits(system: System) -> None:
    """Until a worker's transaction is in its middle: it waits for a lock of the host's."""
    query = """
        SELECT EXISTS (
            SELECT FROM pg_stat_activity WHERE datname = current_database()
            AND application_name LIKE 'usage-worker%' AND wait_event_type = 'Lock'
        )
    """

    async def waits() -> bool:
        return bool(await system.value(query))

    await system.until(waits, "a writer waits in its transaction")


async def until_it_holds(worker: WorkerProcess) -> None:
    """Until the worker has met the outage and holds what it has."""

    async def holds() -> bool:
        status, text = await worker.get("/readyz")
        return status == 503 and text.startswith(AWAY)

    await until(holds, "the worker says that it holds", details=worker.log_tail)
    assert (await worker.get("/livez"))[0] == 200  # a restart would not help
    assert await worker.metric("database_up") == 0
    assert await worker.metric("held_events") > 0


async def check(system: System, worker: WorkerProcess, events: int) -> None:
    """All is stored, nothing is refused, nothing was given back to the broker."""
    await system.until_stored(events)
    assert await worker.metric("redeliveries_total") == 0
    await system.settle()
    found = await system.books()
    found.check()
    assert (len(found.stored), found.letters) == (events, {})


async def publish(system: System, count: int, **changes: Any) -> None:
    """So many good events, each a message."""
    await system.publish(*(message(event(**changes)) for _ in range(count)))


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_restart_in_the_middle_of_a_batch(own_system: System, own_postgres_server: Any, mode: str) -> None:
    """A restart takes the transaction along; the worker writes the same batch again when the server is back."""
    worker = await own_system.start_worker()
    async with host_transaction(own_system, "LOCK TABLE users IN ACCESS EXCLUSIVE MODE"):
        await publish(own_system, 300)
        await until_a_writer_waits(own_system)
        await asyncio.to_thread(own_postgres_server.restart, mode)
    await publish(own_system, 300)
    async with reconnected(own_system):
        await check(own_system, worker, events=600)
    assert worker.has_logged(AWAY)


async def test_frozen_in_the_middle_of_a_batch(own_system: System, own_postgres_server: Any) -> None:
    """A server that stands still is waited for: what arrives meanwhile is held, and all of it is stored after."""
    worker = await own_system.start_worker(USAGE_BATCH_MAX_EVENTS="50")
    await publish(own_system, 300)  # the prefetch has grown when the fault comes
    await own_system.until_stored(300)
    async with host_transaction(own_system, "LOCK TABLE users IN ACCESS EXCLUSIVE MODE"):
        await publish(own_system, 300)
        await until_a_writer_waits(own_system)
        own_postgres_server.freeze()
        try:
            await publish(own_system, 300)
            assert (await worker.get("/livez"))[0] == 200
            assert await worker.metric("held_events") > 0
        finally:
            own_postgres_server.thaw()
    await check(own_system, worker, events=900)


async def test_away_at_the_start(own_system: System, own_postgres_server: Any) -> None:
    """Without a database nothing is consumed: every message stays in the queue, undelivered, until it answers."""
    await asyncio.to_thread(own_postgres_server.stop)
    await publish(own_system, 200)
    worker = await own_system.start_worker(wait_ready=False)
    await until(lambda: worker.has_logged(AWAY), "the worker has asked the database", details=worker.log_tail)
    assert await worker.get("/readyz") == (503, "waiting for the database\n")
    assert await own_system.ready_messages() == 200
    await asyncio.to_thread(own_postgres_server.start)
    async with reconnected(own_system):
        await check(own_system, worker, events=200)


async def test_read_only(own_system: System, own_postgres_server: Any) -> None:
    """A server that takes no writes for a while is an outage, not the events' fault."""
    del own_postgres_server  # own_system's: it may be reconfigured
    worker = await own_system.start_worker()
    await publish(own_system, 100)
    await own_system.until_stored(100)
    await own_system.database.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    await own_system.database.execute("SELECT pg_reload_conf()")
    await publish(own_system, 100)
    await until_it_holds(worker)
    await own_system.database.execute("ALTER SYSTEM RESET default_transaction_read_only")
    await own_system.database.execute("SELECT pg_reload_conf()")
    await check(own_system, worker, events=200)


async def test_table_renamed_away(system: System) -> None:
    """A table that a migration of the host's has moved is waited for."""
    worker = await system.start_worker()
    await system.database.execute("ALTER TABLE ai_usage_logs RENAME TO elsewhere")
    await publish(system, 100)
    await until_it_holds(worker)
    assert await system.value("SELECT count(*) FROM ai_usage_dead_letters") == 0
    await system.database.execute("ALTER TABLE elsewhere RENAME TO ai_usage_logs")
    await check(system, worker, events=100)


@pytest.mark.parametrize("state", ["53100", "P0001"], ids=["disk full", "every row refused"])
async def test_a_trigger_that_fails_for_every_row(system: System, state: str) -> None:
    """A full disk, and a host's rule that lets nothing in: the system, whatever it says, and no letter."""
    worker = await system.start_worker()
    await system.database.execute(
        f"""
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'could not extend file: no space' USING ERRCODE = '{state}'; END $$;
        CREATE TRIGGER fail BEFORE INSERT ON ai_usage_logs FOR EACH ROW EXECUTE FUNCTION fail()
        """
    )
    await publish(system, 100)
    await until_it_holds(worker)
    assert await system.value("SELECT count(*) FROM ai_usage_dead_letters") == 0
    await system.database.execute("DROP TRIGGER fail ON ai_usage_logs")
    await check(system, worker, events=100)


async def test_a_lock_on_the_table(system: System) -> None:
    """A lock that is given up in time is waited for, and is no outage."""
    worker = await system.start_worker()
    async with host_transaction(system, "LOCK TABLE ai_usage_logs IN ACCESS EXCLUSIVE MODE"):
        await publish(system, 100)
        await until_a_writer_waits(system)
    await check(system, worker, events=100)
    assert not worker.has_logged(AWAY)


@pytest.mark.slow
async def test_a_lock_on_the_table_that_outlasts_its_time_out(system: System) -> None:
    """A lock that is kept for long is an outage: the worker holds, and goes on when it is given up."""
    worker = await system.start_worker()
    async with host_transaction(system, "LOCK TABLE ai_usage_logs IN ACCESS EXCLUSIVE MODE"):
        await publish(system, 100)
        await until_it_holds(worker)
    await check(system, worker, events=100)


@pytest.mark.parametrize(
    ("table", "column", "reason"),
    [("users", "user_id", "unknown_user"), ("organizations", "organization_id", "unknown_organization")],
)
async def test_a_parent_that_is_deleted_while_its_batch_merges(
    system: System, table: str, column: str, reason: str
) -> None:
    """Its own event becomes a letter with the right reason; the others of the batch are stored."""
    leaving = uuid4()
    await system.database.execute(f"INSERT INTO {table} VALUES ($1)", leaving)
    await system.start_worker()
    events = [event() for _ in range(100)]
    events[50][column] = str(leaving)
    async with host_transaction(system, f"DELETE FROM {table} WHERE id = '{leaving}'"):
        await system.publish(message(*events))
        await until_a_writer_waits(system)
    await system.until_stored(99)
    await system.settle()
    found = await system.books()
    found.check()
    assert (found.dead, found.letters) == ({UUID(events[50]["id"])}, {reason: 1})


async def test_a_large_organization_that_is_deleted_during_load(system: System) -> None:
    """While 50,000 rows cascade away, others' events are stored; its own go with it or become letters, none is lost."""
    leaving = uuid4()
    await system.database.execute("INSERT INTO organizations VALUES ($1)", leaving)
    await system.database.execute(
        """
        INSERT INTO ai_usage_logs (user_id, organization_id)
        SELECT users.id, $1 FROM users, generate_series(1, 50000)
        """,
        leaving,
    )
    worker = await system.start_worker(USAGE_BATCH_MAX_EVENTS="500")
    others = [event() for _ in range(3000)]
    own = [event(organization_id=str(leaving)) for _ in range(3000)]
    pairs = [message(*pair) for pair in zip(others, own, strict=True)]
    await system.publish(*pairs[:1000])
    async with host_transaction(system) as host:
        deleting = asyncio.ensure_future(host.execute(f"DELETE FROM organizations WHERE id = '{leaving}'", timeout=60))
        await system.publish(*pairs[1000:2000])
        await deleting
    await system.publish(*pairs[2000:])
    await system.until_stored(len(others))

    async def settled() -> bool:
        return await worker.metric("events_total") >= len(others) + len(own)

    await system.until(settled, "all events have an outcome")
    stored = await worker.metric("events_total", outcome="stored")
    await system.settle()
    found = await system.books()
    assert found.stored.keys() == {UUID(body["id"]) for body in others}
    assert found.letters.keys() == {"unknown_organization"}
    assert found.dead <= {UUID(body["id"]) for body in own}
    # What was stored before its organization went is deleted with it.
    assert len(found.dead) + stored - len(others) == len(own)
