"""A gate before the commit: transactions that stored a row wait there, so a test can act in between."""

from types import TracebackType
from typing import Self

import asyncpg

from harness.waiting import until

_KEY = 735_911

_INSTALL = f"""
CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared({_KEY});
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON ai_usage_logs DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION wait_at_gate();
"""
_REMOVE = "DROP TRIGGER gate ON ai_usage_logs; DROP FUNCTION wait_at_gate()"
_WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = $1
"""


class CommitGate:
    """Shut while the context lasts, unless `open` is called; a transaction waits 10 s at most, then it fails."""

    def __init__(self, database: asyncpg.Connection) -> None:
        self._database = database
        self._is_shut = False

    async def __aenter__(self) -> Self:
        await self._database.execute(_INSTALL)
        await self._database.execute("SELECT pg_advisory_lock($1)", _KEY)
        self._is_shut = True
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.open()
        await self._database.execute(_REMOVE)

    async def open(self) -> None:
        """Let all commit that wait, and all that come."""
        if self._is_shut:
            self._is_shut = False
            await self._database.execute("SELECT pg_advisory_unlock($1)", _KEY)

    async def until_one_waits(self) -> None:
        """Until a transaction has done everything but its commit."""
        await self._until_waiting("advisory", "a transaction waits at the gate")

    async def until_one_waits_behind(self) -> None:
        """Until another waits for the outcome of that one, since both store the same id."""
        await self._until_waiting("transactionid", "a transaction waits for the one at the gate")

    async def _until_waiting(self, event: str, what: str) -> None:
        async def waits() -> bool:
            return bool(await self._database.fetchval(_WAITING, event))

        await until(waits, what)
