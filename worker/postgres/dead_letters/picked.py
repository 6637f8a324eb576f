"""Picked letters: what a bulk command was agreed to, in a temporary table of its session, in the order of work.

What arrives afterwards was not agreed to. And a filter that is sorted anew for each thousand letters costs the square
of their number.
"""

from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple
from uuid import UUID

import asyncpg

from worker.postgres.dead_letters.table import Filter

LOT_LETTERS_MAX = 1000
LOT_BYTES_MAX = 8 * 1024 * 1024  # of the bodies that one transaction reads
SCAN_SECONDS_MAX = 1800  # of one statement that looks at every letter

CREATE = """
CREATE TEMPORARY TABLE IF NOT EXISTS picked_letters (
    ordinal BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id UUID NOT NULL, body_bytes BIGINT NOT NULL
)
"""
BODY_BYTES = "coalesce(octet_length(l.body), 0) + coalesce(octet_length(l.edited_body), 0)"


class Picked(NamedTuple):
    """How many letters, and how large their bodies are together."""

    letters: int
    body_bytes: int


async def pick(connection: asyncpg.Connection, chosen: Filter, also: str, *given: object) -> Picked:
    """Note the letters that a filter chooses now, the oldest first.

    Args:
        connection: outside of a transaction.
        chosen: which letters.
        also: a further condition on `l`, a text of the caller's own; `{}` stands for each of `given`.
        *given: its arguments.
    """
    condition, arguments = chosen.where()
    places = [f"${len(arguments) + number}" for number in range(1, len(given) + 1)]
    limit = "" if chosen.limit is None else f" LIMIT {chosen.limit:d}"
    async with connection.transaction():
        await scanning(connection)
        await connection.execute(CREATE)
        await connection.execute(
            "INSERT INTO picked_letters (id, body_bytes)"  # noqa: S608 - the code's own texts
            f" SELECT l.id, {BODY_BYTES} FROM ai_usage_dead_letters l"
            f" WHERE {condition} AND {also.format(*places)} ORDER BY l.first_seen, l.id{limit}",
            *arguments,
            *given,
            timeout=SCAN_SECONDS_MAX,
        )
    return await picked(connection)


async def picked(connection: asyncpg.Connection) -> Picked:
    """What has been noted."""
    row = await connection.fetchrow("SELECT count(*), coalesce(sum(body_bytes), 0)::bigint FROM picked_letters")
    assert row is not None  # noqa: S101 - an aggregate has one row
    return Picked(*row)


async def scanning(connection: asyncpg.Connection) -> None:
    """Let this transaction read a table from its beginning to its end, which a worker's session must never do."""
    await connection.execute(
        f"SET LOCAL enable_seqscan = on; SET LOCAL statement_timeout = '{SCAN_SECONDS_MAX}s'",
    )


async def lots(connection: asyncpg.Connection) -> AsyncIterator[list[UUID]]:
    """The ids of what was noted, in order, as many as one transaction takes."""
    last = 0
    while True:
        rows = await connection.fetch(
            "SELECT ordinal, id, body_bytes FROM picked_letters WHERE ordinal > $1 ORDER BY ordinal LIMIT $2",
            last,
            LOT_LETTERS_MAX,
        )
        if not rows:
            return
        totals = accumulate(row["body_bytes"] for row in rows)
        fitting = [row for row, total in zip(rows, totals, strict=True) if total <= LOT_BYTES_MAX] or rows[:1]
        last = fitting[-1]["ordinal"]
        yield [row["id"] for row in fitting]


def only(chosen: Filter, ids: list[UUID]) -> Filter:
    """The filter, for these letters alone: another may have changed one since it was noted."""
    return replace(chosen, ids=tuple(ids), limit=None)
