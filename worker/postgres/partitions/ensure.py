"""Partitions of months to come: cut off from the one that holds the future, in one short transaction."""

from collections.abc import Callable
from datetime import datetime

import asyncpg

from worker.errors import SchemaError
from worker.postgres.migrations import quoted
from worker.postgres.partitions.briefly import LOCK, briefly
from worker.postgres.partitions.catalogue import State, read_division
from worker.postgres.partitions.tables import attach, detach, make_table, move
from worker.retention.layout import FUTURE, TABLE, Range, Split, table_name


async def ensure(connection: asyncpg.Connection, now: datetime, ahead: int, say: Callable[[str], None]) -> list[Range]:
    """Make what is missing so that this month and `ahead` after it have partitions; which were made.

    Raises:
        SchemaError: the table is not divided, or has no room for further months.
        SystemUnavailableError: others held a lock that was needed all the time.
    """
    division = await read_division(connection)
    if division.state is not State.DIVIDED:
        raise SchemaError(f"{TABLE} has no partitions: run `usage-worker partitions enable`")
    if division.layout.range_of(FUTURE) is None:
        raise SchemaError(f"{FUTURE} is missing: months can only be cut off from it")
    split = division.layout.split(now, ahead)
    if split is None:
        say(f"nothing to do: partitions reach {division.layout.months_ahead(now)} months ahead")
        return []
    await briefly(connection, "making partitions", lambda: _split(connection, split))
    made = [*([split.late] if split.late else []), *split.months]
    for ids in made:
        say(f"made {table_name(ids)} for {ids}")
    return made


async def _split(connection: asyncpg.Connection, split: Split) -> None:
    """The tables are made before the lock is taken."""
    rest = FUTURE
    if split.late is not None:  # it holds events of now: they stay where they are, under another name
        rest = f"{FUTURE}_next"
        await make_table(connection, rest, split.rest)
    for ids in split.months:
        await make_table(connection, table_name(ids), ids)
    await connection.execute(LOCK)
    await detach(connection, FUTURE)
    for ids in split.months:
        await move(connection, FUTURE, table_name(ids), ids)
        await attach(connection, table_name(ids), ids)
    if split.late is not None:
        await move(connection, FUTURE, rest, split.rest)
        await connection.execute(f"ALTER TABLE {FUTURE} RENAME TO {quoted(table_name(split.late))}")
        await connection.execute(f"ALTER TABLE {rest} RENAME TO {FUTURE}")
        await attach(connection, table_name(split.late), split.late)
    await attach(connection, FUTURE, split.rest)
