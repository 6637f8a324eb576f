"""The times that are accepted: a window around now, by the database's clock.

What would be refused for its time is judged again by a fresh reading before it becomes a letter: between two readings a
machine's clock may jump, or the machine may have stood still.
"""

from collections.abc import Callable

from usage_events.contract import Reason
from usage_events.rules import Window

from worker.batch import Batch, Entry
from worker.clock import Clock
from worker.decode import Decoded
from worker.delivery import Delivery
from worker.store import Store

Decoder = Callable[[Delivery, Window], Decoded]

_OF_TIME = (Reason.IN_FUTURE, Reason.TOO_OLD)


class Times:
    """Judges times.

    Args:
        clock: what they are judged by.
        decoder: makes events and rejects of a delivery.
        max_age_seconds: as in the contract.
        max_ahead_seconds: the same.
    """

    def __init__(self, clock: Clock, decoder: Decoder, *, max_age_seconds: int, max_ahead_seconds: int) -> None:
        self._clock = clock
        self._decoder = decoder
        self._max_age_seconds = max_age_seconds
        self._max_ahead_seconds = max_ahead_seconds

    def window(self) -> Window:
        """What is accepted now."""
        return Window.around(
            int(self._clock.now() * 1e6),
            max_age_seconds=self._max_age_seconds,
            max_ahead_seconds=self._max_ahead_seconds,
        )

    async def confirm(self, batch: Batch, store: Store) -> None:
        """Before a batch is written: judge again what it holds that was refused for its time, if the clock was wrong.

        Raises:
            SystemUnavailableError: the database does not say what time it is.
        """
        entries = enumerate(batch.entries)
        refused = [place for place, entry in entries if entry.decoded.rejects and _is_refused_for_its_time(entry)]
        if not refused:
            return
        self._clock.set(await store.read_clock())
        if self._clock.was_set_since(batch.opened_at):
            window = self.window()
            for place in refused:
                delivery = batch.entries[place].delivery
                batch.entries[place] = Entry(delivery, self._decoder(delivery, window))


def _is_refused_for_its_time(entry: Entry) -> bool:
    return any(reject.refusal.reason in _OF_TIME for reject in entry.decoded.rejects)
