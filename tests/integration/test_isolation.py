"""Which row is it? A bad one is found and set aside, its neighbours are stored; the system's failures blame no row."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from asyncpg.transaction import Transaction
from batches import Outcomes, batch_of, events, host, ids
from harness import event, until
from usage_events.contract import Reason

from worker.batch import Batch, Entry
from worker.errors import SystemUnavailableError
from worker.postgres.isolate import NAMED_LINES_MAX
from worker.postgres.store import PostgresStore

BATCH_EVENTS = 100
PLACES = [pytest.param(0, id="first"), pytest.param(50, id="middle"), pytest.param(BATCH_EVENTS - 1, id="last")]

# What a host application may have put on the table, each refusing the model `poison`.
REFUSALS = {
    "trigger": """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'no poison here'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON ai_usage_logs FOR EACH ROW WHEN (NEW.model = 'poison')
        EXECUTE FUNCTION refuse()
    """,
    "check": "ALTER TABLE ai_usage_logs ADD CONSTRAINT no_poison CHECK (model <> 'poison')",
    "deferred": """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'no poison at the commit'; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON ai_usage_logs DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (NEW.model = 'poison') EXECUTE FUNCTION refuse()
    """,
    "foreign key": """
        CREATE TABLE models (name TEXT PRIMARY KEY);
        INSERT INTO models VALUES ('test-model');
        ALTER TABLE ai_usage_logs ADD FOREIGN KEY (model) REFERENCES models (name)
    """,
}
STATES = {"trigger": "P0001", "check": "23514", "deferred": "P0001", "foreign key": "23503"}


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


@pytest.mark.parametrize(
    ("refusal", "place"),
    [
        ("trigger", 0),
        ("trigger", BATCH_EVENTS // 2),
        ("trigger", BATCH_EVENTS - 1),
        ("check", 0),
        ("deferred", BATCH_EVENTS // 2),
        ("foreign key", BATCH_EVENTS - 1),
    ],
)
async def test_one_bad_row_is_set_aside_wherever_it_stands(
    connection: asyncpg.Connection, store: PostgresStore, refusal: str, place: int
) -> None:
    """The row that a host's rule refuses becomes a letter with the database's words; all others are stored."""
    await connection.execute(REFUSALS[refusal])
    bodies = events(BATCH_EVENTS)
    bodies[place]["model"] = "poison"
    written = await store.write(batch_of(bodies))
    found = await Outcomes.read(connection)
    bad = UUID(bodies[place]["id"])
    assert (written.stored, written.dead) == (BATCH_EVENTS - 1, {Reason.REJECTED_BY_DATABASE: 1})
    assert found.stored == ids(bodies) - {bad}
    assert found.dead == {bad: "rejected_by_database"}
    assert f"(SQLSTATE {STATES[refusal]})" in found.errors[bad][0]["message"]


async def test_a_hosts_unique_index_isolates_its_row(connection: asyncpg.Connection, store: PostgresStore) -> None:
    """A second row under a host's own unique index is a letter: the merge's conflict target does not swallow it."""
    await connection.execute("CREATE UNIQUE INDEX one_invoice ON ai_usage_logs ((request_metadata ->> 'invoice'))")
    bodies = [event(request_metadata={"invoice": str(number)}) for number in range(10)]
    await store.write(batch_of(bodies))
    again = [*events(5), event(request_metadata={"invoice": "3"}), *events(5)]
    written = await store.write(batch_of(again))
    found = await Outcomes.read(connection)
    bad = UUID(again[5]["id"])
    assert (written.stored, written.duplicates, written.dead) == (10, 0, {Reason.REJECTED_BY_DATABASE: 1})
    assert found.stored == (ids(bodies) | ids(again)) - {bad}
    assert "(SQLSTATE 23505)" in found.errors[bad][0]["message"]


async def test_two_rows_of_a_batch_that_exclude_each_other(
    connection: asyncpg.Connection, store: PostgresStore
) -> None:
    """Two rows that each pass alone but not together: one is stored, one is a letter, and the batch does not hang."""
    await connection.execute("CREATE UNIQUE INDEX one_invoice ON ai_usage_logs ((request_metadata ->> 'invoice'))")
    bodies = [
        *events(7),
        event(request_metadata={"invoice": "1"}),
        *events(6),
        event(request_metadata={"invoice": "1"}),
        *events(3),
    ]
    written = await store.write(batch_of(bodies))
    found = await Outcomes.read(connection)
    assert (written.stored, written.dead) == (len(bodies) - 1, {Reason.REJECTED_BY_DATABASE: 1})
    assert len(found.stored) == len(bodies) - 1
    assert found.stored | found.dead.keys() == ids(bodies)


async def test_many_bad_rows_harm_no_other(connection: asyncpg.Connection, store: PostgresStore) -> None:
    """A batch with k bad rows stores all the others, also for k beyond what is tried one by one."""
    await connection.execute(REFUSALS["check"])
    bodies = [event(model="poison" if number % 13 == 0 else "good") for number in range(200)]
    written = await store.write(batch_of(bodies))
    found = await Outcomes.read(connection)
    bad = ids([body for body in bodies if body["model"] == "poison"])
    assert written.dead == {Reason.REJECTED_BY_DATABASE: len(bad)}
    assert found.stored == ids(bodies) - bad
    assert found.dead == dict.fromkeys(bad, "rejected_by_database")


@pytest.mark.parametrize("count", [1, 8])
async def test_a_batch_of_bad_rows_alone(connection: asyncpg.Connection, store: PostgresStore, count: int) -> None:
    """Where every row of a batch is bad but a good one would pass, it is the rows."""
    await connection.execute(REFUSALS["check"])
    bodies = events(count, model="poison")
    written = await store.write(batch_of(bodies))
    assert (written.stored, written.dead) == (0, {Reason.REJECTED_BY_DATABASE: count})
    assert (await Outcomes.read(connection)).dead == dict.fromkeys(ids(bodies), "rejected_by_database")


@pytest.mark.parametrize("deferred", [False, True])
async def test_what_refuses_every_row_is_the_system(
    connection: asyncpg.Connection, store: PostgresStore, *, deferred: bool
) -> None:
    """A host's trigger that refuses everything makes no letter; when it is gone the same batch is stored."""
    await connection.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN RAISE EXCEPTION 'closed for the audit'; END $$"
    )
    kind = "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON ai_usage_logs DEFERRABLE INITIALLY DEFERRED"
    if not deferred:
        kind = "CREATE TRIGGER refuse BEFORE INSERT ON ai_usage_logs"
    await connection.execute(f"{kind} FOR EACH ROW EXECUTE FUNCTION refuse()")
    bodies = events(5)
    batch = batch_of(bodies)
    with pytest.raises(SystemUnavailableError, match=r"refuses every row.*closed for the audit.*P0001"):
        await store.write(batch)
    found = await Outcomes.read(connection)
    assert (found.stored, found.dead) == (set(), {})
    await connection.execute("DROP TRIGGER refuse ON ai_usage_logs")
    await store.write(batch)
    assert (await Outcomes.read(connection)).stored == ids(bodies)


@pytest.mark.parametrize("bad_rows", [1, NAMED_LINES_MAX + 3])
@pytest.mark.parametrize("place", PLACES)
async def test_what_copy_refuses_is_found_by_its_line(
    connection: asyncpg.Connection, store: PostgresStore, place: int, bad_rows: int
) -> None:
    """A value that validation should not have let through is named by COPY's line, and is set aside alone."""
    bodies = events(BATCH_EVENTS, request_metadata={"a": 1})
    places = {(place + 7 * number) % BATCH_EVENTS for number in range(bad_rows)}
    batch = _with_unstorable_metadata(batch_of(bodies), places)
    written = await store.write(batch)
    found = await Outcomes.read(connection)
    bad = ids([bodies[number] for number in places])
    assert written.dead == {Reason.REJECTED_BY_DATABASE: bad_rows}
    assert found.stored == ids(bodies) - bad
    assert found.dead == dict.fromkeys(bad, "rejected_by_database")
    assert all("(SQLSTATE 22P05)" in errors[0]["message"] for errors in found.errors.values())


def _with_unstorable_metadata(batch: Batch, places: set[int]) -> Batch:
    """The batch with a text in some rows' metadata that `jsonb` does not take, as a fault of validation would leave."""
    changed = Batch(batch.opened_at)
    for place, entry in enumerate(batch.entries):
        decoded = entry.decoded
        if place in places:
            accepted = decoded.events[0]._replace(metadata_json=rb'{"a": "\u0000"}')
            decoded = decoded._replace(events=[accepted])
        changed.add(Entry(entry.delivery, decoded))
    return changed


async def test_a_lost_connection_while_isolating_blames_no_row(
    connection: asyncpg.Connection, store: PostgresStore
) -> None:
    """Where the session is ended in the middle of the search, nothing is written, and the next try finds the row."""
    # The first session to meet the poison reports it, every later one is ended by the host meanwhile.
    await connection.execute(
        """
        CREATE TABLE ended (pid INTEGER);
        CREATE SEQUENCE met;
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('met') = 2 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
            RAISE EXCEPTION 'no poison here';
        END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON ai_usage_logs FOR EACH ROW WHEN (NEW.model = 'poison')
        EXECUTE FUNCTION refuse()
        """
    )
    bodies = [*events(3), event(model="poison"), *events(3)]
    batch = batch_of(bodies)
    with pytest.raises(SystemUnavailableError):
        await store.write(batch)
    found = await Outcomes.read(connection)
    assert (found.stored, found.dead) == (set(), {})
    await store.write(batch)
    found = await Outcomes.read(connection)
    bad = UUID(bodies[3]["id"])
    assert (found.stored, found.dead) == (ids(bodies) - {bad}, {bad: "rejected_by_database"})


@pytest.mark.parametrize(("table", "reason"), [("users", "unknown_user"), ("organizations", "unknown_organization")])
async def test_a_parent_that_is_deleted_while_its_batch_merges(
    migrated_dsn: str, connection: asyncpg.Connection, store: PostgresStore, table: str, reason: str
) -> None:
    """A user or organization that goes between the join and the key's check costs its own events, no others."""
    leaving = uuid4()
    await connection.execute(f"INSERT INTO {table} VALUES ($1)", leaving)
    column = {"users": "user_id", "organizations": "organization_id"}[table]
    bodies = [*events(5), event(**{column: str(leaving)}), *events(5)]
    async with host(migrated_dsn) as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute(f"DELETE FROM {table} WHERE id = $1", leaving)
        writing = asyncio.ensure_future(store.write(batch_of(bodies)))
        await _until_blocked(connection, by=other.get_server_pid())
        await transaction.commit()
    written = await writing
    found = await Outcomes.read(connection)
    bad = UUID(bodies[5]["id"])
    assert written.stored == len(bodies) - 1
    assert (found.stored, found.dead) == (ids(bodies) - {bad}, {bad: reason})


async def test_every_parent_of_a_batch_is_deleted_in_turn(
    migrated_dsn: str, connection: asyncpg.Connection, store: PostgresStore
) -> None:
    """More deletions than the merge is run again for are no row's fault: nothing is `rejected_by_database`."""
    leaving = [uuid4() for _ in range(5)]
    await connection.executemany("INSERT INTO users VALUES ($1)", [(user,) for user in leaving])
    bodies = [*events(3), *(event(user_id=str(user)) for user in leaving)]
    batch = batch_of(bodies)
    async with AsyncExitStack() as hosts:
        deletions: dict[int, Transaction] = {}
        for user in leaving:
            other = await hosts.enter_async_context(host(migrated_dsn))
            deletions[other.get_server_pid()] = await _deletion(other, user)
        writing = asyncio.ensure_future(store.write(batch))
        while deletions:
            blocking = await _blocking(connection, deletions, writing)
            if blocking is None:  # it gave up: written again, as the pipeline does after its pause
                assert isinstance(writing.exception(), SystemUnavailableError)
                writing = asyncio.ensure_future(store.write(batch))
            else:
                await deletions.pop(blocking).commit()
    try:
        await writing
    except SystemUnavailableError:
        await store.write(batch)
    found = await Outcomes.read(connection)
    gone = ids(bodies[3:])
    assert (found.stored, found.dead) == (ids(bodies) - gone, dict.fromkeys(gone, "unknown_user"))


async def _deletion(other: asyncpg.Connection, user: UUID) -> Transaction:
    """An open transaction that has deleted the user."""
    transaction = other.transaction()
    await transaction.start()
    await other.execute("DELETE FROM users WHERE id = $1", user)
    return transaction


async def _blocking(
    connection: asyncpg.Connection, deletions: dict[int, Transaction], writing: asyncio.Future[Any]
) -> int | None:
    """The session that the write waits for; `None`: the write has ended."""
    found: list[int] = []

    async def blocked_or_ended() -> bool:
        query = "SELECT b.pid FROM pg_stat_activity a, unnest(pg_blocking_pids(a.pid)) b (pid) WHERE b.pid = ANY ($1)"
        found[:] = [row["pid"] for row in await connection.fetch(query, list(deletions))]
        return bool(found) or writing.done()

    await until(blocked_or_ended, "the store waits for a deletion")
    return found[0] if found else None


async def _until_blocked(connection: asyncpg.Connection, *, by: int) -> None:
    """Until a session waits for a lock of this one."""

    async def blocked() -> bool:
        query = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid)))"
        return bool(await connection.fetchval(query, by))

    await until(blocked, "the store waits for the deletion")


async def test_what_is_logged_of_a_refusal_holds_no_row(connection: asyncpg.Connection, store: PostgresStore) -> None:
    """The server quotes the row that it refuses; in the error that the worker logs the row is left out."""
    await connection.execute("ALTER TABLE ai_usage_logs ADD CONSTRAINT closed CHECK (false)")
    with pytest.raises(SystemUnavailableError) as caught:
        await store.write(batch_of(events(1, request_metadata={"patient": "Doe"})))
    assert 'violates check constraint "closed" (SQLSTATE 23514)' in str(caught.value)
    assert "Failing row" not in str(caught.value)
