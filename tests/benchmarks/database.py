"""The database's side of a run: emptied before, counted and added up after, and when each row was committed.

The server runs with `track_commit_timestamp`, so it knows the commit time of each row, on the clock that the publisher
reads too: rates and latencies are taken from there afterwards, and nothing watches a contender while it works.
"""

import asyncio
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from benchmarks.workload import People, Totals

USERS = 1000
ORGANIZATIONS = 50
RUN_SECONDS_MAX = 300.0
REST_SECONDS_MAX = 60.0  # from the first look at the end until all is there
# The looks at the table cost the contender's machine: at every 10 ms they took a third of it. No figure rests on them.
_POLL_SECONDS = 0.1

_TOTALS = """
SELECT count(*), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0), coalesce(sum(tokens_used), 0),
       coalesce(sum(estimated_cost_usd), 0)
FROM ai_usage_logs WHERE created_at >= $1
"""
_COMMITS = """
SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS committed_at, count(*) AS rows
FROM ai_usage_logs WHERE created_at >= $1 GROUP BY 1 ORDER BY 1
"""


class Commit(NamedTuple):
    """Rows that became visible at one moment, in seconds since 1970."""

    committed_at: float
    rows: int


class WrongAnswerError(Exception):
    """What stands in the table is not what was sent: the figure is no figure."""


class Database:
    """The table that everything is measured with."""

    def __init__(self, connection: asyncpg.Connection, dsn: str) -> None:
        self.connection = connection
        self.dsn = dsn

    async def make_people(self) -> People:
        """Fill `users` and `organizations`."""
        await self.connection.execute("TRUNCATE users, organizations CASCADE")
        insert = "INSERT INTO {} SELECT gen_random_uuid() FROM generate_series(1, $1) RETURNING id"
        users = await self.connection.fetch(insert.format("users"), USERS)
        organizations = await self.connection.fetch(insert.format("organizations"), ORGANIZATIONS)
        await self.connection.execute("VACUUM ANALYZE users, organizations")
        return People([row["id"] for row in users], [row["id"] for row in organizations])

    async def reset(self) -> None:
        """No usage and no letters."""
        await self.connection.execute("TRUNCATE ai_usage_logs, ai_usage_dead_letters CASCADE")

    async def settle_down(self) -> None:
        """What the run before has left to be written is written before this one."""
        await self.connection.execute("CHECKPOINT")

    async def until_a_row(self, ids: list[UUID]) -> None:
        """Wait until one of these is stored.

        They are looked for by id: asked for the newest `created_at`, Postgres walked through all of a large table,
        beside the contender that it measures.
        """
        await self._until("SELECT EXISTS (SELECT FROM ai_usage_logs WHERE id = ANY ($1::uuid[]))", ids)

    async def until_rows(self, ids: list[UUID]) -> None:
        """Wait until all of these are stored."""
        await self._until(
            "SELECT count(*) = cardinality($1::uuid[]) FROM ai_usage_logs WHERE id = ANY ($1::uuid[])", ids
        )

    async def require(self, totals: Totals, begin: datetime, letters: int = 0) -> None:
        """Wait for the last rows and letters; rows and sums are what was sent, or it is an error.

        Raises:
            WrongAnswerError: they are not.
        """
        wanted = (totals, letters)
        found: tuple[Totals, int] | None = None
        try:
            async with asyncio.timeout(REST_SECONDS_MAX):
                while (found := await self._found(begin)) != wanted:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise WrongAnswerError(f"sent: {wanted}; in the database: {found}") from None

    async def commits(self, begin: datetime) -> list[Commit]:
        """The commits of a run's rows, in order."""
        return [Commit(row["committed_at"], row["rows"]) for row in await self.connection.fetch(_COMMITS, begin)]

    async def _found(self, begin: datetime) -> tuple[Totals, int]:
        (row,) = await self.connection.fetch(_TOTALS, begin)
        letters = await self.connection.fetchval("SELECT count(*) FROM ai_usage_dead_letters")
        return Totals(*row.values()), int(letters)

    async def _until(self, question: str, argument: Any) -> None:
        try:
            async with asyncio.timeout(RUN_SECONDS_MAX):
                while not await self.connection.fetchval(question, argument):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise TimeoutError(f"after {RUN_SECONDS_MAX:g} s this does not hold yet: {question}") from None


def rate_of(commits: list[Commit], share_stored: float = 1.0) -> float:
    """Events a second from the first commit to the last, without what the first one brought.

    Args:
        commits: in order.
        share_stored: rows stored an event delivered; below one where events are repeated or refused.

    Raises:
        WrongAnswerError: there is but one commit, and so no rate.
    """
    seconds = commits[-1].committed_at - commits[0].committed_at
    if seconds <= 0:
        raise WrongAnswerError("everything was committed at once: a rate needs a larger backlog")
    return sum(commit.rows for commit in commits[1:]) / share_stored / seconds
