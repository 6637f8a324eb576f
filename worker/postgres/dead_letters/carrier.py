"""Carrier: one set of letters after the other, each in a transaction that commits, or that is only tried."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import stamina
from usage_events.contract import Event, Refusal

from worker.errors import RowsRefusedError, SystemUnavailableError
from worker.postgres.dead_letters.carry import NONE_REFUSED, Carried, CarryOptions, carry, events_of
from worker.postgres.dead_letters.table import Filter, Place, StoredLetter, lock_letters, skipped_letters
from worker.postgres.isolate import Isolation
from worker.postgres.session import translated
from worker.postgres.writer_session import WriterSession, speak_now

# A worker that stores one of these events and counts one of these letters at once may close a circle of locks.
_DEADLOCK_TRIES_MAX = 10
_DEADLOCKS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)


@dataclass(slots=True, frozen=True)
class Lot:
    """Which letters the next transaction carries: see `lock_letters`. `before` hears of them once they are locked."""

    chosen: Filter
    limit: int
    after: Place | None = None
    also: str = "true"
    before: Callable[[Sequence[StoredLetter]], Awaitable[None]] | None = None


@dataclass(slots=True, frozen=True)
class Carriage:
    """What one transaction carried.

    `skipped` are letters that it passed over since somebody else works on them. `last` is the place up to which all
    letters are in one of both; there are no more where it is `None`.
    """

    carried: list[Carried]
    skipped: list[UUID]
    last: Place | None


class Carrier:
    """Carries letters on a session of its own.

    Args:
        session: what it writes on; closed by the caller.
        options: how letters are judged, and who does it.
        is_trial: roll back what was carried.
        utcnow: the clock that dates letters.
    """

    def __init__(
        self,
        session: WriterSession,
        options: CarryOptions,
        *,
        is_trial: bool = False,
        utcnow: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._session = session
        self._options = options
        self._is_trial = is_trial
        self._utcnow = utcnow
        self._locked: list[StoredLetter] = []
        self._skipped: list[UUID] = []

    @property
    def is_trial(self) -> bool:
        """Whether nothing of what is carried stays."""
        return self._is_trial

    async def carry_next(self, lot: Lot) -> Carriage:
        """Carry the next set of letters. Nothing is left half done.

        Raises:
            SystemUnavailableError: the database cannot do its work; nothing of this set is changed.
        """
        deadlocked = stamina.AsyncRetryingCaller(
            attempts=_DEADLOCK_TRIES_MAX, timeout=None, wait_initial=0.05, wait_max=1.0
        ).on(_is_deadlock)
        try:
            return await deadlocked(self._carry_isolating, lot)
        except BaseException:
            # What the server made of the transaction is unknown.
            self._session.drop()
            raise

    async def _carry_isolating(self, lot: Lot) -> Carriage:
        self._locked = []
        try:
            return await self._carry(lot)
        except RowsRefusedError as error:
            locked, skipped = self._locked, self._skipped
            if not locked:
                raise SystemUnavailableError(f"Postgres does not find the letters: {error}") from error
            same = replace(lot.chosen, ids=tuple(letter.id for letter in locked))
            again = Lot(same, lot.limit)
            isolation = Isolation(list(enumerate(events_of(locked, self._options))), self._session.try_alone)
            done = await self._session.write_isolating(lambda: self._carry(again, _by_event(isolation)), isolation)
            return Carriage(done.carried, skipped + done.skipped, locked[-1].place)

    async def _carry(self, lot: Lot, refusals: Mapping[Event, Refusal] = NONE_REFUSED) -> Carriage:
        with translated():
            connection = await self._session.connection()
            transaction = connection.transaction()
            await transaction.start()
            try:
                self._locked = letters = await lock_letters(
                    connection, lot.chosen, lot.limit, after=lot.after, also=lot.also
                )
                self._skipped = await skipped_letters(
                    connection, lot.chosen, after=lot.after, locked=letters, also=lot.also
                )
                if lot.before is not None:
                    await lot.before(letters)
                carried = await carry(connection, letters, self._options, now=self._utcnow(), refusals=refusals)
                if self._is_trial:
                    await speak_now(connection)
            except BaseException:
                if not connection.is_closed():
                    await transaction.rollback()
                raise
            await (transaction.rollback() if self._is_trial else transaction.commit())
        return Carriage(carried, self._skipped, letters[-1].place if letters else None)


def _by_event(isolation: Isolation) -> dict[Event, Refusal]:
    return {isolation.event(ordinal): refusal for ordinal, refusal in isolation.refusals.items()}


def _is_deadlock(error: Exception) -> bool:
    return isinstance(error, SystemUnavailableError) and isinstance(error.__cause__, _DEADLOCKS)
