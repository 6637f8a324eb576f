"""Samples of letters, carried and rolled back: what of each group would pass now."""

from collections.abc import Sequence
from typing import NamedTuple

from worker.postgres.dead_letters.carrier import Carrier, Lot
from worker.postgres.dead_letters.carry import CarryOptions
from worker.postgres.dead_letters.summary import Group
from worker.postgres.dead_letters.table import Filter
from worker.postgres.writer_session import WriterSession
from worker.settings import Settings


class Passing(NamedTuple):
    """How many of a group's samples would be stored now, and how many were tried."""

    passed: int
    tried: int


class Sampling:
    """Tries samples on a session of its own.

    Args:
        settings: where Postgres is, and how events are judged.
    """

    def __init__(self, settings: Settings) -> None:
        dsn, schema = settings.postgres_dsn.get_secret_value(), settings.postgres_schema
        self._session = WriterSession(dsn, schema, name="usage-worker dead-letters summary")
        options = CarryOptions("summary", max_age_seconds=settings.max_age, max_ahead_seconds=settings.max_ahead)
        self._carrier = Carrier(self._session, options, is_trial=True)

    async def passing(self, groups: Sequence[Group]) -> list[Passing]:
        """Carry the samples and roll back: what share of each group would pass.

        A sample that somebody else works on at this moment is not counted.
        """
        ids = tuple(sample for group in groups for sample in group.samples)
        if not ids:
            return [Passing(0, 0) for _ in groups]
        carriage = await self._carrier.carry_next(Lot(Filter(status=None, ids=ids), len(ids)))
        passed = {each.letter.id: each.refusal is None for each in carriage.carried}
        return [
            Passing(sum(passed.get(sample, False) for sample in group.samples), sum(s in passed for s in group.samples))
            for group in groups
        ]

    async def close(self) -> None:
        """Give the connection back."""
        await self._session.close()
