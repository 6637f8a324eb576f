"""The steps of one transaction: stage the events, merge them, classify what did not go in, record the dead letters.

All of them run inside a transaction of the caller's, on a session of `session.connect` that `prepare` has seen.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import asyncpg
from usage_events.contract import Event, Reason

from worker.dead_letters.letters import DeadLetter
from worker.errors import SystemUnavailableError
from worker.postgres.copy_format import STAGE_COLUMNS, encode
from worker.postgres.letter_copy import LETTER_COLUMNS, encode_letters
from worker.postgres.session import buffer

MERGES_MAX = 5  # a row that was deleted between two statements makes one more necessary

_STAGE = "usage_stage"
_LETTER_STAGE = "usage_letter_stage"


def _create(table: str, columns: Sequence[tuple[str, str]]) -> str:
    defined = ", ".join(f"{name} {kind}" for name, kind in columns)
    return f"CREATE TEMPORARY TABLE {table} ({defined}) ON COMMIT DELETE ROWS"


_CREATE = f"{_create(_STAGE, STAGE_COLUMNS)}; {_create(_LETTER_STAGE, LETTER_COLUMNS)}"

# The order keeps two workers with overlapping batches from deadlocking. The conflict's target keeps a host's own
# unique index from swallowing rows in silence.
_MERGE = f"""
INSERT INTO ai_usage_logs (id, user_id, organization_id, tokens_used, input_tokens, output_tokens, endpoint, model,
                           request_type, request_metadata, estimated_cost_usd, created_at)
SELECT s.id, s.user_id, s.organization_id, s.tokens_used, s.input_tokens, s.output_tokens, s.endpoint, s.model,
       s.request_type, s.request_metadata, s.cost_micro_usd * 0.000001, s.created_at
FROM {_STAGE} s
WHERE EXISTS (SELECT FROM users u WHERE u.id = s.user_id)
  AND EXISTS (SELECT FROM organizations o WHERE o.id = s.organization_id)
ORDER BY s.id, s.ordinal
ON CONFLICT (id) DO NOTHING
"""  # noqa: S608 - names of this module only

# A second statement: its snapshot sees what the first one waited for. Nearly all rows are known, and that is asked
# first: to look for their users and organizations, too, took a fifth of its time.
_CLASSIFY = f"""
SELECT outcome, count(*) AS events, array_agg(ordinal) FILTER (WHERE outcome NOT IN ('known', 'missing')) AS ordinals
FROM (
    SELECT s.ordinal, CASE
        WHEN (l.id, l.user_id, l.organization_id, l.tokens_used, l.input_tokens, l.output_tokens, l.created_at)
             IS NOT DISTINCT FROM
             (s.id, s.user_id, s.organization_id, s.tokens_used, s.input_tokens, s.output_tokens, s.created_at)
         AND (l.endpoint, l.model, l.request_type, l.request_metadata)
             IS NOT DISTINCT FROM
             (s.endpoint::varchar, s.model::varchar, s.request_type::varchar, s.request_metadata)
         AND (NOT s.cost_given OR l.estimated_cost_usd IS NOT DISTINCT FROM s.cost_micro_usd * 0.000001)
        THEN 'known'
        WHEN NOT EXISTS (SELECT FROM users u WHERE u.id = s.user_id) THEN 'unknown_user'
        WHEN NOT EXISTS (SELECT FROM organizations o WHERE o.id = s.organization_id) THEN 'unknown_organization'
        WHEN l.id IS NULL THEN 'missing'
        ELSE 'id_conflict'
    END AS outcome
    FROM {_STAGE} s LEFT JOIN ai_usage_logs l ON l.id = s.id
) judged
GROUP BY outcome
"""  # noqa: S608 - names of this module only

# The upsert takes the rows' locks in the order of their fingerprints; what may change beside the counts is decided
# after it, on rows that are locked. A letter from the dead queue was never read: what it is about is known only when
# its body comes again and is. Above the ceiling new bodies are given up; one that comes again below it is put back.
_KEPT = {"body": "CASE WHEN NOT (SELECT is_met FROM ceiling) THEN body END"}
_RECORD = f"""
WITH ceiling AS MATERIALIZED (
    SELECT CASE WHEN $1::bigint IS NULL THEN false
                ELSE pg_total_relation_size('ai_usage_dead_letters') >= $1 END AS is_met
), recorded AS (
    INSERT INTO ai_usage_dead_letters AS l ({", ".join(name for name, _ in LETTER_COLUMNS)})
    SELECT {", ".join(_KEPT.get(name, name) for name, _ in LETTER_COLUMNS)} FROM {_LETTER_STAGE} ORDER BY fingerprint
    ON CONFLICT (fingerprint) DO UPDATE
    SET occurrences = l.occurrences + excluded.occurrences,
        last_seen = greatest(l.last_seen, excluded.last_seen),
        worker = excluded.worker,
        body = coalesce(l.body, excluded.body)
    RETURNING l.occurrences, l.body IS NULL AS is_given_up
)
SELECT sum(occurrences) AS occurrences, count(*) FILTER (WHERE is_given_up) AS bodies_given_up,
       (SELECT is_met FROM ceiling) AS is_above
FROM recorded
"""  # noqa: S608 - names of this module only

_REOPEN = f"""
WITH came_again AS (
    SELECT l.id, l.status, l.reason AS old_reason, s.reason AS new_reason, s.errors, s.worker,
           s.event_id, s.user_id, s.organization_id, s.model
    FROM {_LETTER_STAGE} s JOIN ai_usage_dead_letters l USING (fingerprint)
    WHERE CASE WHEN l.status = 'open' THEN l.reason <> s.reason
               ELSE NOT EXISTS (SELECT FROM ai_usage_logs e WHERE e.id = l.event_id) END
), noted AS (
    INSERT INTO ai_usage_dead_letter_actions
        (who, letter_id, action, from_reason, to_reason, from_status, to_status, note)
    SELECT worker, id, 'refused_again', old_reason, new_reason, status, 'open', 'the same body was delivered again'
    FROM came_again
)
UPDATE ai_usage_dead_letters l
SET status = 'open', reason = came_again.new_reason, errors = came_again.errors,
    event_id = coalesce(l.event_id, came_again.event_id), user_id = coalesce(l.user_id, came_again.user_id),
    organization_id = coalesce(l.organization_id, came_again.organization_id),
    model = coalesce(l.model, came_again.model)
FROM came_again WHERE l.id = came_again.id
"""  # noqa: S608 - names of this module only


class Merged(NamedTuple):
    """What became of the staged events: counts, and the reason of each that was refused, by its ordinal."""

    stored: int
    duplicates: int
    refused: dict[int, Reason]


class Recorded(NamedTuple):
    """Of the letters that were written, how many have no body, and whether the table was above its ceiling."""

    bodies_given_up: int = 0
    is_above: bool = False


async def prepare(connection: asyncpg.Connection) -> None:
    """Make the session's own stages; once a connection, since tables made per batch bloat the catalogues."""
    await connection.execute(_CREATE)


async def merge(connection: asyncpg.Connection, numbered: Sequence[tuple[int, Event]]) -> Merged:
    """Store the events that can be stored; say what became of the others. `numbered` pairs ordinal and event."""
    if not numbered:
        return Merged(0, 0, {})
    await connection.copy_to_table(
        _STAGE,
        source=buffer(encode(numbered)),
        columns=[name for name, _ in STAGE_COLUMNS],
        format="binary",
    )
    stored = 0
    for _ in range(MERGES_MAX):
        stored += _row_count(await connection.execute(_MERGE))
        if stored == len(numbered):
            return Merged(stored, 0, {})
        known, refused, missing = await _classify(connection)
        if not missing:
            duplicates = known - stored
            # The books: every staged event has exactly one outcome, or nothing is committed.
            if duplicates < 0 or stored + duplicates + len(refused) != len(numbered):
                raise SystemUnavailableError(
                    f"the batch does not add up: {len(numbered)} staged, {stored} stored, {duplicates} duplicates, "
                    f"{len(refused)} refused"
                )
            return Merged(stored, duplicates, refused)
    raise SystemUnavailableError(f"rows vanished in {MERGES_MAX} merges in turn: something deletes what is stored")


async def record(
    connection: asyncpg.Connection,
    letters: Sequence[DeadLetter],
    *,
    worker: str,
    seen_at: datetime,
    bytes_max: int | None = None,
) -> Recorded:
    """Write dead letters, added up and sorted by `letters.add_up`; a body that is known is counted.

    A new body is given up where the table has `bytes_max` bytes already.
    """
    if not letters:
        return Recorded()
    await connection.copy_to_table(
        _LETTER_STAGE,
        source=buffer(encode_letters(letters, worker=worker, seen_at=seen_at)),
        columns=[name for name, _ in LETTER_COLUMNS],
        format="binary",
    )
    # More occurrences than are new: some of these bodies have come before.
    row = await connection.fetchrow(_RECORD, bytes_max)
    assert row is not None  # noqa: S101 - an aggregate has one row
    if row["occurrences"] != sum(letter.occurrences for letter in letters):
        await connection.execute(_REOPEN)
    return Recorded(row["bodies_given_up"], row["is_above"])


async def _classify(connection: asyncpg.Connection) -> tuple[int, dict[int, Reason], int]:
    known = missing = 0
    refused: dict[int, Reason] = {}
    for row in await connection.fetch(_CLASSIFY):
        if row["outcome"] == "known":
            known = row["events"]
        elif row["outcome"] == "missing":
            missing = row["events"]
        else:
            refused |= dict.fromkeys(row["ordinals"], Reason(row["outcome"]))
    return known, refused, missing


def _row_count(status: str) -> int:
    return int(status.rpartition(" ")[2])
