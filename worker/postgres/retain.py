"""Retention: rows of usage from before a horizon are deleted in small transactions, oldest first."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from time import perf_counter
from typing import NamedTuple

import asyncpg
import stamina

from worker.postgres.dead_letters.picked import SCAN_SECONDS_MAX, scanning
from worker.postgres.dead_letters.rights import Right
from worker.postgres.dead_letters.settling import RIGHTS as SETTLES
from worker.postgres.dead_letters.settling import Order, pick_settling, settle

ROWS_AT_ONCE = 2000
LOCK_TIMEOUT_MS = 1000  # somebody who changes the table waits for us: then he is let through
PATIENCE_SECONDS = 120.0
RIGHTS = (*(Right(privilege, "ai_usage_logs") for privilege in ("SELECT", "UPDATE", "DELETE")), *SETTLES)

# A deletion that a crash of the server undoes is made again by the next run: no commit has to wait for the disk. The
# first lot of a further run reads past all that was deleted before it, which may take as long as a scan.
_PREPARE = f"""
SET lock_timeout = {LOCK_TIMEOUT_MS}; SET synchronous_commit = off; SET statement_timeout = '{SCAN_SECONDS_MAX}s'
"""
_COUNT = "SELECT count(*) FROM ai_usage_logs WHERE created_at < $1"
# From where the last lot ended: the index still holds what has been deleted, and would be read again each time.
_DELETE = """
WITH doomed AS MATERIALIZED (
    SELECT id, created_at FROM ai_usage_logs WHERE created_at >= $2 AND created_at < $1
    ORDER BY created_at LIMIT $3 FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM ai_usage_logs l USING doomed WHERE l.id = doomed.id RETURNING l.id
)
SELECT (SELECT count(*) FROM deleted) AS rows, (SELECT max(created_at) FROM doomed) AS reached
"""
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


class Due(NamedTuple):
    """What is from before the horizon: rows, and open letters, whose events may no longer be stored."""

    rows: int
    letters: int


async def count_due(connection: asyncpg.Connection, order: Order, before: datetime) -> Due:
    """Count it; `order` discards the letters, and notes which."""
    return Due(await count_rows(connection, before), (await pick_settling(connection, order)).letters)


async def count_rows(connection: asyncpg.Connection, before: datetime) -> int:
    """Rows from before the horizon. The index still holds what has been deleted: it may take as long as a scan."""
    async with connection.transaction():
        await scanning(connection)
        return int(await connection.fetchval(_COUNT, before, timeout=SCAN_SECONDS_MAX))


async def discard_letters(connection: asyncpg.Connection, order: Order) -> tuple[int, int]:
    """Discard the letters that were noted: a replay would store an event whose row is gone once more.

    Returns:
        How many it discarded, and how many others worked on all the time.
    """
    done = [lot async for lot in settle(connection, order)]
    return sum(lot.done for lot in done), sum(len(lot.busy) for lot in done)


async def delete_rows(connection: asyncpg.Connection, before: datetime) -> AsyncIterator[int]:
    """Delete what was created before then; how many rows each transaction took. It works for half of the time.

    Raises:
        asyncpg.LockNotAvailableError: somebody held the table for all of `PATIENCE_SECONDS`.
    """
    await connection.execute(_PREPARE)
    patiently = stamina.AsyncRetryingCaller(attempts=None, timeout=PATIENCE_SECONDS).on(
        (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
    )
    reached = _BEGINNING
    while True:
        begun_at = perf_counter()
        row = await patiently(connection.fetchrow, _DELETE, before, reached, ROWS_AT_ONCE, timeout=SCAN_SECONDS_MAX)
        assert row is not None  # noqa: S101 - an aggregate has one row
        if not row["rows"]:  # a host's trigger may keep what is chosen
            return
        reached = row["reached"]
        yield row["rows"]
        await asyncio.sleep(perf_counter() - begun_at)
