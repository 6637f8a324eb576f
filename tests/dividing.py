"""Databases whose table of usage is divided, for tests: a range so wide that random ids fall on both sides of it."""

from datetime import UTC, datetime
from uuid import UUID

import asyncpg

from worker.postgres.partitions.begin import begin, empty_range, validate
from worker.postgres.partitions.catalogue import read_division
from worker.postgres.partitions.ensure import ensure
from worker.postgres.partitions.swap import swap
from worker.postgres.session import connect
from worker.retention.layout import Range
from worker.retention.months import Month

NEXT = Month.of(datetime.now(UTC)).plus(1)
WIDE = Range(NEXT.first_id, UUID("80000000-0000-0000-0000-000000000000"))


async def owner_session(dsn: str) -> asyncpg.Connection:
    """A session as the commands have it."""
    return await connect(dsn, "public", name="tests")


async def divided(dsn: str) -> str:
    """The same database, once its table is divided."""
    session = await owner_session(dsn)
    await divide(session)
    await session.close()
    return dsn


async def begin_to_divide(connection: asyncpg.Connection, ids: Range = WIDE) -> None:
    """The first step alone: half of all random ids go to a table of their own."""
    await begin(connection, (await read_division(connection)).owner, ids)


async def divide(connection: asyncpg.Connection, ids: Range = WIDE, now: datetime | None = None) -> None:
    """All steps, as if it were `now`."""
    await begin_to_divide(connection, ids)
    await finish_dividing(connection, ids, now)


async def finish_dividing(connection: asyncpg.Connection, ids: Range = WIDE, now: datetime | None = None) -> None:
    """The steps after the first."""
    await empty_range(connection, ids, lambda _: None)
    await validate(connection)
    await swap(connection, (await read_division(connection)).owner, ids)
    await ensure(connection, now or datetime.now(UTC), 2, lambda _: None)


def id_of(month: Month, number: int = 0, version: int = 7) -> UUID:
    """An id in a month's range: a UUIDv7 of its second second, or (another version) one that is there by chance."""
    at_ms = round(month.start.timestamp()) * 1000 + 1000 + number
    return UUID(int=at_ms << 80 | version << 76 | 0b10 << 62 | number)
