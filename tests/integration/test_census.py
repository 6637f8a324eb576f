"""The census on the real table: what it counts, and that it comes back after its connection was cut."""

import asyncio
from time import time

import asyncpg
import pytest
from harness import until
from usage_events.contract import Reason

from worker.errors import SystemUnavailableError
from worker.postgres.dead_letters.census import PostgresCensus

_INSERT = """
INSERT INTO ai_usage_dead_letters (fingerprint, reason, body, first_seen, last_seen, status)
SELECT sha256($1::text::bytea), $2, '', now() - $3::float8 * interval '1 s', now(), $4
"""
_WAITING = """
FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database() AND wait_event_type = 'Lock'
"""
NAME = "usage-worker test watch"


async def test_open_letters_are_counted_by_reason(migrated_dsn: str) -> None:
    """Settled letters are not counted; every reason has a number; the age is the oldest open one's."""
    database = await asyncpg.connect(migrated_dsn)
    census = PostgresCensus(migrated_dsn, "public", name=NAME)
    try:
        nothing = await census.count()
        assert nothing.by_reason == dict.fromkeys(Reason, 0)
        assert nothing.oldest_seconds == 0
        for number, (reason, age_seconds, status) in enumerate(
            [
                ("invalid", 60, "open"),
                ("invalid", 600, "open"),
                ("bad_json", 10, "open"),
                ("invalid", 6000, "recovered"),
            ]
        ):
            await database.execute(_INSERT, str(number), reason, age_seconds, status)
        some = await census.count()
        assert some.by_reason == dict.fromkeys(Reason, 0) | {"invalid": 2, "bad_json": 1}
        assert 600 <= some.oldest_seconds < 6000
        assert some.table_bytes > nothing.table_bytes > 0
        await database.execute("UPDATE ai_usage_dead_letters SET status = 'discarded'")
        settled = await census.count()
        assert (settled.by_reason, settled.oldest_seconds) == (nothing.by_reason, 0)
        assert settled.clock is not None
        assert abs(settled.clock.seconds - time()) < 60
    finally:
        census.abandon()
        await database.close()


async def test_a_cut_connection_is_an_outage_and_the_next_count_connects_again(migrated_dsn: str) -> None:
    """The server ends the session in the middle of a count: the project's own error once, and then a number."""
    database = await asyncpg.connect(migrated_dsn)
    watcher = await asyncpg.connect(migrated_dsn)  # a transaction sees the activity of its first look
    census = PostgresCensus(migrated_dsn, "public", name=NAME)

    async def is_waiting() -> bool:
        return bool(await watcher.fetchval(f"SELECT count(*) {_WAITING}", NAME))

    try:
        async with database.transaction():
            await database.execute("LOCK ai_usage_dead_letters")
            counting = asyncio.ensure_future(census.count())
            await until(is_waiting, "the count waits for the table")
            assert await watcher.fetchval(f"SELECT pg_terminate_backend(pid, 5000) {_WAITING}", NAME)
            with pytest.raises(SystemUnavailableError):
                await asyncio.wait_for(counting, 10)
        assert (await census.count()).oldest_seconds == 0
    finally:
        census.abandon()
        await watcher.close()
        await database.close()
