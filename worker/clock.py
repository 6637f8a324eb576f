"""The clock: the database's, as it was read last, carried on by this machine's.

Events are judged by it and letters dated. A machine's own clock may be hours wrong (a restored snapshot, a time service
that jumps), and would refuse good events; and two workers would judge one event differently.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from math import inf
from time import monotonic, time
from typing import NamedTuple

import structlog

from worker.findings import CLOCKS_APART_SECONDS_MAX

log = structlog.get_logger(__name__)


class Reading(NamedTuple):
    """What the database's clock showed, in seconds since 1970, at some moment after `asked_at` (monotonic seconds)."""

    seconds: float
    asked_at: float


class Clock:
    """Until the first reading it is this machine's own.

    Args:
        machine: this machine's, in seconds since 1970.
    """

    def __init__(self, machine: Callable[[], float] = time) -> None:
        self._machine = machine
        self._ahead_seconds = 0.0
        self._told_seconds = 0.0
        self._set_at = -inf

    @property
    def ahead_seconds(self) -> float:
        """How far the database's clock is ahead of this machine's; negative where it is behind."""
        return self._ahead_seconds

    def now(self) -> float:
        """Seconds since 1970."""
        return self._machine() + self._ahead_seconds

    def utcnow(self) -> datetime:
        """The same as a time."""
        return datetime.fromtimestamp(self.now(), UTC)

    def was_set_since(self, moment: float) -> bool:
        """Whether it goes otherwise than it did at a moment, in monotonic seconds."""
        return self._set_at >= moment

    def set(self, reading: Reading) -> None:
        """Go by a reading. By now the database's clock shows that, and up to as much more as has passed since."""
        answered_at = monotonic()
        least = reading.seconds - self._machine()
        most = least + (answered_at - reading.asked_at)
        ahead_seconds = min(max(self._ahead_seconds, least), most)
        if ahead_seconds != self._ahead_seconds:
            self._ahead_seconds, self._set_at = ahead_seconds, answered_at
        self._tell()

    def _tell(self) -> None:
        """Once for each change that an operator should know of."""
        ahead_seconds = self._ahead_seconds
        if abs(ahead_seconds) <= CLOCKS_APART_SECONDS_MAX:
            if self._told_seconds:
                self._told_seconds = 0.0
                log.info("this machine's clock and the database's agree again")
        elif abs(ahead_seconds - self._told_seconds) > CLOCKS_APART_SECONDS_MAX:
            self._told_seconds = ahead_seconds
            log.warning(
                "this machine's clock and the database's differ: events are judged by the database's; set the one"
                " that is wrong",
                database_ahead_seconds=round(ahead_seconds, 1),
            )
