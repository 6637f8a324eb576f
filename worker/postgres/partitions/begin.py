"""The first part of dividing: ids of months to come go to a table of their own, which the old one is the parent of.

So nothing is ever missing or doubled: who reads the table reads both, and an id that both could hold is in neither
twice. A trigger sends new ids there, and the old table gets a CHECK that it holds none, which is validated without
stopping anybody. That is what lets the second part be short.
"""

from collections.abc import Callable

import asyncpg

from worker.errors import SchemaError
from worker.postgres.migrations import quoted
from worker.postgres.partitions.briefly import LOCK, briefly
from worker.postgres.partitions.catalogue import DIVERT, OUTSIDE, UUID7
from worker.postgres.partitions.tables import make_table
from worker.postgres.partitions.triggers import copy_trigger, find_triggers, triggers_off
from worker.retention.layout import FUTURE, TABLE, Range, read_excluded

MOVED_AT_ONCE = 2000
VALIDATION_SECONDS_MAX = 6 * 3600.0

# A random UUID's first 48 bits become milliseconds since 1970, and its version 7.
_UUID7 = f"""
CREATE OR REPLACE FUNCTION {UUID7}() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) PLACING
        substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
        52, 1), 53, 1), 'hex')::uuid
$$;
COMMENT ON FUNCTION {UUID7} IS 'A UUIDv7: it begins with its time, so that new rows go to the partition of their month'
"""  # noqa: S608 - a name
# What is in either table already is a duplicate, which the worker finds as it finds others.
_DIVERT_FUNCTION = f"""
CREATE OR REPLACE FUNCTION {DIVERT}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM ONLY {TABLE} WHERE id = NEW.id) THEN  -- it has not been moved yet
        INSERT INTO {FUTURE} SELECT NEW.* ON CONFLICT (id) DO NOTHING;
    END IF;
    RETURN NULL;
END $$
"""
_MOVE = f"""
WITH moved AS (
    DELETE FROM ONLY {TABLE} WHERE id = ANY(ARRAY(
        SELECT id FROM ONLY {TABLE} WHERE id >= $1 AND id < $2 ORDER BY id LIMIT {MOVED_AT_ONCE} FOR UPDATE))
    RETURNING *
)
INSERT INTO {FUTURE} SELECT * FROM moved
"""  # noqa: S608 - names
_CONSTRAINT = """
SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = to_regclass($1) AND conname = $2
"""


async def begin(connection: asyncpg.Connection, owner: str, ids: Range) -> None:
    """Send ids of months to come to a table of their own; from now on ids that the database makes are UUIDv7s."""

    async def work() -> None:
        triggers = await find_triggers(connection, TABLE)
        await make_table(connection, FUTURE, ids)
        await connection.execute(LOCK)
        await connection.execute(
            f"{_UUID7}; ALTER FUNCTION {UUID7}() OWNER TO {quoted(owner)};"
            f" GRANT EXECUTE ON FUNCTION {UUID7}() TO PUBLIC"
        )
        await connection.execute(f"ALTER TABLE {TABLE} ALTER id SET DEFAULT {UUID7}()")
        await connection.execute(f"ALTER TABLE {FUTURE} INHERIT {TABLE}")
        for trigger in triggers:
            if trigger.is_for_diverted_rows:
                await copy_trigger(connection, trigger, TABLE, FUTURE)
        await connection.execute(f"{_DIVERT_FUNCTION}; ALTER FUNCTION {DIVERT}() OWNER TO {quoted(owner)}")
        await connection.execute(
            f"CREATE TRIGGER {DIVERT} BEFORE INSERT ON {TABLE} FOR EACH ROW"
            f" WHEN (NEW.id >= '{ids.low}' AND NEW.id < '{ids.high}') EXECUTE FUNCTION {DIVERT}()"
        )
        await connection.execute(
            f"ALTER TABLE {TABLE} ADD CONSTRAINT {OUTSIDE}"
            f" CHECK (id < '{ids.low}' OR id >= '{ids.high}') NO INHERIT NOT VALID"
        )

    await briefly(connection, "the first step", work)


async def range_begun(connection: asyncpg.Connection) -> Range:
    """The range that an earlier `begin` has chosen.

    Raises:
        SchemaError: its CHECK is gone.
    """
    text = await connection.fetchval(_CONSTRAINT, TABLE, OUTSIDE)
    found = None if text is None else read_excluded(text)
    if found is None:
        raise SchemaError(f"{FUTURE} is a child of {TABLE}, but the CHECK {OUTSIDE} is gone: add it again")
    return found


async def empty_range(connection: asyncpg.Connection, ids: Range, on_moved: Callable[[int], None]) -> None:
    """Move what is in the range by chance, such as random ids; each row is in one of the two tables all the time."""
    has_triggers = bool(await find_triggers(connection, TABLE))
    moved = MOVED_AT_ONCE

    async def work() -> None:
        nonlocal moved
        if has_triggers:
            await connection.execute(LOCK)
            async with triggers_off(connection, TABLE, FUTURE):
                status = await connection.execute(_MOVE, ids.low, ids.high)
        else:
            status = await connection.execute(_MOVE, ids.low, ids.high)
        moved = int(status.rpartition(" ")[2])

    while moved:
        await briefly(connection, "moving rows", work)
        on_moved(moved)


async def validate(connection: asyncpg.Connection) -> None:
    """Read the old table once, and find that the CHECK holds; everybody goes on beside it."""
    await connection.execute("SET statement_timeout = 0")
    try:
        await connection.execute(f"ALTER TABLE {TABLE} VALIDATE CONSTRAINT {OUTSIDE}", timeout=VALIDATION_SECONDS_MAX)
    finally:
        await connection.execute("RESET statement_timeout")
