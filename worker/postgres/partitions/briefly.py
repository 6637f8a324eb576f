"""Transactions that lock the table of usage: short, and tried again where others hold it."""

from collections.abc import Awaitable, Callable

import asyncpg
import stamina

from worker.errors import SystemUnavailableError
from worker.postgres.session import describe
from worker.retention.layout import TABLE

LOCK_TIMEOUT_MS = 500  # who waits for the table's lock makes all who come after it wait as well
STATEMENT_SECONDS_MAX = 30  # of what is done while it is held
PATIENCE_SECONDS = 600.0
BUSY = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
LOCK = f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE"


async def briefly(connection: asyncpg.Connection, what: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do this in one transaction that waits half a second at most for each lock; again, until it has them all.

    Raises:
        SystemUnavailableError: others held one of them for all of `PATIENCE_SECONDS`; nothing was changed.
    """

    async def once() -> None:
        async with connection.transaction():
            await connection.execute(
                f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS};SET LOCAL statement_timeout = '{STATEMENT_SECONDS_MAX}s'"
            )
            await work()

    patiently = stamina.AsyncRetryingCaller(attempts=None, timeout=PATIENCE_SECONDS, wait_initial=0.5, wait_max=5.0)
    try:
        await patiently.on(BUSY)(once)
    except BUSY as error:
        raise SystemUnavailableError(
            f"{what} was not done: for {PATIENCE_SECONDS:g} s others held a lock that it needs ({describe(error)}): end"
            f" long transactions on {TABLE}, users and organizations (pg_stat_activity shows them), then run it again"
        ) from error
