"""The pulse: while nothing is written, it asks now and then whether the database is still there.

A worker with an empty queue would else be ready until the first event finds out.
"""

from collections.abc import Callable

from worker.errors import SystemUnavailableError
from worker.outage import Outage
from worker.rounds import Rounds
from worker.store import Store

INTERVAL_SECONDS = 15.0


class Pulse(Rounds):
    """Tells a pipeline's outage what it finds, until it is stopped.

    Args:
        store: what is asked; its connection is closed after each answer.
        outage: told, unless somebody has had an answer just now.
        held: how many deliveries the pipeline holds; while there are any, its writers know better.
        interval_seconds: between two questions.
    """

    def __init__(
        self,
        store: Store,
        outage: Outage,
        *,
        held: Callable[[], int],
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        super().__init__(
            failing="the database cannot be asked whether it is there",
            interval_seconds=interval_seconds,
            waits_first=True,
        )
        self._store = store
        self._outage = outage
        self._held = held
        self._interval_seconds = interval_seconds

    async def round(self) -> None:
        """See `Rounds.round`."""
        if self._held() or self._outage.silent_seconds() < self._interval_seconds / 2:
            return
        try:
            await self._store.ping()
        except SystemUnavailableError as error:
            if not self._held():
                self._outage.failed(error)
        else:
            if not self._held():
                self._outage.answered()
            await self._store.close()

    def abandon(self) -> None:
        """See `Rounds.abandon`: a `ping` that is cancelled has dropped its connection."""
