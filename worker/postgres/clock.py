"""What time it is on the database's server."""

from datetime import UTC, datetime
from time import monotonic

import asyncpg

from worker.clock import Reading

_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"


async def read_clock(connection: asyncpg.Connection) -> Reading:
    """Ask once.

    Raises:
        asyncpg.PostgresError: it does not say.
    """
    asked_at = monotonic()
    return Reading(await connection.fetchval(_NOW), asked_at)


async def utcnow(connection: asyncpg.Connection) -> datetime:
    """The same as a time.

    Raises:
        asyncpg.PostgresError: it does not say.
    """
    return datetime.fromtimestamp((await read_clock(connection)).seconds, UTC)
