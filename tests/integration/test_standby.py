"""Where Postgres has a synchronous standby, nothing counts as stored before it is there. Here it never answers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest
from batches import batch_of, events, host
from harness import until

from worker.demo.postgres_server import PostgresServer
from worker.errors import SystemUnavailableError
from worker.postgres import session
from worker.postgres.migrations import migrate
from worker.postgres.store import PostgresStore

STORE_WAITS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'usage-worker%' AND wait_event = 'SyncRep'
"""
CANARY_WAITS = "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $1"


class Primary:
    """A server, whose standby is away when it is told so; and an observer of it."""

    def __init__(self, dsn: str, observer: asyncpg.Connection) -> None:
        self.dsn = dsn
        self.observer = observer

    async def lose_standby(self) -> None:
        """From here on commits wait."""
        await self.observer.execute("ALTER SYSTEM SET synchronous_standby_names = 'away'")
        await self.observer.execute("SELECT pg_reload_conf()")
        canary = await asyncpg.connect(self.dsn)
        committing = asyncio.ensure_future(_commit_for_ever(canary))
        pid = canary.get_server_pid()
        await until(lambda: self.observer.fetchval(CANARY_WAITS, pid), "commits wait")
        committing.cancel()
        await asyncio.wait({committing})
        canary.terminate()

    async def find_standby(self) -> None:
        """From here on none waits, nor do those that have."""
        await self.observer.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await self.observer.execute("SELECT pg_reload_conf()")

    async def until_store_waits(self) -> int:
        """Until a commit of the store's waits; the process id of its session."""
        await until(lambda: self.observer.fetchval(f"SELECT EXISTS ({STORE_WAITS})"), "the store's commit waits")
        return int(await self.observer.fetchval(STORE_WAITS))


async def _commit_for_ever(canary: asyncpg.Connection) -> None:
    while True:
        await canary.execute("SELECT pg_logical_emit_message(true, 'test', '')")


@pytest.fixture
async def primary(own_postgres_server: PostgresServer) -> AsyncIterator[Primary]:
    """A migrated database with a user and an organization."""
    dsn = await asyncio.to_thread(own_postgres_server.create_database, "standby")
    connection = await session.connect(dsn, "public", name="migrate")
    await migrate(connection, "public")
    await connection.close()
    async with host(dsn) as observer:
        made = Primary(dsn, observer)
        yield made
        await made.find_standby()


@asynccontextmanager
async def store_on(primary: Primary) -> AsyncIterator[PostgresStore]:
    """A store that has a session already."""
    store = PostgresStore(primary.dsn, "public", worker="test")
    await store.write(batch_of(events(1)))
    try:
        yield store
    finally:
        await store.close()


async def _cancel(primary: Primary, pid: int) -> None:
    assert await primary.observer.fetchval("SELECT pg_cancel_backend($1)", pid)


async def _end(primary: Primary, pid: int) -> None:
    assert await primary.observer.fetchval("SELECT pg_terminate_backend($1)", pid)


@pytest.mark.parametrize("cut_short", [_cancel, _end])
async def test_a_commit_that_was_told_not_to_wait(
    primary: Primary, cut_short: Callable[[Primary, int], Awaitable[None]]
) -> None:
    """An operator ends its wait: it is no commit, and another worker, which finds every event there, waits as well."""
    bodies = events(20)
    async with store_on(primary) as store, store_on(primary) as other:
        await primary.lose_standby()
        writing = asyncio.ensure_future(store.write(batch_of(bodies)))
        await cut_short(primary, await primary.until_store_waits())
        with pytest.raises(SystemUnavailableError):
            await writing
        assert await primary.observer.fetchval("SELECT count(*) FROM ai_usage_logs") == 2 + len(bodies)
        again = asyncio.ensure_future(other.write(batch_of(bodies)))
        await primary.until_store_waits()
        assert not again.done()
        await primary.find_standby()
        written = await again
        assert (written.stored, written.duplicates) == (0, len(bodies))


async def test_a_commit_that_is_not_answered(primary: Primary, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own patience ends its wait on the server, too: the next try waits as well."""
    bodies = events(20)
    monkeypatch.setattr(session, "COMMAND_SECONDS_MAX", 3.0)
    async with store_on(primary) as store:
        await primary.lose_standby()
        for _ in range(2):
            with pytest.raises(SystemUnavailableError, match="synchronous standby is away"):
                await store.write(batch_of(bodies))
        monkeypatch.setattr(session, "COMMAND_SECONDS_MAX", 60.0)
        await primary.find_standby()
        written = await store.write(batch_of(bodies))
        assert written.stored + written.duplicates == len(bodies)


async def test_nothing_is_consumed_meanwhile(primary: Primary, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database does not answer while no commit does: what a worker took it would give back, again and again."""
    monkeypatch.setattr(session, "COMMAND_SECONDS_MAX", 3.0)
    async with store_on(primary) as store:
        await store.close()  # as whoever asks for the database has done since it asked last
        await primary.lose_standby()
        with pytest.raises(SystemUnavailableError, match="synchronous standby is away"):
            await store.ping()
        monkeypatch.setattr(session, "COMMAND_SECONDS_MAX", 60.0)
        await primary.find_standby()
        await until(lambda: _answers(store), "the database answers")


async def _answers(store: PostgresStore) -> bool:
    try:
        await store.ping()
    except SystemUnavailableError:
        return False
    return True
