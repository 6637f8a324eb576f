"""What operators read: letters without and with their bodies, and the history of what was done."""

import json
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from worker.postgres.dead_letters.table import Filter

BRIEF_COLUMNS = """
l.id, l.event_id, l.reason, l.status, l.errors, l.app_id, l.amqp_user, l.user_id, l.organization_id, l.model,
l.occurrences, l.first_seen, l.last_seen, l.worker, l.edited_body IS NOT NULL AS is_edited,
l.body IS NULL AS is_body_given_up
"""
WHOLE_COLUMNS = f"""
{BRIEF_COLUMNS}, l.content_type, l.headers, l.exchange, l.routing_key, l.queue, l.body, l.edited_body
"""

_JSON_COLUMNS = ("errors", "headers", "filter")

# Actions of one run: the same ones by the same operator, with no longer pause between two of them.
_PAUSE = "5 minutes"
_RUNS = f"""
SELECT min(at) AS since, max(at) AS until, who, action, filter, from_reason, to_reason, from_status, to_status,
       CASE WHEN min(note) = max(note) THEN min(note) END AS note,
       count(*) FILTER (WHERE letter_id <> '00000000-0000-0000-0000-000000000000') AS letters,
       min(letter_id::text) AS sample_id
FROM (
    SELECT *, count(*) FILTER (WHERE pause IS NULL OR pause > interval '{_PAUSE}') OVER same AS run
    FROM (
        SELECT *, at - lag(at) OVER (
            PARTITION BY who, action, filter, from_reason, to_reason, from_status, to_status ORDER BY at
        ) AS pause
        FROM ai_usage_dead_letter_actions
        WHERE at >= $1 AND at <= $2 AND ($3::text IS NULL OR who = $3)
    ) paused
    WINDOW same AS (PARTITION BY who, action, filter, from_reason, to_reason, from_status, to_status ORDER BY at)
) numbered
GROUP BY who, action, filter, from_reason, to_reason, from_status, to_status, run
ORDER BY since DESC LIMIT $4
"""  # noqa: S608 - names of this module only

_ACTIONS = """
SELECT at, who, action, from_reason, to_reason, from_status, to_status, note, filter
FROM ai_usage_dead_letter_actions WHERE letter_id = $1 ORDER BY at, id
"""


async def newest_letters(connection: asyncpg.Connection, chosen: Filter) -> list[dict[str, Any]]:
    """The letters without their bodies, those first that came last; as many as the filter's limit says."""
    condition, arguments = chosen.where()
    limit = "" if chosen.limit is None else f" LIMIT {chosen.limit:d}"
    rows = await connection.fetch(
        f"SELECT {BRIEF_COLUMNS} FROM ai_usage_dead_letters l WHERE {condition}"  # noqa: S608 - the code's own texts
        f" ORDER BY l.first_seen DESC, l.id DESC{limit}",
        *arguments,
    )
    return [plain(row) for row in rows]


async def find_letters(connection: asyncpg.Connection, some_id: UUID) -> list[dict[str, Any]]:
    """The letter with this id, else all of the event with this id; whole."""
    for column in ("id", "event_id"):
        rows = await connection.fetch(
            f"SELECT {WHOLE_COLUMNS} FROM ai_usage_dead_letters l WHERE l.{column} = $1"  # noqa: S608 - as above
            " ORDER BY l.first_seen, l.id",
            some_id,
        )
        if rows:
            return [plain(row) for row in rows]
    return []


async def letter_history(connection: asyncpg.Connection, letter_id: UUID) -> list[dict[str, Any]]:
    """What was done to one letter, the oldest first."""
    return [plain(row) for row in await connection.fetch(_ACTIONS, letter_id)]


async def runs(
    connection: asyncpg.Connection, *, since: datetime, until: datetime, who: str | None, limit: int
) -> list[dict[str, Any]]:
    """What was done by whom to how many letters, the newest first: like actions in a row are one."""
    return [plain(row) for row in await connection.fetch(_RUNS, since, until, who, limit)]


def plain(row: asyncpg.Record) -> dict[str, Any]:
    """A row with its JSON read."""
    return {
        name: json.loads(value) if name in _JSON_COLUMNS and value is not None else value for name, value in row.items()
    }
