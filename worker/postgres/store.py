"""The store on Postgres: one connection, one transaction a batch."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from worker.batch import Batch, Origin
from worker.clock import Reading
from worker.dead_letters.ceiling import Ceiling
from worker.dead_letters.letters import DeadLetter, add_up, letter_of_event, letters_of_rejects, refusal_of
from worker.errors import SystemUnavailableError
from worker.postgres.clock import read_clock
from worker.postgres.in_flight import InFlight
from worker.postgres.isolate import Isolation, Numbered
from worker.postgres.merge import Merged, merge, record
from worker.postgres.migrations import missing_migrations
from worker.postgres.session import address, translated
from worker.postgres.writer_session import WriterSession
from worker.store import Refused, Written


@dataclass(slots=True, frozen=True)
class Shared:
    """What the stores of one process have together: the ceiling of the dead letters, and what is being written."""

    ceiling: Ceiling = field(default_factory=Ceiling)
    in_flight: InFlight = field(default_factory=InFlight)


class PostgresStore:
    """Writes batches over a session of its own.

    Args:
        dsn: where Postgres is; several hosts are tried in order.
        schema: the schema that holds the tables.
        worker: this worker's name, which stands in its dead letters.
        shared: with the other stores of this process.
        utcnow: the clock that dates dead letters.
    """

    def __init__(
        self,
        dsn: str,
        schema: str,
        *,
        worker: str,
        shared: Shared | None = None,
        utcnow: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._dsn = dsn
        self._schema = schema
        self._worker = worker
        self._shared = shared or Shared()
        self._utcnow = utcnow
        self._session = WriterSession(dsn, schema, name=f"usage-worker {worker}")

    async def ping(self) -> None:
        """See `Store.ping`."""
        try:
            await self._require_migrations()
            # To consume while only reads succeed would give the same deliveries back every few minutes, and each
            # return brings them nearer to the delivery limit.
            await self._session.require_writable()
        except BaseException:
            self._session.drop()
            raise

    async def read_clock(self) -> Reading:
        """See `Store.read_clock`."""
        try:
            with translated():
                return await read_clock(await self._session.connection())
        except BaseException:
            self._session.drop()
            raise

    async def write(self, batch: Batch) -> Written:
        """See `Store.write`. Events that another writer is writing just now follow in a transaction of their own."""
        numbered = list(enumerate(batch.accepted()))
        rejects = letters_of_rejects(batch)
        try:
            with self._shared.in_flight.begin({event.id for _, event in numbered}) as flight:
                if not flight.shared:
                    return await self._write_part(batch, numbered, rejects)
                alone = [pair for pair in numbered if pair[1].id not in flight.shared]
                shared = [pair for pair in numbered if pair[1].id in flight.shared]
                written = await self._write_part(batch, alone, rejects)
                await flight.until_clear()
                return written + await self._write_part(batch, shared, [])
        except BaseException:
            # Whatever it was, cancellation included: what the server made of the transaction is unknown.
            self._session.drop()
            raise

    async def close(self) -> None:
        """See `Store.close`."""
        await self._session.close()

    async def _require_migrations(self) -> None:
        with translated():
            missing = await missing_migrations(await self._session.connection(), self._schema)
        if missing:
            names = ", ".join(migration.name for migration in missing)
            raise SystemUnavailableError(
                f"the database at {address(self._dsn)} lacks {names}: run `usage-worker migrate`"
            )

    async def _write_part(self, batch: Batch, numbered: list[Numbered], rejects: list[DeadLetter]) -> Written:
        isolation = Isolation(numbered, self._session.try_alone)
        return await self._session.write_isolating(lambda: self._commit(batch, isolation, rejects), isolation)

    async def _commit(self, batch: Batch, isolation: Isolation, rejects: list[DeadLetter]) -> Written:
        with translated():
            async with self._session.transaction() as connection:
                merged = await merge(connection, isolation.sound())
                letters = rejects + _letters_of_refused(batch, isolation, merged)
                recorded = await record(
                    connection,
                    add_up(letters),
                    worker=self._worker,
                    seen_at=self._utcnow(),
                    bytes_max=self._shared.ceiling.bytes_max,
                )
        if letters:
            self._shared.ceiling.note(is_above=recorded.is_above)
        refused = Counter(Refused(letter.reason, letter.app_id or "") for letter in letters)
        return Written(merged.stored, merged.duplicates, refused, recorded.bodies_given_up)


def _letters_of_refused(batch: Batch, isolation: Isolation, merged: Merged) -> list[DeadLetter]:
    refusals = isolation.refusals | {
        ordinal: refusal_of(reason, isolation.event(ordinal)) for ordinal, reason in merged.refused.items()
    }
    if not refusals:
        return []
    origins: list[Origin] = list(batch.origins())
    return [
        letter_of_event(origins[ordinal], isolation.event(ordinal), refusal)
        for ordinal, refusal in sorted(refusals.items())  # so that the letters of one message stand together
    ]
