"""What the catalogue says of the partitions of `ai_usage_logs`."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

import asyncpg

from worker.errors import SchemaError, UsageWorkerError
from worker.retention.layout import FUTURE, TABLE, Layout, Partition, Range, read_bound, read_excluded

OUTSIDE = f"{TABLE}_outside_months"  # the CHECK of what becomes the default partition
DIVERT = "zz_ai_usage_divert"  # the last of the BEFORE triggers, which fire by their names
UUID7 = "ai_usage_uuid7"

_TABLE = """
SELECT c.oid, c.relkind::text AS kind, pg_get_userbyid(c.relowner) AS owner,
       to_regclass($2) IS NOT NULL AND EXISTS (
           SELECT FROM pg_inherits WHERE inhparent = c.oid AND inhrelid = to_regclass($2)) AS has_future
FROM pg_class c WHERE c.oid = to_regclass($1)
"""
_PARTITIONS = """
SELECT c.oid, c.relname AS name, pg_get_expr(c.relpartbound, c.oid) AS bound,
       greatest(c.reltuples, 0)::bigint AS rows, pg_total_relation_size(c.oid) AS bytes
FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = to_regclass($1) ORDER BY c.relname
"""
_FUTURE = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = to_regclass($1)"
_EXCLUDED = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = $1 AND conname = $2 AND convalidated"


class State(Enum):
    """How far the division is."""

    PLAIN = "plain"  # a table like any other
    BEGUN = "begun"  # ids of months to come go to a table of their own, by a trigger
    DIVIDED = "divided"


@dataclass(frozen=True, slots=True)
class Size:
    """About how many rows a partition has, and how many bytes with its indexes."""

    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Division:
    """The table and its partitions.

    `excluded` is the range of ids that the valid CHECK of the (future) default partition excludes.
    """

    state: State
    owner: str
    layout: Layout
    sizes: dict[str, Size]
    excluded: Range | None


async def read_division(connection: asyncpg.Connection) -> Division:
    """Read the catalogue.

    Raises:
        SchemaError: there is no such table, or it is divided in another way.
    """
    table = await connection.fetchrow(_TABLE, TABLE, FUTURE)
    if table is None or table["kind"] not in ("r", "p"):
        raise SchemaError(f"there is no table {TABLE}: run usage-worker migrate")
    if table["kind"] == "r":
        excluded = await _excluded(connection, table["oid"])
        state = State.BEGUN if table["has_future"] else State.PLAIN
        return Division(state, table["owner"], Layout(()), {}, excluded)
    rows = await connection.fetch(_PARTITIONS, TABLE)
    try:
        found = [(row["oid"], Partition(row["name"], read_bound(row["bound"]))) for row in rows]
    except ValueError as error:
        raise SchemaError(
            f"{TABLE} has partitions of another kind ({error}): these commands are for those that"
            " `usage-worker partitions enable` makes"
        ) from error
    default = next((oid for oid, one in found if one.ids is None), None)
    return Division(
        State.DIVIDED,
        table["owner"],
        Layout.of([one for _, one in found]),
        {row["name"]: Size(row["rows"], row["bytes"]) for row in rows},
        None if default is None else await _excluded(connection, default),
    )


async def read_months_ahead(connection: asyncpg.Connection, now: datetime) -> int | None:
    """For how many months after this one there is a partition; `None` where the table is not divided."""
    text = await connection.fetchval(_FUTURE, FUTURE)
    try:
        return None if text is None else Layout((Partition(FUTURE, read_bound(text)),)).months_ahead(now)
    except ValueError:  # a host's own table of this name: no worker ends for it
        return None


async def require_owner(connection: asyncpg.Connection) -> None:
    """Make sure that this session may change the table.

    Raises:
        UsageWorkerError: its role is not the owner.
    """
    owner = (await read_division(connection)).owner
    if not await connection.fetchval("SELECT pg_has_role($1::name, 'USAGE')", owner):
        user = await connection.fetchval("SELECT current_user")
        raise UsageWorkerError(f"{user} does not own {TABLE}, and nothing was changed: run it as {owner}")


async def _excluded(connection: asyncpg.Connection, table: int) -> Range | None:
    text = await connection.fetchval(_EXCLUDED, table, OUTSIDE)
    return None if text is None else read_excluded(text)
