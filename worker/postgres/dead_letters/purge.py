"""Purge: letters that were settled long ago are removed, bodies and all; what was done to them stays in the history."""

from collections.abc import AsyncIterator
from datetime import datetime
from uuid import UUID

import asyncpg

from worker.postgres.dead_letters.picked import BODY_BYTES, LOT_LETTERS_MAX, Picked, lots, pick
from worker.postgres.dead_letters.rights import Right
from worker.postgres.dead_letters.settling import ACTIONS, ADDS_ACTIONS, LETTERS, Lot
from worker.postgres.dead_letters.table import Filter

RIGHTS = (Right("DELETE", LETTERS), Right("UPDATE", LETTERS), Right("SELECT", ACTIONS), ADDS_ACTIONS)

ANY = Filter(status=None)
# Nothing has come and nothing was done since then. It is at least as long ago that the letter was settled, also where
# its lines of the history are gone or somebody settled it by hand.
_SETTLED = """
l.status IN ('recovered', 'discarded') AND l.last_seen < {} AND NOT EXISTS (
    SELECT FROM ai_usage_dead_letter_actions a WHERE a.letter_id = l.id AND a.at >= {})
"""
_PURGE = f"""
WITH locked AS (
    SELECT l.id FROM ai_usage_dead_letters l WHERE l.id = ANY($1) AND {_SETTLED.format("$2", "$2")}
    FOR UPDATE OF l SKIP LOCKED
), removed AS (
    DELETE FROM ai_usage_dead_letters l USING locked WHERE l.id = locked.id
    RETURNING l.id, l.reason, l.status, {BODY_BYTES} AS body_bytes
), noted AS (
    INSERT INTO ai_usage_dead_letter_actions (who, letter_id, action, from_reason, from_status, filter)
    SELECT $3, id, 'purge', reason, status, jsonb_build_object('settled_before', $2::timestamptz) FROM removed
)
SELECT count(*) AS letters, coalesce(sum(body_bytes), 0)::bigint AS body_bytes FROM removed
"""  # noqa: S608 - texts of this file
_LEFT = f"SELECT l.id FROM ai_usage_dead_letters l WHERE l.id = ANY($1) AND {_SETTLED.format('$2', '$2')}"  # noqa: S608


async def pick_settled(connection: asyncpg.Connection, before: datetime) -> Picked:
    """Note the letters that were settled before then, and how much they hold."""
    return await pick(connection, ANY, _SETTLED, before, before)


async def purge(connection: asyncpg.Connection, before: datetime, *, who: str) -> AsyncIterator[Lot]:
    """Remove the letters that were picked, a transaction a lot; those that others work on are asked for once more."""
    busy: list[UUID] = []
    async for ids in lots(connection):
        lot = await _purge(connection, ids, before, who)
        busy += lot.busy
        yield lot._replace(busy=[])
    for start in range(0, len(busy), LOT_LETTERS_MAX):
        yield await _purge(connection, busy[start : start + LOT_LETTERS_MAX], before, who)


async def _purge(connection: asyncpg.Connection, ids: list[UUID], before: datetime, who: str) -> Lot:
    async with connection.transaction():
        done = await connection.fetchrow(_PURGE, ids, before, who)
        left = await connection.fetch(_LEFT, ids, before)
    assert done is not None  # noqa: S101 - an aggregate has one row
    return Lot(done["letters"], [row["id"] for row in left], done["body_bytes"])
