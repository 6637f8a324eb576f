"""A writer's session: pinned, with stages of its own, renewed when old or failed; and what can be tried on it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from time import monotonic
from typing import TypeVar
from uuid import uuid4

import asyncpg
from asyncpg.transaction import Transaction
from usage_events.contract import Event
from usage_events.ids import uuid7

from worker.errors import RowsRefusedError, SystemUnavailableError
from worker.postgres.commit import CommitWatch, answered
from worker.postgres.isolate import Isolation, Numbered
from worker.postgres.merge import merge, prepare
from worker.postgres.session import connect, translated

# A session's temporary tables hold back the freeze horizon: it is renewed before that matters.
SESSION_SECONDS_MAX = 1800.0
FOREIGN_KEY_TRIES_MAX = 3
CLOSE_SECONDS_MAX = 2.0
_FOREIGN_KEY = "23503"

T = TypeVar("T")


class WriterSession:
    """One connection for one transaction at a time.

    Args:
        dsn: where Postgres is; several hosts are tried in order.
        schema: the schema that holds the tables.
        name: how the session shows in `pg_stat_activity`.
    """

    def __init__(self, dsn: str, schema: str, *, name: str) -> None:
        self._dsn = dsn
        self._schema = schema
        self._name = name
        self._connection: asyncpg.Connection | None = None
        self._commits: CommitWatch | None = None
        self._connected_at = 0.0

    async def connection(self) -> asyncpg.Connection:
        """The session as it is, or a new one."""
        old = self._connection
        if old is not None and (old.is_closed() or monotonic() - self._connected_at > SESSION_SECONDS_MAX):
            self.drop()
        if self._connection is None:
            connection = await connect(self._dsn, self._schema, name=self._name)
            try:
                with answered():
                    await prepare(connection)
            except BaseException:
                connection.terminate()
                raise
            self._connection = connection
            self._commits = CommitWatch(connection)
            self._connected_at = monotonic()
        return self._connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.Connection]:
        """A transaction: after the block it is committed, on the synchronous standby too where there is one.

        Raises:
            SystemUnavailableError: nobody knows whether the standby has it; see `worker.postgres.commit`.
        """
        async with self._begun() as (connection, transaction):
            yield connection
        with answered():
            await transaction.commit()
        if self._commits is not None:
            self._commits.check()

    def drop(self) -> None:
        """Leave the connection at once: after a failure a polite goodbye may hang."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.close(timeout=CLOSE_SECONDS_MAX)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection.terminate()

    async def write_isolating(self, write: Callable[[], Awaitable[T]], isolation: Isolation) -> T:
        """What `write` returns, once it has left out each row that the database refuses; `isolation` knows them.

        Raises:
            SystemUnavailableError: the database would refuse any row, or cannot do its work.
        """
        foreign_key_tries_left = FOREIGN_KEY_TRIES_MAX
        while True:
            try:
                return await write()
            except RowsRefusedError as error:
                if error.sqlstate == _FOREIGN_KEY and foreign_key_tries_left:
                    foreign_key_tries_left -= 1  # deleted between the join and the check: the next join decides
                    continue
                await self._require_sound_system(error)
                await isolation.find(error)

    async def try_alone(self, numbered: list[Numbered]) -> RowsRefusedError | None:
        """Would the database take these? Nothing of them stays."""
        error: RowsRefusedError | None = None
        for _ in range(FOREIGN_KEY_TRIES_MAX):
            error = await self._rehearse(numbered)
            if error is None or error.sqlstate != _FOREIGN_KEY:
                break
        return error

    async def require_writable(self) -> None:
        """Would the database write a row? Nothing of it stays.

        A host's own rule that refuses just this row does not count: the database answers, and each batch decides.

        Raises:
            SystemUnavailableError: its disk is full, a right or column is gone, its synchronous standby is away (a new
                session's stages are not committed): it still reads, but stores nothing.
        """
        with translated():
            canary = await _canary(await self.connection())
        await self.try_alone([(0, canary)])

    async def _rehearse(self, numbered: list[Numbered]) -> RowsRefusedError | None:
        try:
            with translated():
                async with self._begun() as (connection, transaction):
                    await merge(connection, numbered)
                    await speak_now(connection)
                await transaction.rollback()
        except RowsRefusedError as error:
            return error
        return None

    @asynccontextmanager
    async def _begun(self) -> AsyncIterator[tuple[asyncpg.Connection, Transaction]]:
        """A transaction that is open after the block; rolled back where the block fails.

        Where it fails by anything but the server's own answer, the session is left instead: a polite rollback would
        wait for a server that is silent, and asyncpg then waits for it twice.
        """
        connection = await self.connection()
        transaction = connection.transaction()
        await transaction.start()
        try:
            yield connection, transaction
        except asyncpg.PostgresError:
            if not connection.is_closed():
                await transaction.rollback()
            raise
        except BaseException:
            self.drop()
            raise

    async def _require_sound_system(self, refused: RowsRefusedError) -> None:
        """Is it the rows, or would any row fail? Asked over a new session with an event that exists nowhere.

        Raises:
            SystemUnavailableError: an event that nothing is wrong with is refused too.
        """
        self.drop()
        with translated():
            canary = await _canary(await self.connection())
        error = await self.try_alone([(0, canary)])
        if error is not None:
            raise SystemUnavailableError(
                f"Postgres refuses every row, so nothing is refused for it: {error.headline}"
            ) from refused


async def speak_now(connection: asyncpg.Connection) -> None:
    """Let a host's deferred constraints speak, which otherwise do so at the commit: a rehearsal never reaches it."""
    await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")


async def _canary(connection: asyncpg.Connection) -> Event:
    """An event that nothing is wrong with, of any user and organization that exist.

    Its id is a UUIDv7 of now, as nearly all are: a table whose month has no partition refuses it like them.
    """
    user = await connection.fetchval("SELECT id FROM users LIMIT 1")
    organization = await connection.fetchval("SELECT id FROM organizations LIMIT 1")
    now_us = int(datetime.now(UTC).timestamp() * 1e6)
    return Event(
        id=uuid7().bytes,
        user_id=(user or uuid4()).bytes,
        organization_id=(organization or uuid4()).bytes,
        tokens_used=0,
        input_tokens=0,
        output_tokens=0,
        endpoint=None,
        model=None,
        request_type=None,
        metadata_json=None,
        cost_micro_usd=0,
        cost_given=False,
        created_at_us=now_us,
    )
