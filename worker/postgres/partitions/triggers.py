"""The host's own triggers on the table of usage: they go on firing, and never for rows that are only moved."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import asyncpg

from worker.postgres.migrations import quoted
from worker.postgres.partitions.catalogue import DIVERT

_FIND = """
SELECT tgname AS name, pg_get_triggerdef(oid) AS definition, tgenabled::text AS enabled,
       tgrelid::regclass::text AS shown, tgtype::int AS kind
FROM pg_trigger WHERE tgrelid = to_regclass($1) AND NOT tgisinternal AND tgname <> $2 ORDER BY tgname
"""
_ROW, _BEFORE, _EVENTS, _INSERT = 1, 2, 4 | 8 | 16 | 32, 4  # bits of tgtype
_ENABLE = {"O": "ENABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA", "D": "DISABLE"}


class Trigger(NamedTuple):
    """A trigger as the catalogue has it."""

    name: str
    definition: str
    enabled: str
    kind: int

    @property
    def is_for_diverted_rows(self) -> bool:
        """Whether a row that goes to another table instead has not fired it yet."""
        return bool(self.kind & _ROW) and not (self.kind & _BEFORE and self.kind & _EVENTS == _INSERT)


async def find_triggers(connection: asyncpg.Connection, table: str) -> list[Trigger]:
    """The triggers that somebody else has made."""
    rows = await connection.fetch(_FIND, table, DIVERT)
    return [Trigger(row["name"], row["definition"], row["enabled"], row["kind"]) for row in rows]


async def copy_trigger(connection: asyncpg.Connection, trigger: Trigger, source: str, target: str) -> None:
    """Make the same trigger on another table; `source` is its table's name now, and when its text was read."""
    before, found, after = trigger.definition.partition(f".{source} ")
    if not found:  # the name of the schema is left out where it stands first in the search_path
        before, found, after = trigger.definition.partition(f" ON {source} ")
        before += " ON "
    await connection.execute(f"{before}{'.' if found.startswith('.') else ''}{quoted(target)} {after}")
    if trigger.enabled != "O":
        await _set(connection, target, trigger.name, trigger.enabled)


@asynccontextmanager
async def triggers_off(connection: asyncpg.Connection, *tables: str) -> AsyncIterator[None]:
    """Move rows without firing triggers; in a transaction that has locked the tables, so nobody else sees it."""
    found = [(table, one) for table in tables for one in await find_triggers(connection, table) if one.enabled != "D"]
    for table, trigger in found:
        await _set(connection, table, trigger.name, "D")
    yield
    for table, trigger in found:
        await _set(connection, table, trigger.name, trigger.enabled)


async def _set(connection: asyncpg.Connection, table: str, name: str, enabled: str) -> None:
    await connection.execute(f"ALTER TABLE {quoted(table)} {_ENABLE[enabled]} TRIGGER {quoted(name)}")
