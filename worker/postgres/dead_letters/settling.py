"""Settling by hand: letters are discarded or opened again, each with its line in the history; notes are added."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import asyncpg

from worker.postgres.dead_letters.picked import LOT_LETTERS_MAX, Picked, lots, pick
from worker.postgres.dead_letters.rights import Right
from worker.postgres.dead_letters.table import Filter, Status

ACTIONS = "ai_usage_dead_letter_actions"
LETTERS = "ai_usage_dead_letters"
ADDS_ACTIONS = Right("INSERT", ACTIONS)
RIGHTS = (Right("UPDATE", LETTERS, "status"), ADDS_ACTIONS)


@dataclass(slots=True, frozen=True)
class Settling:
    """What is done to letters: its name in the history, the status that they get, and which letters can get it."""

    action: str
    to_status: Status
    fitting: str


DISCARD = Settling("discard", Status.DISCARDED, "l.status = 'open'")
# A recovered letter is open again only where its event is known to be stored no more (its row was deleted, and
# shall come back): any other would be a duplicate at its next replay, and until then an open letter that lacks nothing.
REOPEN = Settling(
    "reopen",
    Status.OPEN,
    "(l.status = 'discarded' OR (l.status = 'recovered' AND l.event_id IS NOT NULL"
    " AND NOT EXISTS (SELECT FROM ai_usage_logs e WHERE e.id = l.event_id)))",
)


class Order(NamedTuple):
    """What an operator wants: which letters, what is done to them, who does it, and why."""

    settling: Settling
    chosen: Filter
    who: str
    note: str | None


class Lot(NamedTuple):
    """What one transaction did: how many letters it took, and those that it could not, since others work on them.

    `body_bytes` are those that it removed.
    """

    done: int
    busy: list[UUID]
    body_bytes: int = 0


# Statement and history are one, so no letter can have the one without the other.
#
# The letters are fetched by id before the filter is looked at again: with both in one condition the planner has read
# all open letters for each thousand.
_COLUMNS = """
id, event_id, reason, errors, organization_id, user_id, model, app_id, first_seen, last_seen, status
"""
_SETTLE = """
WITH mine AS MATERIALIZED (
    SELECT {columns} FROM ai_usage_dead_letters WHERE id = ANY(${ids}::uuid[]) FOR UPDATE SKIP LOCKED
), locked AS (
    SELECT l.id, l.status FROM mine l WHERE {condition} AND {fitting}
), settled AS (
    UPDATE ai_usage_dead_letters l SET status = ${status} FROM locked WHERE l.id = locked.id
    RETURNING l.id, locked.status AS from_status
)
INSERT INTO ai_usage_dead_letter_actions (who, letter_id, action, from_status, to_status, note, filter)
SELECT ${who}, id, ${action}, from_status, ${status}, ${note}, ${filter}::jsonb FROM settled
RETURNING letter_id
"""
_LEFT = """
WITH mine AS MATERIALIZED (SELECT {columns} FROM ai_usage_dead_letters WHERE id = ANY(${ids}::uuid[]))
SELECT l.id FROM mine l WHERE {condition} AND {fitting}
"""
_NOTE = """
INSERT INTO ai_usage_dead_letter_actions (who, letter_id, action, note)
SELECT $2, l.id, 'note', $3 FROM ai_usage_dead_letters l WHERE l.{column} = $1
RETURNING letter_id
"""


async def pick_settling(connection: asyncpg.Connection, order: Order) -> Picked:
    """Note which letters this would take."""
    return await pick(connection, order.chosen, order.settling.fitting)


async def settle(connection: asyncpg.Connection, order: Order) -> AsyncIterator[Lot]:
    """Settle the letters that were picked, a transaction a lot; those that others work on are asked for once more."""
    busy: list[UUID] = []
    async for ids in lots(connection):
        lot = await _settle(connection, order, ids)
        busy += lot.busy
        yield Lot(lot.done, [])
    for start in range(0, len(busy), LOT_LETTERS_MAX):
        yield await _settle(connection, order, busy[start : start + LOT_LETTERS_MAX])


async def add_note(connection: asyncpg.Connection, some_id: UUID, *, who: str, note: str) -> list[UUID]:
    """Add a note to the letter with this id, else to all of the event with this id; the letters' ids."""
    for column in ("id", "event_id"):
        rows = await connection.fetch(_NOTE.format(column=column), some_id, who, note)
        if rows:
            return [row["letter_id"] for row in rows]
    return []


async def _settle(connection: asyncpg.Connection, order: Order, ids: list[UUID]) -> Lot:
    settling = order.settling
    condition, arguments = order.chosen.where()
    arguments.append(ids)
    names = ("ids", "who", "action", "status", "note", "filter")
    places: dict[str, int] = {name: len(arguments) + number for number, name in enumerate(names)}
    texts = {"columns": _COLUMNS, "condition": condition, "fitting": settling.fitting}
    values = (order.who, settling.action, settling.to_status.value, order.note, order.chosen.as_json())
    async with connection.transaction():
        done = await connection.fetch(_SETTLE.format(**texts, **places), *arguments, *values)
        left = await connection.fetch(_LEFT.format(**texts, ids=places["ids"]), *arguments)
    return Lot(len(done), [row["id"] for row in left])
