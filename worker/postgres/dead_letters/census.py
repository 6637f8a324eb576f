"""The census: counts the open dead letters, over a connection of its own that it leaves when anything fails."""

from datetime import UTC, datetime
from math import nan

import asyncpg
from usage_events.contract import Reason

from worker.postgres.clock import read_clock
from worker.postgres.partitions.catalogue import read_months_ahead
from worker.postgres.session import connect, translated
from worker.watch import OpenLetters

# By its index alone, reason by reason: half the time of one GROUP BY, and a reason without letters is 0.
_COUNT = """
SELECT reason,
       (SELECT count(*) FROM ai_usage_dead_letters l WHERE l.status = 'open' AND l.reason = known.reason) AS letters
FROM unnest($1::text[]) AS known (reason)
"""
_OLDEST = """
SELECT coalesce(extract(epoch FROM clock_timestamp() - min(first_seen)), 0)::float8
FROM ai_usage_dead_letters WHERE status = 'open'
"""
_SIZE = "SELECT pg_total_relation_size('ai_usage_dead_letters')"


class PostgresCensus:
    """See `worker.watch.Census`.

    Args:
        dsn: where Postgres is.
        schema: the schema that holds the tables.
        name: how its connection shows.
    """

    def __init__(self, dsn: str, schema: str, *, name: str) -> None:
        self._dsn = dsn
        self._schema = schema
        self._name = name
        self._connection: asyncpg.Connection | None = None

    async def count(self) -> OpenLetters:
        """See `Census.count`."""
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await connect(self._dsn, self._schema, name=self._name)
            with translated():
                rows = await self._connection.fetch(_COUNT, [reason.value for reason in Reason])
                oldest_seconds = await self._connection.fetchval(_OLDEST)
                table_bytes = await self._connection.fetchval(_SIZE)
                months_ahead = await read_months_ahead(self._connection, datetime.now(UTC))
                clock = await read_clock(self._connection)
        except BaseException:
            self.abandon()
            raise
        by_reason = {row["reason"]: row["letters"] for row in rows}
        return OpenLetters(
            by_reason, max(0.0, oldest_seconds), table_bytes, nan if months_ahead is None else months_ahead, clock
        )

    def abandon(self) -> None:
        """See `Census.abandon`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
