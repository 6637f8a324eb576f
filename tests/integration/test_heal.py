"""Healing: letters that lacked a user or an organization are stored by the worker itself once both exist."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from batches import batch_of, events, host, ids
from harness import event, until

from worker.heal import Healer
from worker.postgres.dead_letters import heal
from worker.postgres.dead_letters.carry import CarryOptions
from worker.postgres.dead_letters.heal import PostgresHealing
from worker.postgres.store import PostgresStore

OPTIONS = CarryOptions("healer", max_age_seconds=3_024_000, max_ahead_seconds=300, action="healed")


@pytest.fixture
async def database(migrated_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """The host's connection, with a user and an organization."""
    async with host(migrated_dsn) as opened:
        yield opened


async def refuse(dsn: str, bodies: list[dict[str, Any]]) -> None:
    """The worker gets these."""
    store = PostgresStore(dsn, "public", worker="refuser", utcnow=lambda: datetime.now(UTC))
    await store.write(batch_of(bodies))
    await store.close()


async def stored(database: asyncpg.Connection) -> set[UUID]:
    """The ids of all rows."""
    return {UUID(bytes=row["id"].bytes) for row in await database.fetch("SELECT id FROM ai_usage_logs")}


async def test_only_what_can_be_healed_is(migrated_dsn: str, database: asyncpg.Connection) -> None:
    """User and organization must both exist; other reasons, and letters that an operator discarded, are not touched."""
    user, organization = str(uuid4()), str(uuid4())
    healable = events(20, user_id=user)
    half = event(user_id=user, organization_id=organization)
    discarded = event(user_id=user, endpoint="/discarded")
    await refuse(migrated_dsn, [*healable, half, discarded, event(input_tokens=-1), event(user_id=str(uuid4()))])
    await database.execute(
        "UPDATE ai_usage_dead_letters SET status = 'discarded' WHERE event_id = $1", UUID(discarded["id"])
    )
    healing = PostgresHealing(migrated_dsn, "public", OPTIONS)
    assert await healing.heal() == 0
    await database.execute("INSERT INTO users VALUES ($1)", UUID(user))
    assert await healing.heal() == 20
    assert await stored(database) == ids(healable)
    await database.execute("INSERT INTO organizations VALUES ($1)", UUID(organization))
    assert await healing.heal() == 1
    assert await healing.heal() == 0
    rows = await database.fetch("SELECT who, action, from_status, to_status FROM ai_usage_dead_letter_actions")
    assert {tuple(row.values()) for row in rows} == {("healer", "healed", "open", "recovered")}
    assert len(rows) == 21


async def test_a_round_is_bounded_and_the_next_goes_on(
    migrated_dsn: str, database: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round carries so many letters at most; one that stays open does not keep the others from their turn."""
    monkeypatch.setattr(heal, "LETTERS_MAX", 10)
    monkeypatch.setattr(heal, "TRANSACTIONS_MAX", 2)
    user, stubborn = str(uuid4()), event(user_id=str(uuid4()))
    await refuse(migrated_dsn, [stubborn])
    bodies = events(45, user_id=user)
    await refuse(migrated_dsn, bodies)
    await database.execute("INSERT INTO users VALUES ($1), ($2)", UUID(user), UUID(stubborn["user_id"]))
    # It was mended to a user that does not exist either.
    await database.execute(
        "UPDATE ai_usage_dead_letters SET edited_body = $2 WHERE event_id = $1",
        UUID(stubborn["id"]),
        json.dumps(stubborn | {"user_id": str(uuid4())}).encode(),
    )
    healing = PostgresHealing(migrated_dsn, "public", OPTIONS)
    assert [await healing.heal() for _ in range(5)] == [19, 20, 6, 0, 0]
    assert await stored(database) == ids(bodies)


async def test_one_worker_at_a_time(migrated_dsn: str, database: asyncpg.Connection) -> None:
    """While another worker heals, nothing is done; when its connection is gone, it is."""
    bodies = events(3, user_id=str(uuid4()))
    await refuse(migrated_dsn, bodies)
    await database.execute("INSERT INTO users VALUES ($1)", UUID(bodies[0]["user_id"]))
    healing = PostgresHealing(migrated_dsn, "public", OPTIONS)
    async with host(migrated_dsn) as other:
        assert await other.fetchval(heal._LOCK)
        assert await healing.heal() == 0
    await until(lambda: _is_free(database), "the lock of the other is gone")
    assert await healing.heal() == 3


async def _is_free(database: asyncpg.Connection) -> bool:
    return not await database.fetchval(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND database ="
        " (SELECT oid FROM pg_database WHERE datname = current_database()))"
    )


async def test_what_the_database_refuses_is_told(migrated_dsn: str, database: asyncpg.Connection) -> None:
    """A letter that a host's constraint refuses gets that reason and is not tried again; the others are healed."""
    await database.execute("ALTER TABLE ai_usage_logs ADD CONSTRAINT no_poison CHECK (model <> 'poison')")
    user = str(uuid4())
    bodies = [*events(5, user_id=user), event(user_id=user, model="poison")]
    await refuse(migrated_dsn, bodies)
    await database.execute("INSERT INTO users VALUES ($1)", UUID(user))
    healing = PostgresHealing(migrated_dsn, "public", OPTIONS)
    assert [await healing.heal(), await healing.heal()] == [5, 0]
    row = await database.fetchrow("SELECT reason, status FROM ai_usage_dead_letters WHERE model = 'poison'")
    assert row is not None
    assert tuple(row.values()) == ("rejected_by_database", "open")


async def test_stopped_in_the_middle_of_a_round(migrated_dsn: str, database: asyncpg.Connection) -> None:
    """A stop does not wait for a lock that somebody holds: the healer is gone at once, and nothing is half done."""
    bodies = events(3, user_id=str(uuid4()))
    await refuse(migrated_dsn, bodies)
    await database.execute("INSERT INTO users VALUES ($1)", UUID(bodies[0]["user_id"]))
    healer = Healer(PostgresHealing(migrated_dsn, "public", OPTIONS), interval_seconds=0.0)
    async with host(migrated_dsn) as other, other.transaction():
        await other.execute("LOCK TABLE ai_usage_logs IN ACCESS EXCLUSIVE MODE")
        running = asyncio.ensure_future(healer.run())
        await until(lambda: _is_blocked(database, other.get_server_pid()), "the round waits for the lock")
        healer.stop()
        await asyncio.wait_for(running, 5)
    assert await stored(database) == set()
    assert await database.fetchval("SELECT count(*) FROM ai_usage_dead_letters WHERE status = 'open'") == 3


async def _is_blocked(database: asyncpg.Connection, by: int) -> bool:
    query = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid)))"
    return bool(await database.fetchval(query, by))


async def test_a_database_that_is_away_is_outlived(migrated_dsn: str, database: asyncpg.Connection) -> None:
    """Rounds that find no tables fail without an end; when the tables are there, the letters are healed."""
    bodies = events(3, user_id=str(uuid4()))
    await refuse(migrated_dsn, bodies)
    await database.execute("INSERT INTO users VALUES ($1)", UUID(bodies[0]["user_id"]))
    await database.execute("ALTER TABLE ai_usage_dead_letters RENAME TO hidden")
    healer = Healer(PostgresHealing(migrated_dsn, "public", OPTIONS), interval_seconds=0.0)
    running = asyncio.ensure_future(healer.run())
    await until(lambda: healer._is_failing, "a round has failed")
    await database.execute("ALTER TABLE hidden RENAME TO ai_usage_dead_letters")

    async def healed() -> bool:
        return len(await stored(database)) == 3

    await until(healed, "the letters are healed")
    healer.stop()
    await asyncio.wait_for(running, 5)
