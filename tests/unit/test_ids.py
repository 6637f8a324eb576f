"""Identities: UUIDv7 as RFC 9562 lays it out and in order, UUIDv5 for those who have names of their own."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from uuid import RFC_4122, UUID

import pytest
from usage_events import ids
from usage_events.cloudevents import event_id
from usage_events.ids import _Uuid7Source, event_id_for, uuid7

NOW_MS = 1_772_000_000_123


def test_layout() -> None:
    """Version and variant stand where RFC 9562 puts them, and the first 48 bits are the time in milliseconds."""
    made = _Uuid7Source().next(NOW_MS)
    assert (made.version, made.variant, made.int >> 80) == (7, RFC_4122, NOW_MS)


def test_takes_the_time_of_day() -> None:
    """The public function reads the clock: its time lies between two readings."""
    before_ms = time.time_ns() // 1_000_000
    made_ms = uuid7().int >> 80
    assert before_ms <= made_ms <= time.time_ns() // 1_000_000


@pytest.mark.parametrize("steps_ms", [(0, 0, 0), (0, 1, 2), (0, -1, -5_000), (0, 1, 0, 1)])
def test_order_whatever_the_clock_does(steps_ms: tuple[int, ...]) -> None:
    """Each id is greater than the one before, also while the clock stands still or goes back."""
    source = _Uuid7Source()
    made = [source.next(NOW_MS + step_ms) for step_ms in steps_ms]
    assert all(earlier < later for earlier, later in pairwise(made))


def test_order_past_a_full_counter() -> None:
    """Where the counter of a millisecond is used up, the next millisecond is borrowed."""
    source = _Uuid7Source()
    source.next(NOW_MS)
    source._counter = (1 << 42) - 2
    last, borrowed = source.next(NOW_MS), source.next(NOW_MS)
    assert last < borrowed
    assert borrowed.int >> 80 == NOW_MS + 1


def test_counter_starts_low() -> None:
    """The counter's top bit begins as 0, so a millisecond has room for 2**41 ids at least."""
    assert all(_Uuid7Source().next(NOW_MS).int >> 75 & 1 == 0 for _ in range(64))


def test_unique_and_ordered_in_threads() -> None:
    """Threads share one order: no id is made twice, and each thread's own ids ascend."""
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda _: [uuid7() for _ in range(2_000)], range(4)))
    assert len({made for row in rows for made in row}) == 8_000
    assert all(earlier < later for row in rows for earlier, later in pairwise(row))


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="a system without fork")
def test_fork_renews_the_source() -> None:
    """A child process can make ids although another thread of its parent was just making one, and makes others."""
    read_end, write_end = os.pipe()
    with ids._source._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(10)  # rather a dead child than one that waits for ever
            os.write(write_end, uuid7().bytes)
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        made = UUID(bytes=pipe.read())
    assert os.waitpid(child, 0)[1] == 0
    assert made.version == 7
    assert made != uuid7()


def test_id_for_a_name() -> None:
    """The id of a source's own name is fixed for ever: this value was computed from SHA-1 alone, by the definition."""
    assert event_id_for("/billing", "invoice-7") == UUID("a8edc58c-cc95-5438-8e0b-f0b408be6f26")


def test_same_rule_as_for_cloudevents() -> None:
    """A producer gets the id that the worker gives to a CloudEvent of the same source and id."""
    assert str(event_id_for("/billing", "invoice-7")) == event_id("invoice-7", "/billing")


def test_source_and_name_do_not_run_together() -> None:
    """The line feed keeps two different pairs apart."""
    assert event_id_for("ab", "c") != event_id_for("a", "bc")
