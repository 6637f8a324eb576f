"""Tables that become partitions: like the table of usage, with its foreign keys, owner and settings."""

import asyncpg

from worker.postgres.migrations import quoted
from worker.retention.layout import TABLE, Range

READING_SECONDS_MAX = 600.0  # months that are made late hold rows

_FOREIGN_KEYS = """
SELECT pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid = to_regclass($1) AND contype = 'f' AND conparentid = 0 ORDER BY conname
"""
_SETTINGS = """
SELECT pg_get_userbyid(c.relowner) AS owner, array_to_string(coalesce(d.reloptions, c.reloptions), ', ') AS options
FROM pg_class c
LEFT JOIN pg_partitioned_table p ON p.partrelid = c.oid LEFT JOIN pg_class d ON d.oid = p.partdefid
WHERE c.oid = to_regclass($1)
"""


async def make_table(connection: asyncpg.Connection, name: str, ids: Range | None) -> None:
    """Make an empty table, not attached yet.

    Args:
        connection: in a transaction.
        name: the table's.
        ids: those that it may hold, by a CHECK, so that it need not be read when it is attached.
    """
    settings = await connection.fetchrow(_SETTINGS, TABLE)
    assert settings is not None  # noqa: S101 - the caller has read the table's division
    options = f" WITH ({settings['options']})" if settings["options"] else ""
    parts = [f"ADD {definition}" for (definition,) in await connection.fetch(_FOREIGN_KEYS, TABLE)]
    if ids is not None:
        parts.append(f"ADD CONSTRAINT {quoted(f'{name}_ids')} CHECK (id >= '{ids.low}' AND id < '{ids.high}')")
    await connection.execute(f"CREATE TABLE {quoted(name)} (LIKE {TABLE} INCLUDING ALL){options}")
    if parts:
        await connection.execute(f"ALTER TABLE {quoted(name)} {', '.join(parts)}")
    await connection.execute(f"ALTER TABLE {quoted(name)} OWNER TO {quoted(settings['owner'])}")


async def attach(connection: asyncpg.Connection, name: str, ids: Range) -> None:
    """Make it a partition. Unless a CHECK says that it holds only these ids, it is read once."""
    await connection.execute(f"SET LOCAL statement_timeout = '{READING_SECONDS_MAX}s'")
    await connection.execute(
        f"ALTER TABLE {TABLE} ATTACH PARTITION {quoted(name)} FOR VALUES FROM ('{ids.low}') TO ('{ids.high}')",
        timeout=READING_SECONDS_MAX,
    )


async def detach(connection: asyncpg.Connection, name: str) -> None:
    """Make it a table of its own; it keeps its rows."""
    await connection.execute(f"ALTER TABLE {TABLE} DETACH PARTITION {quoted(name)}")


async def move(connection: asyncpg.Connection, source: str, target: str, ids: Range) -> int:
    """Move rows from a table into another, neither of them attached; how many."""
    status = await connection.execute(
        f"WITH moved AS (DELETE FROM {quoted(source)} WHERE id >= '{ids.low}' AND id < '{ids.high}' RETURNING *)"  # noqa: S608 - quoted, and ids
        f" INSERT INTO {quoted(target)} SELECT * FROM moved"
    )
    return int(status.rpartition(" ")[2])
