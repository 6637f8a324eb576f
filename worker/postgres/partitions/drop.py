"""Partitions of months that are no longer kept are dropped, the oldest first, each in one short transaction."""

from collections.abc import AsyncIterator
from functools import partial
from typing import NamedTuple

import asyncpg

from worker.errors import SchemaError
from worker.postgres.migrations import quoted
from worker.postgres.partitions.briefly import LOCK, briefly
from worker.postgres.partitions.catalogue import Division, State, read_division
from worker.postgres.partitions.tables import attach, detach, make_table
from worker.retention.layout import PAST, TABLE, Partition, Range
from worker.retention.months import Month

KEPT_MAX = 100_000  # rows of a month's partition that are younger: they are moved while all others wait
COUNT_SECONDS_MAX = 1800.0


class Due(NamedTuple):
    """A partition that goes: how many rows, how many of them younger than the horizon, which stay."""

    partition: Partition
    rows: int
    kept: int
    bytes: int


async def find_due(connection: asyncpg.Connection, first_kept: Month) -> list[Due]:
    """Which partitions lie before the horizon, the oldest first.

    Raises:
        SchemaError: the table is not divided.
    """
    division = await read_division(connection)
    if division.state is not State.DIVIDED:
        raise SchemaError(f"{TABLE} has no partitions: run `usage-worker retain` instead")
    return [await _count(connection, division, one, first_kept) for one in division.layout.due(first_kept)]


async def _count(connection: asyncpg.Connection, division: Division, one: Partition, first_kept: Month) -> Due:
    async with connection.transaction():
        await connection.execute(f"SET LOCAL enable_seqscan = on; SET LOCAL statement_timeout = '{COUNT_SECONDS_MAX}s'")
        row = await connection.fetchrow(
            f"SELECT count(*), count(*) FILTER (WHERE created_at >= $1) FROM {quoted(one.name)}",  # noqa: S608 - quoted
            first_kept.start,
            timeout=COUNT_SECONDS_MAX,
        )
    assert row is not None  # noqa: S101 - an aggregate has one row
    return Due(one, row[0], row[1], division.sizes[one.name].bytes)


async def drop(connection: asyncpg.Connection, due: list[Due], first_kept: Month) -> AsyncIterator[Due]:
    """Drop them; rows that are younger than the horizon, whose ids are there by chance, are kept in `PAST`.

    Raises:
        SchemaError: one holds too many young rows, or is no longer the oldest.
        SystemUnavailableError: others held a lock that was needed all the time.
    """
    for one in due:
        if one.kept > KEPT_MAX:
            raise SchemaError(
                f"{one.partition.name} was not dropped: {one.kept:,} of its rows were created since"
                f" {first_kept.start:%Y-%m-%d}, the limit is {KEPT_MAX:,}: their producer makes UUIDv7s of another time"
            )
        await briefly(connection, f"dropping {one.partition.name}", partial(_drop, connection, one, first_kept))
        yield one


async def _drop(connection: asyncpg.Connection, due: Due, first_kept: Month) -> None:
    layout = (await read_division(connection)).layout
    name, ids, past = due.partition.name, due.partition.ids, layout.range_of(PAST)
    if ids is None or layout.months[:1] != (due.partition,):
        raise SchemaError(f"{name} is no longer the oldest partition: somebody else is at work; run it again")
    if past is None:
        await make_table(connection, PAST, None)
    await connection.execute(LOCK)
    if past is not None:
        await detach(connection, PAST)
    await detach(connection, name)
    await connection.execute(
        f"INSERT INTO {PAST} SELECT * FROM {quoted(name)} WHERE created_at >= $1",  # noqa: S608 - quoted
        first_kept.start,
    )
    await connection.execute(f"DROP TABLE {quoted(name)}")
    await attach(connection, PAST, Range(ids.low if past is None else past.low, ids.high))
