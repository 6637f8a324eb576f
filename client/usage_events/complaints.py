"""What the caller hears of events that do not arrive: the callback for each, the log once a second at most."""

import logging
import time
from collections.abc import Callable, Sequence

from usage_events.errors import UsageEventsError

# Hears each error once for each message, with the events' JSON.
OnError = Callable[[UsageEventsError, Sequence[bytes]], None]

LOG_EVERY_SECONDS = 1.0

_logger = logging.getLogger(__name__)


class Complaints:
    """Tells the caller and the log."""

    def __init__(self, on_error: OnError | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._on_error = on_error
        self._clock = clock
        self._log_refused_at = self._log_dropped_at = float("-inf")
        self._untold_refused = self._untold_dropped = 0

    def refused(self, error: UsageEventsError, events: Sequence[bytes], *, is_first: bool) -> None:
        """RabbitMQ has given these back; the callback hears it the first time, the log again and again."""
        if is_first:
            self._call(error, events)
            self._untold_refused += len(events)
        if self._clock() >= self._log_refused_at:
            self._log_refused_at = self._clock() + LOG_EVERY_SECONDS
            count, self._untold_refused = self._untold_refused, 0
            what = f"{_events(count)} not taken" if count else f"{_events(len(events))} still not taken"
            _logger.warning("%s, tried again later: %s", what, error)

    def given_up(self, error: UsageEventsError, events: Sequence[bytes]) -> None:
        """These can never be delivered: they are the caller's again."""
        self._call(error, events)
        _logger.error("%s given up: %s", _events(len(events)), error)

    def dropped(self, count: int) -> None:
        """The buffer was full."""
        self._untold_dropped += count
        if self._clock() >= self._log_dropped_at:
            self._log_dropped_at = self._clock() + LOG_EVERY_SECONDS
            count, self._untold_dropped = self._untold_dropped, 0
            _logger.warning("%s dropped: the buffer is full, and when_full is 'drop_oldest'", _events(count))

    def _call(self, error: UsageEventsError, events: Sequence[bytes]) -> None:
        if self._on_error is None:
            return
        try:
            self._on_error(error, events)
        except Exception:  # the caller's own code must not end the sending
            _logger.exception("on_error failed for %s", error)


def _events(count: int) -> str:
    return f"{count:,} event{'' if count == 1 else 's'}"
