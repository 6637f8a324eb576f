"""Prefetch: how many messages the broker may hand out unacknowledged. Pure.

It starts at 1 after every start and reconnect and doubles only after a whole prefetch has been acknowledged, so that
a message that kills its consumer takes few others with it towards the delivery limit. It grows to what keeps every
writer busy, and stays within a budget of bytes, since messages differ in size.
"""

import math
from dataclasses import dataclass

from worker.batch import SUSPECT_DELIVERY_COUNT

_GROWTH_MIN = 1.2  # consuming again costs a round trip: not for less


@dataclass(slots=True, frozen=True)
class PrefetchLimits:
    """What bounds the prefetch.

    Args:
        messages_max: never more than this.
        events_wanted: events that keep all writers busy, with a batch in reserve.
        body_bytes_max: bytes of bodies that may be held.
    """

    messages_max: int
    events_wanted: int
    body_bytes_max: int


class Prefetch:
    """Finds the prefetch from what is seen."""

    def __init__(self, limits: PrefetchLimits) -> None:
        self._limits = limits
        self.current = 1
        self._suspect = False
        self._reset_cycle()

    def restart(self) -> None:
        """A start or a reconnect: nothing is known of what comes."""
        self.current = 1
        self._reset_cycle()

    def seen(self, messages: int, events: int, body_bytes: int, delivery_count_max: int) -> None:
        """Messages have been decoded."""
        self._messages += messages
        self._events += events
        self._body_bytes += body_bytes
        if delivery_count_max >= SUSPECT_DELIVERY_COUNT:
            self._suspect = True

    def acknowledged(self, messages: int) -> None:
        """Messages have been acknowledged."""
        self._acknowledged += messages

    @property
    def is_suspicious(self) -> bool:
        """Is something held that was returned often, while more than one message may be?"""
        return self._suspect and self.current > 1

    def proposal(self, *, full: bool) -> int | None:
        """Another prefetch than the current one, where one is called for; it begins a new cycle.

        It grows only while it is what limits: `full` says that everything that it allows was held.
        """
        if self.is_suspicious:
            return self._change(1)
        if not full or not self._messages or self._acknowledged < self.current:
            return None
        target = self._target()
        if self._suspect:
            self._reset_cycle()
            return None
        if target < self.current / 2:
            return self._change(target)
        wanted = min(2 * self.current, target)
        if wanted >= self.current * _GROWTH_MIN:
            return self._change(wanted)
        self._reset_cycle()
        return None

    def _target(self) -> int:
        by_events = math.ceil(self._limits.events_wanted * self._messages / max(1, self._events))
        by_bytes = self._limits.body_bytes_max * self._messages // max(1, self._body_bytes)
        return max(1, min(self._limits.messages_max, by_events, by_bytes))

    def _change(self, prefetch: int) -> int:
        self.current = prefetch
        self._reset_cycle()
        return prefetch

    def _reset_cycle(self) -> None:
        self._messages = 0
        self._events = 0
        self._body_bytes = 0
        self._acknowledged = 0
        self._suspect = False
