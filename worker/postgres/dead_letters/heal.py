"""Healing: letters whose only fault was that a user or an organization came late are stored once both are there."""

from worker.postgres.dead_letters.carrier import Carrier, Lot
from worker.postgres.dead_letters.carry import CarryOptions
from worker.postgres.dead_letters.table import Filter, Place
from worker.postgres.session import translated
from worker.postgres.writer_session import WriterSession

LETTERS_MAX = 1000  # a transaction
TRANSACTIONS_MAX = 5  # a round: a bounded share of the database goes to old letters

_HEALABLE = """l.reason IN ('unknown_user', 'unknown_organization')
AND EXISTS (SELECT FROM users u WHERE u.id = l.user_id)
AND EXISTS (SELECT FROM organizations o WHERE o.id = l.organization_id)"""
_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('usage-worker heal ' || current_schema(), 0))"


class PostgresHealing:
    """Heals over a connection of its own, which lasts for a round.

    Args:
        dsn: where Postgres is.
        schema: the schema that holds the tables.
        options: how letters are judged, and the worker's name.
    """

    def __init__(self, dsn: str, schema: str, options: CarryOptions) -> None:
        self._session = WriterSession(dsn, schema, name=f"usage-worker {options.who} healing")
        self._options = options
        self._after: Place | None = None  # the next round goes on there: what stays open starves nobody

    async def heal(self) -> int:
        """See `Healing.heal`."""
        try:
            with translated():
                connection = await self._session.connection()
                is_ours = await connection.fetchval(_LOCK)
            return await self._heal() if is_ours else 0
        finally:
            await self._session.close()  # and with it goes the lock

    def abandon(self) -> None:
        """See `Healing.abandon`."""
        self._session.drop()

    async def _heal(self) -> int:
        carrier = Carrier(self._session, self._options)
        healed = 0
        for _ in range(TRANSACTIONS_MAX):
            carriage = await carrier.carry_next(Lot(Filter(), LETTERS_MAX, self._after, _HEALABLE))
            self._after = carriage.last
            healed += sum(each.refusal is None for each in carriage.carried)
            if carriage.last is None:
                break
        return healed
