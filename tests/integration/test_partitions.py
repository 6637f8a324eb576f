"""Partitions on a real server: what hangs on the table goes over, nothing is lost at any step, old months go."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from math import isnan
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from batches import batch_of, events, host, ids
from dividing import NEXT, WIDE, begin_to_divide, divide, finish_dividing, id_of, owner_session
from harness import ORGANIZATION, USER, event
from usage_events.ids import uuid7

from worker.errors import SchemaError, SystemUnavailableError
from worker.postgres.dead_letters.census import PostgresCensus
from worker.postgres.migrations import migrate
from worker.postgres.partitions import briefly as briefly_module
from worker.postgres.partitions.catalogue import State, read_division
from worker.postgres.partitions.drop import drop, find_due
from worker.postgres.partitions.enable import enable
from worker.postgres.partitions.ensure import ensure
from worker.postgres.partitions.inspect import judge_division
from worker.postgres.session import connect
from worker.postgres.store import PostgresStore
from worker.retention.layout import DEFAULT, FUTURE, PAST, TABLE
from worker.retention.months import Month

NOW = datetime.now(UTC).replace(day=15)  # at a month's end the first range begins later
ADD = "INSERT INTO ai_usage_logs (id, user_id, organization_id, created_at) VALUES ($1, $2, $3, $4)"
WHERE = "SELECT tableoid::regclass::text FROM ai_usage_logs WHERE id = $1"


@pytest.fixture
async def database(migrated_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """The host's connection, with `USER` and `ORGANIZATION`."""
    async with host(migrated_dsn) as connection:
        yield connection


@pytest.fixture
async def owner(migrated_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A session as the commands have it."""
    connection = await owner_session(migrated_dsn)
    yield connection
    await connection.close()


async def store(dsn: str, bodies: list[dict[str, Any]]) -> Any:
    """A worker's batch of these."""
    one = PostgresStore(dsn, "public", worker="w")
    try:
        return await one.write(batch_of(bodies))
    finally:
        await one.close()


async def stored(database: asyncpg.Connection) -> list[UUID]:
    """The ids that are there, twice where twice."""
    return [UUID(bytes=row["id"].bytes) for row in await database.fetch("SELECT id FROM ai_usage_logs")]


async def add(database: asyncpg.Connection, one: UUID, created_at: datetime) -> None:
    """A row."""
    await database.execute(ADD, one, USER, ORGANIZATION, created_at)


BELONGINGS = """
CREATE ROLE {0}_reader; CREATE ROLE {0}_clerk;
GRANT SELECT ON ai_usage_logs TO {0}_reader; GRANT SELECT (id, model), UPDATE (model) ON ai_usage_logs TO {0}_clerk;
GRANT INSERT ON ai_usage_logs TO {0}_clerk WITH GRANT OPTION; GRANT SELECT ON ai_usage_daily TO {0}_reader;
ALTER TABLE ai_usage_logs ADD COLUMN note TEXT DEFAULT 'n', ADD CONSTRAINT few CHECK (tokens_used < 1000000);
ALTER TABLE ai_usage_logs SET (fillfactor = 90);
CREATE INDEX host_model ON ai_usage_logs (model) WHERE model IS NOT NULL;
CREATE VIEW by_model WITH (security_barrier = true) AS
    SELECT l.model AS "the Model", count(*) AS n FROM ai_usage_logs l GROUP BY l.model;
CREATE VIEW on_view AS SELECT * FROM by_model;
CREATE TABLE seen (what TEXT, id UUID);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO seen VALUES (TG_NAME || ' ' || TG_OP, coalesce(NEW.id, OLD.id)); RETURN NEW; END $$;
CREATE TRIGGER host_after AFTER INSERT OR DELETE ON ai_usage_logs FOR EACH ROW EXECUTE FUNCTION see();
CREATE TRIGGER host_off AFTER INSERT ON ai_usage_logs FOR EACH ROW EXECUTE FUNCTION see();
ALTER TABLE ai_usage_logs DISABLE TRIGGER host_off;
CREATE TRIGGER host_before BEFORE INSERT ON ai_usage_logs FOR EACH ROW EXECUTE FUNCTION see();
CREATE PUBLICATION {0}_feed FOR TABLE ai_usage_logs (id, model) WHERE (id IS NOT NULL)
    WITH (publish_via_partition_root = true);
"""
SHAPE = """
SELECT 'index ' || replace(pg_get_indexdef(indexrelid), ' ON ONLY ', ' ON ') FROM pg_index WHERE indrelid = $1
UNION ALL SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = $1 AND contype IN ('p', 'f', 'c')
UNION ALL SELECT pg_get_triggerdef(oid) || tgenabled::text FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal
UNION ALL SELECT format('%s %s %s', grantee::regrole, privilege_type, is_grantable)
    FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = $1
UNION ALL SELECT format('%s %s %s', attname, grantee::regrole, privilege_type)
    FROM pg_attribute, aclexplode(attacl) WHERE attrelid = $1
UNION ALL SELECT format('%s %s %s', attname, format_type(atttypid, atttypmod), col_description($1, attnum))
    FROM pg_attribute WHERE attrelid = $1 AND attnum > 0
UNION ALL SELECT format('published as %s %s %s %s', pubname, schemaname || '.' || tablename, attnames, rowfilter)
    FROM pg_publication_tables WHERE tablename LIKE 'ai_usage_logs%'
UNION ALL SELECT 'owner ' || pg_get_userbyid(relowner) || obj_description($1) FROM pg_class WHERE oid = $1
UNION ALL SELECT v || pg_get_viewdef(v) || coalesce((SELECT reloptions::text FROM pg_class WHERE oid = v), '')
    || coalesce((SELECT relacl::text FROM pg_class WHERE oid = v), '')
    FROM unnest('{ai_usage_daily,by_model,on_view}'::regclass[]) v
ORDER BY 1
"""


async def shape(database: asyncpg.Connection) -> list[str]:
    """All that hangs on the table, as texts."""
    table = await database.fetchval("SELECT to_regclass('ai_usage_logs')::oid")
    return [row[0] for row in await database.fetch(SHAPE, table)]


async def test_what_hangs_on_the_table_goes_over(
    migrated_dsn: str, database: asyncpg.Connection, owner: asyncpg.Connection
) -> None:
    """Indexes, keys, checks, triggers, grants, views, comments and publications: the same texts; and they work."""
    prefix = f"t{uuid4().hex[:10]}"
    await database.execute(BELONGINGS.format(prefix))
    old = events(200)
    await store(migrated_dsn, old)
    before = await shape(database)
    assert len(before) > 40
    await database.execute("TRUNCATE seen")
    await divide(owner)
    assert await shape(database) == before
    assert await database.fetchval("SELECT count(*) FROM seen") == 0, "rows that were only moved have fired triggers"
    new = events(200)
    assert (await store(migrated_dsn, old + new)).stored == 200
    fired = await database.fetch("SELECT what, count(*), count(DISTINCT id) FROM seen GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in fired] == [("host_after INSERT", 200, 200), ("host_before INSERT", 400, 400)]
    assert await database.fetchval('SELECT n FROM on_view WHERE "the Model" = $1', "test-model") == 400
    assert set(await stored(database)) == ids(old) | ids(new)
    options = await database.fetch("SELECT DISTINCT reloptions FROM pg_class WHERE relispartition AND relkind = 'r'")
    assert [row[0] for row in options] == [["fillfactor=90"]]
    default_grants = "SELECT count(*) FROM pg_class, aclexplode(relacl) WHERE relname = $1 AND grantee <> relowner"
    assert await database.fetchval(default_grants, DEFAULT) == 0
    await database.execute(f"DROP OWNED BY {prefix}_reader, {prefix}_clerk; DROP ROLE {prefix}_reader, {prefix}_clerk")


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        ("CREATE TABLE bills (event UUID REFERENCES ai_usage_logs)", "the foreign key bills_event_fkey of bills"),
        ("CREATE UNIQUE INDEX once ON ai_usage_logs (user_id, created_at)", "the unique index once does not"),
        ("CREATE MATERIALIZED VIEW m AS SELECT id FROM ai_usage_logs", "the materialized view m reads it"),
        ("ALTER TABLE ai_usage_logs ENABLE ROW LEVEL SECURITY", "it has row security"),
        ("ALTER TABLE ai_usage_logs ADD n BIGINT GENERATED ALWAYS AS IDENTITY", "its column n makes its own values"),
        ("CREATE TABLE child () INHERITS (ai_usage_logs)", "child is its child by inheritance"),
        ("CREATE TABLE copies (row ai_usage_logs)", "column row of table copies uses its type"),
        ("CREATE FUNCTION n() RETURNS uuid BEGIN ATOMIC SELECT id FROM ai_usage_logs; END", "function n() depends"),
        ("CREATE RULE r AS ON DELETE TO ai_usage_logs DO ALSO NOTHING", "the rule r is on it"),
        ("CREATE PUBLICATION {0} FOR TABLE ai_usage_logs", "publication {0} would show its partitions"),
    ],
)  # fmt: skip
async def test_what_stands_in_the_way(
    database: asyncpg.Connection, owner: asyncpg.Connection, statements: str, said: str
) -> None:
    """What would be lost is named before anything is changed."""
    name = f"t{uuid4().hex[:10]}"
    await database.execute(statements.format(name))
    with pytest.raises(SchemaError) as caught:
        await enable(owner, NOW, 3, lambda _: None)
    assert "cannot be divided, and nothing was changed: " in str(caught.value)
    assert said.format(name) in str(caught.value)
    assert (await read_division(owner)).state is State.PLAIN


async def test_while_it_is_begun(migrated_dsn: str, database: asyncpg.Connection, owner: asyncpg.Connection) -> None:
    """Ids that go elsewhere are stored once, seen by all readers, known as duplicates, and judged as others are."""
    old = events(300)
    await store(migrated_dsn, old)
    await begin_to_divide(owner)
    new = events(300)
    conflicts = [one | {"input_tokens": 7} for one in new[:50]]
    for _ in range(2):
        written = await store(migrated_dsn, old + new + [event(user_id=str(uuid4()))])
        assert written.stored + written.duplicates == 600
        assert sum(written.dead.values()) == 1
    assert sum((await store(migrated_dsn, conflicts)).dead.values()) == 50
    assert sorted(await stored(database)) == sorted(ids(old) | ids(new))
    assert await database.fetchval(f"SELECT count(*) FROM {FUTURE}") > 50
    assert await database.fetchval("SELECT sum(request_count) FROM ai_usage_daily") == 600
    mine = await database.fetchval("SELECT log_ai_usage($1, $2, 5)", USER, ORGANIZATION)
    assert UUID(bytes=mine.bytes).version == 7
    await finish_dividing(owner)
    assert sorted(await stored(database)) == sorted(ids(old) | ids(new) | {UUID(bytes=mine.bytes)})
    assert (await store(migrated_dsn, old + new)).duplicates == 600


async def test_two_workers_and_one_id_while_it_is_begun(
    migrated_dsn: str, database: asyncpg.Connection, owner: asyncpg.Connection
) -> None:
    """The same events in many batches at once, and rows moved meanwhile: each is there once."""
    old = events(1000)
    await store(migrated_dsn, old)
    await begin_to_divide(owner)
    new = events(1000)
    halves = [old + new[:500], new, new[250:] + old]
    *written, _ = await asyncio.gather(*(store(migrated_dsn, part) for part in halves), finish_dividing(owner))
    assert [one.stored + one.duplicates for one in written] == [len(part) for part in halves]
    assert sorted(await stored(database)) == sorted(ids(old) | ids(new))


class _KilledError(Exception):
    """The command has died."""


@pytest.mark.parametrize("at", range(1, 40, 3))
async def test_ended_at_any_statement(
    migrated_dsn: str, database: asyncpg.Connection, owner: asyncpg.Connection, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is lost at one statement after the other: events go on being stored, and the next run finishes."""
    old = [event(id=str(id_of(NEXT.plus(3), number, version=4))) for number in range(30)] + events(100)
    await store(migrated_dsn, old)
    execute, count = asyncpg.Connection.execute, 0

    async def dying(self: asyncpg.Connection, *arguments: Any, **options: Any) -> str:
        nonlocal count
        count += self is owner
        if self is owner and count >= at:
            raise _KilledError
        return await execute(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(asyncpg.Connection, "execute", dying)
        with pytest.raises(_KilledError):
            await enable(owner, NOW, 3, lambda _: None)
    owner.terminate()
    new = events(100)
    assert sum((await store(migrated_dsn, old + new)).dead.values()) == 0
    again = await owner_session(migrated_dsn)
    try:
        await enable(again, NOW, 3, lambda _: None)
        division = await read_division(again)
    finally:
        await again.close()
    assert [finding.verdict.value for finding in judge_division(division, NOW)] == ["ok"]
    assert sorted(await stored(database)) == sorted(ids(old) | ids(new))
    assert (await store(migrated_dsn, old + new)).duplicates == len(old + new)


async def test_months_ahead_are_a_metric(migrated_dsn: str, owner: asyncpg.Connection) -> None:
    """NaN while the table is not divided, also in the middle of it; then how many months are ready."""
    census = PostgresCensus(migrated_dsn, "public", name="tests")
    try:
        assert isnan((await census.count()).partition_months_ahead)
        await begin_to_divide(owner)
        assert isnan((await census.count()).partition_months_ahead)
        await finish_dividing(owner)
        assert (await census.count()).partition_months_ahead == 2
    finally:
        census.abandon()


async def test_a_hosts_own_partition_of_that_name(migrated_dsn: str, database: asyncpg.Connection) -> None:
    """A partition of something else that is called as ours are is no number of months, and ends no worker."""
    await database.execute(
        "CREATE TABLE calls (at DATE) PARTITION BY RANGE (at);"
        f"CREATE TABLE {FUTURE} PARTITION OF calls FOR VALUES FROM ('2030-01-01') TO (MAXVALUE)"
    )
    census = PostgresCensus(migrated_dsn, "public", name="t")
    assert isnan((await census.count()).partition_months_ahead)
    census.abandon()


async def test_rows_go_to_their_month(
    migrated_dsn: str, database: asyncpg.Connection, owner: asyncpg.Connection
) -> None:
    """By their ids: months to come, all else to the default; what was in a month by chance moves when it is made."""
    await enable(owner, NOW, 1, lambda _: None)
    by_chance = id_of(NEXT.plus(5), version=4)
    await store(migrated_dsn, [event(id=str(one)) for one in (by_chance, id_of(NEXT), id_of(NEXT.plus(-1)))])
    assert await database.fetchval(WHERE, by_chance) == FUTURE
    assert await database.fetchval(WHERE, id_of(NEXT)) == f"{TABLE}_{NEXT.year}_{NEXT.month:02}"
    assert await database.fetchval(WHERE, id_of(NEXT.plus(-1))) == DEFAULT
    assert len(await ensure(owner, NOW, 7, lambda _: None)) == 6
    assert await ensure(owner, NOW, 7, lambda _: None) == []
    month = NEXT.plus(5)
    assert await database.fetchval(WHERE, by_chance) == f"{TABLE}_{month.year}_{month.month:02}"


async def test_a_month_that_is_not_there_blames_no_event(
    migrated_dsn: str, database: asyncpg.Connection, owner: asyncpg.Connection
) -> None:
    """A partition that somebody has detached is the system's fault: nothing is refused, and all is stored later."""
    await divide(owner, now=NOW)
    this_month = Month.of(datetime.now(UTC))
    await owner.execute(f"ALTER TABLE {TABLE} DETACH PARTITION {DEFAULT}")
    outside = f"id < '{this_month.first_id}' OR id >= '{this_month.plus(1).first_id}'"
    await owner.execute(f"ALTER TABLE {DEFAULT} ADD CONSTRAINT nothing_of_now CHECK ({outside})")
    await owner.execute(f"ALTER TABLE {TABLE} ATTACH PARTITION {DEFAULT} DEFAULT")
    bodies = [event(id=str(uuid7())) for _ in range(3)]
    with pytest.raises(SystemUnavailableError, match="Postgres refuses every row"):
        await store(migrated_dsn, bodies)
    assert await database.fetchval("SELECT count(*) FROM ai_usage_dead_letters") == 0
    await owner.execute(f"ALTER TABLE {DEFAULT} DROP CONSTRAINT nothing_of_now")
    assert (await store(migrated_dsn, bodies)).stored == len(bodies)


async def test_attaching_reads_no_large_table(owner: asyncpg.Connection) -> None:
    """The server itself says that the default partition need not be read, when it is divided and for each month."""
    said: list[str] = []
    owner.add_log_listener(lambda _, message: said.append(message.message or ""))
    await owner.execute("SET client_min_messages = debug1")
    await enable(owner, NOW, 3, lambda _: None)
    implied = f'updated partition constraint for default partition "{DEFAULT}" is implied by existing constraints'
    assert said.count(implied) == 1 + 4
    assert f'verifying table "{DEFAULT}"' not in said
    assert said.count(f'verifying table "{TABLE}"') == 1, "more than the CHECK was validated"


async def test_another_schema(database_dsn: str) -> None:
    """Everything is made in the schema that holds the table, also where another one has a table of the same name."""
    connection = await connect(database_dsn, "app", name="tests")
    try:
        await connection.execute("CREATE TABLE public.ai_usage_logs (id UUID PRIMARY KEY)")
        await migrate(connection, "app")
        await enable(connection, NOW, 2, lambda _: None)
        await ensure(connection, NOW, 3, lambda _: None)
        assert [finding.verdict.value for finding in judge_division(await read_division(connection), NOW)] == ["ok"]
        elsewhere = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
        assert [row[0] for row in await connection.fetch(elsewhere)] == ["ai_usage_logs", "ai_usage_logs_pkey"]
    finally:
        await connection.close()


async def test_months_made_late(migrated_dsn: str, database: asyncpg.Connection, owner: asyncpg.Connection) -> None:
    """Events of months without a partition are in the future's; it becomes theirs, and nothing but a few rows moves."""
    await enable(owner, NOW, 1, lambda _: None)
    late = [event(id=str(id_of(NEXT.plus(months)))) for months in (1, 2, 3)]
    await store(migrated_dsn, late)
    then = NEXT.plus(2).start
    assert judge_division(await read_division(owner), then)[0].verdict.value == "wrong"
    made = await ensure(owner, then, 1, lambda _: None)
    first, last = NEXT.plus(1), NEXT.plus(2)
    name = f"{TABLE}_{first.year}_{first.month:02}_{last.year}_{last.month:02}"
    assert len(made) == 2
    found = [await database.fetchval(WHERE, UUID(one["id"])) for one in late]
    assert found[:2] == [name, name]
    assert found[2] == f"{TABLE}_{NEXT.plus(3).year}_{NEXT.plus(3).month:02}"
    assert [finding.verdict.value for finding in judge_division(await read_division(owner), then)] == ["ok"]


async def test_old_months_go(database: asyncpg.Connection, owner: asyncpg.Connection) -> None:
    """What is old goes with its month; younger rows that were there by chance stay, known for what they are."""
    await enable(owner, NOW, 3, lambda _: None)
    first_kept = NEXT.plus(2)
    young = [id_of(NEXT.plus(months), 99, version=4) for months in (0, 1)]
    for months in (0, 1, 2):
        for number in range(5):
            await add(database, id_of(NEXT.plus(months), number), NEXT.plus(months).start)
    for one in young:
        await add(database, one, first_kept.start)
    due = await find_due(owner, first_kept)
    assert [(one.rows, one.kept) for one in due] == [(6, 1), (6, 1)]
    assert [one async for one in drop(owner, due, first_kept)] == due
    assert sorted(await stored(database)) == sorted([*young, *(id_of(NEXT.plus(2), number) for number in range(5))])
    assert [await database.fetchval(WHERE, one) for one in young] == [PAST, PAST]
    with pytest.raises(asyncpg.UniqueViolationError):
        await add(database, young[0], NOW)
    late = id_of(NEXT, 5)
    await add(database, late, NOW)
    assert await database.fetchval(WHERE, late) == PAST
    assert await find_due(owner, first_kept) == []
    assert [finding.verdict.value for finding in judge_division(await read_division(owner), NOW)] == ["ok"]
    with pytest.raises(SchemaError, match="no longer the oldest"):
        _ = [one async for one in drop(owner, due[:1], first_kept)]


async def test_a_table_that_others_hold(
    migrated_dsn: str, database: asyncpg.Connection, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long transaction of somebody's: others are let through again and again; then it says so, with all as it was."""
    monkeypatch.setattr(briefly_module, "PATIENCE_SECONDS", 2.0)
    steps: list[Callable[[], Awaitable[Any]]] = [
        partial(enable, owner, NOW, 1, lambda _: None),
        partial(ensure, owner, NOW, 2, lambda _: None),
    ]
    rows = 0
    for step in steps:
        before = (await read_division(owner)).layout
        async with host(migrated_dsn) as other, other.transaction():
            await other.execute("LOCK TABLE ai_usage_logs IN ROW EXCLUSIVE MODE")
            holding = asyncio.ensure_future(step())
            while not holding.done():
                await add(database, uuid4(), NOW)
                rows += 1
            with pytest.raises(SystemUnavailableError, match="others held a lock that it needs"):
                holding.result()
        assert (await read_division(owner)).layout == before
        await step()
    assert len(await stored(database)) == rows


async def test_a_user_who_is_deleted(
    migrated_dsn: str, database: asyncpg.Connection, owner: asyncpg.Connection
) -> None:
    """The host's cascade reaches every partition."""
    await divide(owner, WIDE)
    await store(migrated_dsn, [event(id=str(id_of(NEXT.plus(months)))) for months in range(-2, 5)] + events(50))
    await database.execute("DELETE FROM users WHERE id = $1", USER)
    assert await stored(database) == []
