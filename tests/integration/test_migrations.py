"""Migrations on a real server: new databases, the host application's, those that hold the usage table already."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest
import stamina.instrumentation

from worker.errors import SchemaError, SystemUnavailableError
from worker.postgres import migrations
from worker.postgres.differences import COLUMNS, INDEXES, differences
from worker.postgres.migrations import Migration, find_migrations, migrate, missing_migrations, schema_version
from worker.postgres.roles import grant_roles
from worker.postgres.session import connect

ALL = [migration.name for migration in find_migrations()]
BROKEN = Migration(9999, "9999_broken.sql", "CREATE TABLE half_done (); SELECT 1 / 0")


@pytest.fixture
async def connection(database_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A session as the migrate command has it, in a fresh database."""
    connection = await connect(database_dsn, "public", name="test")
    yield connection
    await connection.close()


@pytest.fixture
async def other(database_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A second session in the same database: the host application's."""
    connection = await asyncpg.connect(database_dsn)
    yield connection
    await connection.close()


@pytest.fixture
def retried() -> Iterator[asyncio.Event]:
    """Set when something waits before it tries again."""
    event = asyncio.Event()
    stamina.instrumentation.set_on_retry_hooks([lambda _details: event.set()])
    yield event
    stamina.instrumentation.set_on_retry_hooks(None)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for locks are cut short."""
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_MS", 50)
    monkeypatch.setattr(migrations, "PATIENCE_SECONDS", 0.3)


async def tables(connection: asyncpg.Connection, schema: str) -> set[str]:
    """The names of a schema's tables and views."""
    rows = await connection.fetch("SELECT table_name FROM information_schema.tables WHERE table_schema = $1", schema)
    return {row["table_name"] for row in rows}


async def test_a_new_database_gets_everything(connection: asyncpg.Connection) -> None:
    """Every migration is applied and recorded, and the usage table is what it is said to be, comments included."""
    done = await migrate(connection, "public")
    assert [migration.name for migration in done] == ALL
    assert await differences(connection, "public") == []
    assert await missing_migrations(connection, "public") == []
    assert await schema_version(connection, "public") == len(ALL)
    recorded = await connection.fetch("SELECT * FROM ai_usage_migrations ORDER BY version")
    assert [(row["name"], row["checksum"]) for row in recorded] == [(one.name, one.checksum) for one in done]
    assert {row["applied_by"] for row in recorded} == {await connection.fetchval("SELECT session_user::TEXT")}
    described = "SELECT count(col_description('ai_usage_logs'::regclass, place)) FROM generate_series(0, $1) place"
    assert await connection.fetchval(described, len(COLUMNS)) == 1 + len(COLUMNS)
    indexes = "SELECT indexname FROM pg_indexes WHERE tablename = 'ai_usage_logs'"
    assert {row["indexname"] for row in await connection.fetch(indexes)} == {*INDEXES, "ai_usage_logs_pkey"}


async def test_a_second_run_does_nothing(connection: asyncpg.Connection) -> None:
    """Nothing is applied again: the records are those of the first run."""
    await migrate(connection, "public")
    before = await connection.fetch("SELECT * FROM ai_usage_migrations")
    assert await migrate(connection, "public") == []
    assert await connection.fetch("SELECT * FROM ai_usage_migrations") == before


async def test_four_hosts_at_once(database_dsn: str) -> None:
    """One of them does the work, the others wait and find it done; none fails."""
    connections = [await connect(database_dsn, "public", name=f"host {number}") for number in range(4)]
    done = await asyncio.gather(*(migrate(connection, "public") for connection in connections))
    assert sorted(len(applied) for applied in done) == [0, 0, 0, len(ALL)]
    assert await schema_version(connections[0], "public") == len(ALL)
    for connection in connections:
        await connection.close()


async def test_the_hosts_own_users_and_organizations(connection: asyncpg.Connection) -> None:
    """Tables with more columns, rows and their own defaults are used as they are."""
    await connection.execute("""
        CREATE TABLE users (id UUID PRIMARY KEY, email TEXT NOT NULL UNIQUE);
        CREATE TABLE organizations (name TEXT NOT NULL, id UUID PRIMARY KEY, plan TEXT NOT NULL);
        INSERT INTO users SELECT gen_random_uuid(), number || '@example.com' FROM generate_series(1, 100) number;
        INSERT INTO organizations VALUES ('Example', gen_random_uuid(), 'gold');
    """)
    users = await connection.fetch("SELECT xmin, * FROM users")
    await migrate(connection, "public")
    assert await connection.fetch("SELECT xmin, * FROM users") == users
    assert await differences(connection, "public") == []
    await connection.execute("SELECT log_ai_usage(users.id, organizations.id, 5) FROM users, organizations")
    assert await connection.fetchval("SELECT sum(total_tokens) FROM ai_usage_daily") == 500


async def test_a_held_lock_is_waited_for_in_short_tries(
    connection: asyncpg.Connection,
    other: asyncpg.Connection,
    retried: asyncio.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While another session holds users, migrate gives way and tries again; once it is free, it goes through."""
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_MS", 50)
    await other.execute("CREATE TABLE users (id UUID PRIMARY KEY); BEGIN; LOCK TABLE users IN ROW EXCLUSIVE MODE")
    task = asyncio.create_task(migrate(connection, "public"))
    await retried.wait()
    assert await tables(other, "public") == {"users"}
    await other.execute("COMMIT")
    assert [migration.name for migration in await task] == ALL


async def test_roles_are_given_in_short_tries_as_well(
    connection: asyncpg.Connection,
    other: asyncpg.Connection,
    retried: asyncio.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beside workers a table is locked at any moment: it is tried again, where it had failed at the first deadlock."""
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT_MS", 50)
    await migrate(connection, "public")
    await other.execute("BEGIN; LOCK TABLE ai_usage_logs IN ROW EXCLUSIVE MODE")
    task = asyncio.create_task(grant_roles(connection, "public"))
    await retried.wait()
    await other.execute("COMMIT")
    await task
    owner = "SELECT relowner::regrole::text FROM pg_class WHERE oid = 'ai_usage_logs'::regclass"
    assert await other.fetchval(owner) == "usage_owner"


async def test_a_migration_waits_for_two_seconds_at_most(connection: asyncpg.Connection) -> None:
    """The limit and the schema hold inside the transaction alone: the session is afterwards as it was."""
    settings = "SELECT current_setting('lock_timeout') AS lock_timeout, current_setting('search_path') AS search_path"
    before = await connection.fetchrow(settings)
    await migrate(connection, "billing", known=[Migration(1, "0001_seen.sql", f"CREATE TABLE seen AS {settings}")])
    seen = await connection.fetchrow("SELECT * FROM billing.seen")
    assert seen is not None
    assert tuple(seen) == ("2s", "billing, pg_temp")
    assert await connection.fetchrow(settings) == before


async def test_a_lost_connection(connection: asyncpg.Connection, other: asyncpg.Connection) -> None:
    """The server goes away in the middle: that is said as such, nothing has changed, and the lock is free."""
    kill = Migration(1, "0001_kill.sql", "CREATE TABLE half_done (); SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(SystemUnavailableError, match=r"^(Postgres cannot|the connection to Postgres)"):
        await migrate(connection, "public", known=[kill])
    assert await tables(other, "public") == set()
    assert len(await migrate(other, "public")) == len(ALL)


@pytest.mark.usefixtures("hasty", "retried")
async def test_a_lock_held_for_too_long(connection: asyncpg.Connection, other: asyncpg.Connection) -> None:
    """The end of patience is said with the migration, the time, and what to do; nothing has changed."""
    await other.execute("CREATE TABLE users (id UUID PRIMARY KEY); BEGIN; LOCK TABLE users IN ROW EXCLUSIVE MODE")
    with pytest.raises(SystemUnavailableError, match=r"^0001_\w+\.sql changed nothing: for 0\.3 s others held a lock"):
        await migrate(connection, "public")
    await other.execute("COMMIT")
    assert await tables(other, "public") == {"users"}


@pytest.mark.usefixtures("hasty", "retried")
async def test_another_migrate_that_does_not_end(connection: asyncpg.Connection, database_dsn: str) -> None:
    """It is waited for, but not for ever, and its schema alone: another schema is migrated meanwhile."""
    second = await connect(database_dsn, "public", name="second")
    async with migrations.alone(connection, "public"):
        with pytest.raises(SystemUnavailableError, match=r"^another migrate has been at work on schema public for"):
            await migrate(second, "public")
        assert len(await migrate(second, "elsewhere")) == len(ALL)
    assert len(await migrate(second, "public")) == len(ALL)
    await second.close()


async def test_a_dry_run_changes_nothing(connection: asyncpg.Connection) -> None:
    """It names what would be applied, in a session that cannot write, and makes no schema and no record."""
    await connection.execute("SET default_transaction_read_only = on")
    would = await migrate(connection, "billing", dry_run=True)
    assert [migration.name for migration in would] == ALL
    assert not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'billing')")
    assert await tables(connection, "public") == set()


async def test_a_changed_file_is_refused(connection: asyncpg.Connection) -> None:
    """A file whose checksum is not the recorded one stops migrate before it does anything."""
    await migrate(connection, "public", known=find_migrations()[:1])
    first, *rest = find_migrations()
    changed = [Migration(first.version, first.name, first.sql + "\n-- later"), *rest]
    for dry_run in (True, False):
        with pytest.raises(SchemaError, match=r"^0001_\w+\.sql has changed since it was applied"):
            await migrate(connection, "public", known=changed, dry_run=dry_run)
    assert await schema_version(connection, "public") == 1


async def test_a_newer_database_is_refused_but_missing_nothing(connection: asyncpg.Connection) -> None:
    """An older migrate leaves a newer database alone, while an older worker can go on with it."""
    await migrate(connection, "public", known=[*find_migrations(), Migration(9999, "9999_later.sql", "SELECT 1")])
    with pytest.raises(SchemaError, match=r"^the database is at migration 9999, this version knows up to 000\d"):
        await migrate(connection, "public")
    assert await missing_migrations(connection, "public") == []


async def test_a_failure_in_the_middle(connection: asyncpg.Connection) -> None:
    """The failing migration leaves nothing, those before it stay, and the next run goes on after them."""
    with pytest.raises(SchemaError, match=r"^9999_broken\.sql failed and changed nothing: .*division by zero"):
        await migrate(connection, "public", known=[*find_migrations(), BROKEN])
    assert await schema_version(connection, "public") == len(ALL)
    assert "half_done" not in await tables(connection, "public")
    mended = Migration(BROKEN.version, BROKEN.name, "CREATE TABLE half_done ()")
    assert await migrate(connection, "public", known=[*find_migrations(), mended]) == [mended]


async def test_a_failure_at_the_start(connection: asyncpg.Connection) -> None:
    """Not even the schema is left behind."""
    with pytest.raises(SchemaError, match=r"^9999_broken\.sql failed"):
        await migrate(connection, "billing", known=[BROKEN])
    assert not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'billing')")


async def test_another_schema_than_public(connection: asyncpg.Connection, other: asyncpg.Connection) -> None:
    """A name that needs quotes works, also for callers without it on their path; tables elsewhere are not its."""
    await connection.execute("CREATE TABLE users (id INTEGER); CREATE TEMPORARY TABLE organizations (id INTEGER)")
    await migrate(connection, "Billing")
    assert await differences(connection, "Billing") == []
    assert await tables(connection, "public") == {"users"}
    user = await other.fetchval('INSERT INTO "Billing".users DEFAULT VALUES RETURNING id')
    organization = await other.fetchval('INSERT INTO "Billing".organizations DEFAULT VALUES RETURNING id')
    logged = await other.fetchval('SELECT "Billing".log_ai_usage($1, $2, 7)', user, organization)
    assert await other.fetchval('SELECT id FROM "Billing".ai_usage_logs') == logged


async def test_a_role_that_may_only_read(connection: asyncpg.Connection, other: asyncpg.Connection) -> None:
    """What `check` and `run` ask can be answered with SELECT on one table; without it the right is named."""
    await migrate(connection, "public")
    role = f"reader_{await connection.fetchval('SELECT pg_backend_pid()')}"
    await connection.execute(f"CREATE ROLE {role}")
    try:
        await other.execute(f"SET ROLE {role}")
        with pytest.raises(SchemaError, match=r"^public\.ai_usage_migrations cannot be read: .*permission denied"):
            await missing_migrations(other, "public")
        await connection.execute(f"GRANT SELECT ON ai_usage_migrations TO {role}")
        assert await missing_migrations(other, "public") == []
        assert await schema_version(other, "public") == len(ALL)
        assert await differences(other, "public") == []
    finally:
        await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
