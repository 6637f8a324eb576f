"""Letters added up by reason, field and producer, with the ids of a few of each group as samples."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from worker.postgres.dead_letters.table import HAS_NO_BODY, Filter

SAMPLES_LETTERS_MAX = 200  # of all groups together: each is carried

# One pass over the letters, by a hash table that has a slot for each group and sixteenth of the fingerprints: of each
# slot the place of its first or last letter is kept, so the samples are old ones and new ones, and cost no second pass.
# A sort of a million rows, or an index scan that jumps from page to page, takes seconds; the planner, who has no
# statistics of `errors`, would choose them. He expects the pass to leave many rows, so he would not share it among
# processes either. A narrow filter still finds its letters by a bitmap of an index.
_PLAN = """
SET LOCAL enable_seqscan = on;
SET LOCAL enable_indexscan = off;
SET LOCAL enable_sort = off;
SET LOCAL enable_incremental_sort = off;
SET LOCAL max_parallel_workers_per_gather = 2;
SET LOCAL parallel_setup_cost = 0;
SET LOCAL parallel_tuple_cost = 0;
SET LOCAL work_mem = '32MB'
"""
_GROUPS = """
SELECT reason, field, app_id, sum(letters)::bigint AS letters, sum(occurrences)::bigint AS occurrences,
       sum(last_minute)::bigint AS last_minute, sum(last_hour)::bigint AS last_hour,
       min(first_seen) AS first_seen, max(last_seen) AS last_seen, sum(bodies_given_up)::bigint AS bodies_given_up,
       array_agg(CASE slot & 1 WHEN 0 THEN oldest ELSE newest END) AS samples
FROM (
    SELECT l.reason, l.errors -> 0 ->> 'field' AS field, l.app_id, get_byte(l.fingerprint, 0) & 15 AS slot,
           count(*) AS letters, sum(l.occurrences) AS occurrences,
           count(*) FILTER (WHERE l.first_seen > now() - interval '1 minute') AS last_minute,
           count(*) FILTER (WHERE l.first_seen > now() - interval '1 hour') AS last_hour,
           count(*) FILTER (WHERE {has_no_body}) AS bodies_given_up,
           min(l.first_seen) AS first_seen, max(l.last_seen) AS last_seen, min(l.ctid) AS oldest,
           max(l.ctid) AS newest
    FROM ai_usage_dead_letters l WHERE {condition}
    GROUP BY 1, 2, 3, 4
) slots
GROUP BY reason, field, app_id
"""
_SAMPLED = "SELECT g.place, l.id FROM unnest($1::tid[]) AS g (place) JOIN ai_usage_dead_letters l ON l.ctid = g.place"


@dataclass(slots=True, frozen=True)
class Group:
    """Letters of one reason, field of their first error, and producer."""

    reason: str
    field: str | None
    producer: str | None
    letters: int
    occurrences: int
    last_minute: int
    last_hour: int
    first_seen: datetime
    last_seen: datetime
    bodies_given_up: int
    samples: tuple[UUID, ...]


async def read_groups(connection: asyncpg.Connection, chosen: Filter) -> list[Group]:
    """All groups, the largest first; samples of the first `chosen.limit` of them."""
    condition, arguments = chosen.where()
    # One snapshot for both: a letter's place is its own only so long.
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute(_PLAN)
        rows = await connection.fetch(_GROUPS.format(condition=condition, has_no_body=HAS_NO_BODY), *arguments)
        rows.sort(key=lambda row: (-row["letters"], row["reason"], row["field"] or "", row["app_id"] or ""))
        shown = rows[: chosen.limit]
        share = max(1, SAMPLES_LETTERS_MAX // max(1, len(shown)))
        places = [place for row in shown for place in row["samples"][:share]]
        ids = {row["place"]: row["id"] for row in await connection.fetch(_SAMPLED, places)}
    return [
        Group(
            row["reason"],
            row["field"],
            row["app_id"],
            row["letters"],
            row["occurrences"],
            row["last_minute"],
            row["last_hour"],
            row["first_seen"],
            row["last_seen"],
            row["bodies_given_up"],
            tuple(ids[place] for place in row["samples"][:share] if place in ids),
        )
        for row in rows
    ]
