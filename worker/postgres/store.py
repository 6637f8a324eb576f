"""The store on Postgres: one connection, one transaction a batch."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic

import asyncpg
import structlog
from usage_events.contract import Event

from worker.batch import Batch, Origin
from worker.errors import RowsRefusedError, SystemUnavailableError
from worker.letters import DeadLetter, add_up, letter_of_event, letters_of_rejects, refusal_of
from worker.postgres.isolate import Isolation
from worker.postgres.merge import Merged, merge, prepare, record
from worker.postgres.migrations import missing_migrations
from worker.postgres.session import address, connect, translated
from worker.store import Written

# A session's temporary tables hold back the freeze horizon: it is renewed before that matters.
SESSION_SECONDS_MAX = 1800.0
FOREIGN_KEY_TRIES_MAX = 3
CLOSE_SECONDS_MAX = 2.0
_FOREIGN_KEY = "23503"

log = structlog.get_logger(__name__)


class PostgresStore:
    """Writes batches over a connection of its own, which it renews when it is old or has failed.

    Args:
        dsn: where Postgres is; several hosts are tried in order.
        schema: the schema that holds the tables.
        worker: this worker's name, which stands in its dead letters.
        utcnow: the clock that dates dead letters.
    """

    def __init__(
        self,
        dsn: str,
        schema: str,
        *,
        worker: str,
        utcnow: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._dsn = dsn
        self._schema = schema
        self._worker = worker
        self._utcnow = utcnow
        self._connection: asyncpg.Connection | None = None
        self._connected_at = 0.0

    async def ping(self) -> None:
        """See `Store.ping`."""
        try:
            with translated():
                missing = await missing_migrations(await self._session(), self._schema)
        except BaseException:
            self._drop()
            raise
        if missing:
            names = ", ".join(migration.name for migration in missing)
            raise SystemUnavailableError(
                f"the database at {address(self._dsn)} lacks {names}: run `usage-worker migrate`"
            )

    async def write(self, batch: Batch) -> Written:
        """See `Store.write`."""
        isolation = Isolation(list(enumerate(batch.accepted())), self._try_alone)
        try:
            return await self._write_isolating(batch, isolation)
        except BaseException:
            # Whatever it was, cancellation included: what the server made of the transaction is unknown.
            self._drop()
            raise

    async def close(self) -> None:
        """See `Store.close`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.close(timeout=CLOSE_SECONDS_MAX)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection.terminate()

    async def _write_isolating(self, batch: Batch, isolation: Isolation) -> Written:
        foreign_key_tries_left = FOREIGN_KEY_TRIES_MAX
        while True:
            try:
                return await self._write(batch, isolation)
            except RowsRefusedError as error:
                if error.sqlstate == _FOREIGN_KEY and foreign_key_tries_left:
                    foreign_key_tries_left -= 1  # deleted between the join and the check: the next join decides
                    continue
                await self._require_sound_system(error)
                await isolation.find(error)

    async def _write(self, batch: Batch, isolation: Isolation) -> Written:
        with translated():
            connection = await self._session()
            async with connection.transaction():
                merged = await merge(connection, isolation.sound())
                letters = self._letters(batch, isolation, merged)
                await record(connection, add_up(letters), worker=self._worker, seen_at=self._utcnow())
        return Written(merged.stored, merged.duplicates, Counter(letter.reason for letter in letters))

    def _letters(self, batch: Batch, isolation: Isolation, merged: Merged) -> list[DeadLetter]:
        letters = letters_of_rejects(batch)
        refusals = isolation.refusals | {
            ordinal: refusal_of(reason, isolation.event(ordinal)) for ordinal, reason in merged.refused.items()
        }
        if refusals:
            origins: list[Origin] = list(batch.origins())
            letters += [
                letter_of_event(origins[ordinal], isolation.event(ordinal), refusal)
                for ordinal, refusal in refusals.items()
            ]
        return letters

    async def _try_alone(self, numbered: list[tuple[int, Event]]) -> RowsRefusedError | None:
        """Would the database take these? Nothing of them stays."""
        error: RowsRefusedError | None = None
        for _ in range(FOREIGN_KEY_TRIES_MAX):
            error = await self._rehearse(numbered)
            if error is None or error.sqlstate != _FOREIGN_KEY:
                break
        return error

    async def _rehearse(self, numbered: list[tuple[int, Event]]) -> RowsRefusedError | None:
        try:
            with translated():
                connection = await self._session()
                transaction = connection.transaction()
                await transaction.start()
                try:
                    await merge(connection, numbered)
                    # A host's deferred constraint speaks at the commit, which a rehearsal never reaches.
                    await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
                finally:
                    await transaction.rollback()
        except RowsRefusedError as error:
            return error
        return None

    async def _require_sound_system(self, refused: RowsRefusedError) -> None:
        """Is it the rows, or would any row fail? Asked over a new session with an event that exists nowhere.

        Raises:
            SystemUnavailableError: an event that nothing is wrong with is refused too.
        """
        self._drop()
        with translated():
            canary = await _canary(await self._session())
        error = await self._try_alone([(0, canary)])
        if error is not None:
            raise SystemUnavailableError(
                f"Postgres refuses every row, so nothing is refused for it: {error} (SQLSTATE {error.sqlstate})"
            ) from refused

    async def _session(self) -> asyncpg.Connection:
        old = self._connection
        if old is not None and (old.is_closed() or monotonic() - self._connected_at > SESSION_SECONDS_MAX):
            self._drop()
        if self._connection is None:
            connection = await connect(self._dsn, self._schema, name=f"usage-worker {self._worker}")
            try:
                await prepare(connection)
            except BaseException:
                connection.terminate()
                raise
            self._connection = connection
            self._connected_at = monotonic()
        return self._connection

    def _drop(self) -> None:
        """Leave the connection at once: after a failure a polite goodbye may hang."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


async def _canary(connection: asyncpg.Connection) -> Event:
    """An event that nothing is wrong with, of any user and organization that exist."""
    from uuid import uuid4

    user = await connection.fetchval("SELECT id FROM users LIMIT 1")
    organization = await connection.fetchval("SELECT id FROM organizations LIMIT 1")
    now_us = int(datetime.now(UTC).timestamp() * 1e6)
    return Event(
        id=uuid4().bytes,
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
