"""The database's own failures: every one leaves the batch unwritten and blames no event; the next try stores it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from batches import Outcomes, batch_of, events, host, ids
from harness import until

from worker.errors import SystemUnavailableError
from worker.postgres import session
from worker.postgres.migrations import migrate
from worker.postgres.store import PostgresStore

# One of each class that says something about the system, and of classes that no rule names.
SYSTEM_STATES = (
    "08006", "0A000", "25006", "28000", "3D000", "40001", "40P01", "42501", "42703", "42P01", "53100", "53200",
    "53300", "54000", "55P03", "57014", "57P01", "58030", "F0000", "P0002", "XX000", "XX001", "HV000",
)  # fmt: skip


@pytest.fixture
async def connection(migrated_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """The host's connection, with a user and an organization."""
    async with host(migrated_dsn) as opened:
        yield opened


@pytest.fixture
async def store(migrated_dsn: str) -> AsyncIterator[PostgresStore]:
    """The store under test."""
    opened = PostgresStore(migrated_dsn, "public", worker="test")
    yield opened
    await opened.close()


async def _fails_then_stores(
    store: PostgresStore,
    connection: asyncpg.Connection,
    why: str,
    *,
    mend: Callable[[], Awaitable[Any]],
) -> None:
    """While it is broken nothing is written and nothing is refused; mended, the same batch is stored."""
    bodies = events(20)
    batch = batch_of(bodies)
    for _ in range(2):
        with pytest.raises(SystemUnavailableError, match=why):
            await store.write(batch)
    await mend()
    written = await store.write(batch)
    found = await Outcomes.read(connection)
    assert (written.stored, written.duplicates, written.dead) == (len(bodies), 0, {})
    assert (found.stored, found.dead) == (ids(bodies), {})


async def test_what_the_server_says_of_itself_blames_no_row(
    connection: asyncpg.Connection, store: PostgresStore
) -> None:
    """A full disk, a lock, a cancelled statement, a class nobody knows: the system, and no dead letter."""
    await connection.execute("CREATE TABLE failure (state TEXT)")
    await connection.execute(
        """
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE failing TEXT := (SELECT state FROM failure);
        BEGIN
            IF failing IS NULL THEN RETURN NEW; END IF;
            RAISE EXCEPTION 'could not extend file' USING ERRCODE = failing;
        END $$;
        CREATE TRIGGER fail BEFORE INSERT ON ai_usage_logs FOR EACH ROW EXECUTE FUNCTION fail()
        """
    )
    bodies = events(20)
    batch = batch_of(bodies)
    for state in SYSTEM_STATES:
        await connection.execute("TRUNCATE failure")
        await connection.execute("INSERT INTO failure VALUES ($1)", state)
        with pytest.raises(SystemUnavailableError, match=rf"could not extend file \(SQLSTATE {state}\)"):
            await store.write(batch)
        found = await Outcomes.read(connection)
        assert (found.stored, found.dead) == (set(), {}), state
    await connection.execute("TRUNCATE failure")
    await store.write(batch)
    assert (await Outcomes.read(connection)).stored == ids(bodies)


@pytest.mark.parametrize(
    ("away", "back"),
    [
        ("ALTER TABLE ai_usage_logs RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO ai_usage_logs"),
        ("ALTER TABLE users RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO users"),
        (
            "ALTER TABLE ai_usage_logs RENAME COLUMN endpoint TO elsewhere",
            "ALTER TABLE ai_usage_logs RENAME COLUMN elsewhere TO endpoint",
        ),
    ],
    ids=["events", "users", "column"],
)
async def test_a_table_or_column_that_is_away(
    connection: asyncpg.Connection, store: PostgresStore, away: str, back: str
) -> None:
    """A table or a column that a migration of the host's has moved is waited for."""
    await connection.execute(away)
    await _fails_then_stores(store, connection, "SQLSTATE 42(P01|703)", mend=lambda: connection.execute(back))


async def test_the_dead_letters_table_is_away(connection: asyncpg.Connection, store: PostgresStore) -> None:
    """A batch with a reject is not stored by halves: its good events wait with the letter for the table."""
    await connection.execute("ALTER TABLE ai_usage_dead_letters RENAME TO elsewhere")
    good, bad = events(3), events(1, input_tokens=-1)
    batch = batch_of([*good, *bad])
    with pytest.raises(SystemUnavailableError, match="SQLSTATE 42P01"):
        await store.write(batch)
    assert await connection.fetchval("SELECT count(*) FROM ai_usage_logs") == 0
    await connection.execute("ALTER TABLE elsewhere RENAME TO ai_usage_dead_letters")
    await store.write(batch)
    found = await Outcomes.read(connection)
    assert (found.stored, found.dead) == (ids(good), dict.fromkeys(ids(bad), "invalid"))


async def test_a_lock_that_outlasts_its_time_out(
    connection: asyncpg.Connection, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that the host has locked is waited for, a bounded time at once."""
    monkeypatch.setitem(session.PINS, "lock_timeout", "100ms")
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("LOCK TABLE ai_usage_logs IN ACCESS EXCLUSIVE MODE")
    await _fails_then_stores(store, connection, "SQLSTATE 55P03", mend=transaction.commit)


async def test_a_read_only_server(connection: asyncpg.Connection, store: PostgresStore) -> None:
    """A server that turns read-only under an open session is left at once, and found again when it takes writes."""
    name = await connection.fetchval("SELECT current_database()")
    await store.write(batch_of(events(1)))
    await connection.execute("TRUNCATE ai_usage_logs")
    # For this database alone; what is connected is told by ending it.
    await connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    await connection.execute(_END_STORES)
    await _fails_then_stores(
        store,
        connection,
        "does not answer|failed|SQLSTATE",
        mend=lambda: connection.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only'),
    )


async def test_a_session_that_turns_read_only(connection: asyncpg.Connection, store: PostgresStore) -> None:
    """25006 within a session, as after a failover: the session is given up, not used again."""
    await store.write(batch_of(events(1)))
    await connection.execute("TRUNCATE ai_usage_logs")
    held = store._session._connection
    assert held is not None
    await held.execute("SET default_transaction_read_only = on")
    bodies = events(5)
    batch = batch_of(bodies)
    with pytest.raises(SystemUnavailableError, match="SQLSTATE 25006"):
        await store.write(batch)
    await store.write(batch)
    assert (await Outcomes.read(connection)).stored == ids(bodies)


_END_STORES = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'usage-worker%'
"""


async def test_a_session_that_is_ended_in_its_transaction(
    connection: asyncpg.Connection, store: PostgresStore, migrated_dsn: str
) -> None:
    """An administrator ends the session while it writes: nothing of the batch stays, the next session writes it."""
    bodies = events(50)
    batch = batch_of(bodies)
    async with host(migrated_dsn) as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        writing = asyncio.ensure_future(store.write(batch))
        await _until_one_waits(connection)
        await connection.execute(_END_STORES)
        with pytest.raises(SystemUnavailableError):
            await writing
        await transaction.rollback()
    await store.write(batch)
    found = await Outcomes.read(connection)
    assert (found.stored, found.dead) == (ids(bodies), {})


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_restart_in_the_middle_of_a_transaction(own_postgres_server: Any, mode: str) -> None:
    """A server that restarts while a batch is written holds all of it afterwards, or nothing until the next try."""
    dsn = await _migrated(own_postgres_server)
    store = PostgresStore(dsn, "public", worker="test")
    bodies = events(50)
    batch = batch_of(bodies)
    async with host(dsn) as other, host(dsn) as watching:
        await other.execute("BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE")
        writing = asyncio.ensure_future(store.write(batch))
        await _until_one_waits(watching)
        await asyncio.to_thread(own_postgres_server.restart, mode)
        with pytest.raises(SystemUnavailableError):
            await writing
    written = await store.write(batch)
    assert (written.stored, written.duplicates) == (len(bodies), 0)
    await store.close()


async def test_a_server_that_is_frozen(own_postgres_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers nothing at all is given up after the client's own time-out, and used when it is back."""
    monkeypatch.setattr(session, "COMMAND_SECONDS_MAX", 0.5)
    monkeypatch.setattr(session, "CONNECT_SECONDS_MAX", 0.5)
    dsn = await _migrated(own_postgres_server)
    store = PostgresStore(dsn, "public", worker="test")
    first, second = events(5), events(5)
    async with host(dsn) as connection:
        await store.write(batch_of(first))
        own_postgres_server.freeze()
        try:
            for _ in range(2):  # over the open session, then over a new one
                with pytest.raises(SystemUnavailableError):
                    await store.write(batch_of(second))
        finally:
            own_postgres_server.thaw()
        await until(lambda: _is_written(store, second), "the store writes again")
        found = await Outcomes.read(connection)
    assert (found.stored, found.dead) == (ids(first) | ids(second), {})
    await store.close()


async def _is_written(store: PostgresStore, bodies: list[dict[str, Any]]) -> bool:
    try:
        await store.write(batch_of(bodies))
    except SystemUnavailableError:
        return False
    return True


async def test_a_commit_whose_answer_is_lost(connection: asyncpg.Connection, store: PostgresStore) -> None:
    """A batch that was committed although its writer heard nothing is known the second time: nothing is doubled."""
    bodies, bad = events(20), events(1, input_tokens=-1)
    batch = batch_of([*bodies, *bad])
    await store.write(batch)
    written = await store.write(batch)
    assert (written.stored, written.duplicates) == (0, len(bodies))
    found = await Outcomes.read(connection)
    assert (found.stored, found.dead) == (ids(bodies), dict.fromkeys(ids(bad), "invalid"))
    assert await connection.fetchval("SELECT occurrences FROM ai_usage_dead_letters") == 2


async def _until_one_waits(connection: asyncpg.Connection) -> None:
    """Until a session of the store's waits for a lock."""

    async def waits() -> bool:
        return bool(
            await connection.fetchval(
                """
                SELECT EXISTS (
                    SELECT FROM pg_stat_activity WHERE datname = current_database()
                    AND application_name LIKE 'usage-worker%' AND wait_event_type = 'Lock'
                )
                """
            )
        )

    await until(waits, "the store waits for a lock")


async def _migrated(server: Any) -> str:
    """A migrated database on this server."""
    dsn = str(await asyncio.to_thread(server.create_database, "faults"))
    connection = await session.connect(dsn, "public", name="migrate")
    await migrate(connection, "public")
    await connection.close()
    return dsn
