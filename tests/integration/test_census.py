"""The census on a real table: open letters by reason, the age of the oldest, and an outage."""

import pytest
from batches import batch_of, events

from worker.errors import SystemUnavailableError
from worker.postgres.census import PostgresCensus
from worker.postgres.session import connect
from worker.postgres.store import PostgresStore


async def test_open_letters_are_counted_by_reason(migrated_dsn: str) -> None:
    """Three events of an unknown user are three open letters; settled ones count no more."""
    store = PostgresStore(migrated_dsn, "public", worker="test")
    census = PostgresCensus(migrated_dsn, "public", name="test")
    before = await census.count()
    assert (sum(before.by_reason.values()), before.oldest_seconds) == (0, 0)
    await store.write(batch_of(events(3)))
    await store.close()
    found = await census.count()
    assert {reason: letters for reason, letters in found.by_reason.items() if letters} == {"unknown_user": 3}
    connection = await connect(migrated_dsn, "public", name="test")
    await connection.execute("UPDATE ai_usage_dead_letters SET first_seen = first_seen - interval '1 hour'")
    assert 3600 <= (await census.count()).oldest_seconds < 4000
    await connection.execute("UPDATE ai_usage_dead_letters SET status = 'discarded'")
    await connection.close()
    assert sum((await census.count()).by_reason.values()) == 0
    census.abandon()


async def test_a_database_that_is_away_is_told_so() -> None:
    """The error is the project's own, and the next count connects again."""
    census = PostgresCensus("postgresql://postgres@127.0.0.1:1/nowhere", "public", name="test")
    with pytest.raises(SystemUnavailableError, match=r"127\.0\.0\.1:1/nowhere does not answer"):
        await census.count()
