"""Identities of events: made once by the producer, the same whenever the event is sent again."""

import os
import time
from threading import Lock
from uuid import NAMESPACE_URL, UUID, uuid5

_NAMESPACE = uuid5(NAMESPACE_URL, "usage-events")
_COUNTER_BITS = 42
_SEED_BITS = 41  # the counter's top bit begins as 0: room for 2**41 ids in a millisecond
_TAIL_BITS = 32
_VERSION_7 = 7 << 76
_VARIANT_RFC = 0b10 << 62


class _Uuid7Source:
    """A clock in milliseconds and a counter that is seeded anew in each of them (RFC 9562, 6.2, method 1)."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._last_ms = -1
        self._counter = 0

    def next(self, now_ms: int) -> UUID:
        """The id after the last one, also where the clock stands still or goes back."""
        seed = int.from_bytes(os.urandom(10), "big")
        tail, seed = seed & ((1 << _TAIL_BITS) - 1), seed >> _TAIL_BITS
        with self._lock:
            if now_ms > self._last_ms:
                self._last_ms, self._counter = now_ms, seed & ((1 << _SEED_BITS) - 1)
            elif self._counter + 1 < 1 << _COUNTER_BITS:
                self._counter += 1
            else:
                self._last_ms, self._counter = self._last_ms + 1, seed & ((1 << _SEED_BITS) - 1)
            at_ms, counter = self._last_ms, self._counter
        low_bits = _COUNTER_BITS - 12  # what of the counter does not fit beside the version
        high, low = counter >> low_bits, counter & ((1 << low_bits) - 1)
        return UUID(int=at_ms << 80 | _VERSION_7 | high << 64 | _VARIANT_RFC | low << _TAIL_BITS | tail)


_source = _Uuid7Source()


def _renew_source() -> None:
    global _source  # noqa: PLW0603 - a child process must not inherit a lock that another thread held
    _source = _Uuid7Source()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_renew_source)


def uuid7() -> UUID:
    """A new UUIDv7, greater than every one that this process has made before.

    It begins with its time, so rows with such ids lie close together in an index.
    """
    return _source.next(time.time_ns() // 1_000_000)


def event_id_for(source: str, event_id: str) -> UUID:
    """The id of the event that `source` calls `event_id`; the same for ever, in every language.

    It is the UUIDv5 that the worker gives to a CloudEvent whose own id is no UUID, so that a producer which knows its
    events by other names can send one again without counting it twice.
    """
    return uuid5(_NAMESPACE, f"{source}\n{event_id}")
