"""Two writers of one process with events in common: neither holds the other up, and nothing is counted twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from batches import Outcomes, batch_of, events, host, ids
from harness import event, until
from usage_events.contract import Reason

from worker.errors import SystemUnavailableError
from worker.postgres.store import PostgresStore, Shared
from worker.store import Written

Stores = tuple[PostgresStore, PostgresStore]
Both = tuple[asyncio.Future[Written], asyncio.Future[Written]]
Body = dict[str, Any]


@pytest.fixture
async def connection(migrated_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """The host's connection, with a user and an organization."""
    async with host(migrated_dsn) as opened:
        yield opened


@pytest.fixture
async def stores(migrated_dsn: str) -> AsyncIterator[Stores]:
    """The two stores of a process."""
    shared = Shared()
    opened = [PostgresStore(migrated_dsn, "public", worker=f"test-{number}", shared=shared) for number in range(2)]
    for store in opened:
        await store.ping()
    yield opened[0], opened[1]
    for store in opened:
        await store.close()


@asynccontextmanager
async def both_writing(
    connection: asyncpg.Connection, dsn: str, stores: Stores, first: list[Body], second: list[Body], own: list[Body]
) -> AsyncIterator[Both]:
    """`first`, which waits in the middle for as long as the block runs, and `second`, whose `own` events are stored."""
    leaving = uuid4()
    await connection.execute("INSERT INTO users VALUES ($1)", leaving)
    async with host(dsn) as other:
        deletion = other.transaction()
        await deletion.start()
        await other.execute("DELETE FROM users WHERE id = $1", leaving)
        ahead = asyncio.ensure_future(stores[0].write(batch_of([*first, event(user_id=str(leaving))])))

        async def is_waiting() -> bool:
            return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"))

        await until(is_waiting, "the first batch waits")
        behind = asyncio.ensure_future(stores[1].write(batch_of(second)))

        async def is_own_stored() -> bool:
            return (await Outcomes.read(connection)).stored == ids(own)

        await until(is_own_stored, "what the second batch has alone is stored")
        assert not ahead.done()
        assert not behind.done()
        yield ahead, behind
        await deletion.rollback()


async def test_neither_waits_with_what_it_has_alone(
    migrated_dsn: str, connection: asyncpg.Connection, stores: Stores
) -> None:
    """While one batch waits, the other stores its own events; those of both are stored once and counted once."""
    both, first, second = events(30), events(20), events(50)
    async with both_writing(connection, migrated_dsn, stores, [*both, *first], [*both, *second], second) as writing:
        pass
    ahead, behind = writing
    assert (await ahead).stored == len(both) + len(first) + 1
    written = await behind
    assert (written.stored, written.duplicates, written.dead) == (len(second), len(both), {})
    assert len((await Outcomes.read(connection)).stored) == len(both) + len(first) + len(second) + 1


async def test_what_a_failed_writer_had_is_stored_by_the_other(
    migrated_dsn: str, connection: asyncpg.Connection, stores: Stores
) -> None:
    """A writer whose session ends in the middle stores nothing: the events of both come in with the other batch."""
    both, second = events(30), events(50)
    async with both_writing(connection, migrated_dsn, stores, both, [*both, *second], second) as (ahead, behind):
        await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted")
        with pytest.raises(SystemUnavailableError):
            await ahead
        written = await behind
    assert (written.stored, written.duplicates) == (len(both) + len(second), 0)


async def test_letters_of_both_parts(migrated_dsn: str, connection: asyncpg.Connection, stores: Stores) -> None:
    """Another content of an event that is being written is a conflict; each letter is counted once."""
    both, second = events(10), events(10)
    changed = [body | {"input_tokens": body["input_tokens"] + 1} for body in both[:3]]
    bad, unknown = events(2, input_tokens=-1), events(2, user_id=str(uuid4()))
    delivered = [*changed, *bad, *second, *unknown, *both[3:]]
    async with both_writing(connection, migrated_dsn, stores, both, delivered, second) as (ahead, behind):
        pass
    await ahead
    written = await behind
    assert written.dead == {Reason.ID_CONFLICT: 3, Reason.INVALID: 2, Reason.UNKNOWN_USER: 2}
    assert (written.stored, written.duplicates) == (len(second), len(both) - len(changed))
    occurrences = await connection.fetch("SELECT reason, occurrences FROM ai_usage_dead_letters ORDER BY reason")
    assert [tuple(row) for row in occurrences] == [
        *[("id_conflict", 1)] * 3,
        *[("invalid", 1)] * 2,
        *[("unknown_user", 1)] * 2,
    ]


async def test_a_cancelled_wait_leaves_the_session_usable(
    migrated_dsn: str, connection: asyncpg.Connection, stores: Stores
) -> None:
    """A stop in the middle of the wait: what was stored stays, and the same batch can be written again."""
    both, second = events(10), events(10)
    async with both_writing(connection, migrated_dsn, stores, both, [*both, *second], second) as (ahead, behind):
        behind.cancel()
        with pytest.raises(asyncio.CancelledError):
            await behind
    await ahead
    written = await stores[1].write(batch_of([*both, *second]))
    assert (written.stored, written.duplicates) == (0, len(both) + len(second))
