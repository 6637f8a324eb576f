"""The batcher: when a batch closes, and that nothing is lost, split or reordered on the way."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import event_of
from usage_events.contract import Reason, Refusal

from worker.batch import Batch, Batcher, Entry, Trigger
from worker.decode import Decoded, Reject
from worker.delivery import Delivery

EVENTS_MAX = 10
BYTES_MAX = 100
AGE_SECONDS_MAX = 5.0


class Arrival(NamedTuple):
    """A message, and how long after the one before it came."""

    events: int
    rejects: int
    body_bytes: int
    delivery_count: int
    after_seconds: float


ARRIVALS = st.lists(
    st.builds(
        Arrival,
        events=st.integers(0, 14),
        rejects=st.integers(0, 3),
        body_bytes=st.integers(1, 130),
        delivery_count=st.sampled_from([0, 0, 0, 1, 2, 7]),
        after_seconds=st.sampled_from([0.0, 0.5, 6.0]),
    ),
    max_size=40,
)


def batcher() -> Batcher:
    """A batcher with small limits."""
    return Batcher(events_max=EVENTS_MAX, body_bytes_max=BYTES_MAX, age_seconds_max=AGE_SECONDS_MAX)


def entry(
    tag: int = 1, events: int = 1, rejects: int = 0, body_bytes: int = 1, delivery_count: int = 0, generation: int = 1
) -> Entry:
    """A message that holds so many events and rejects."""
    delivery = Delivery(tag, generation, bytes(body_bytes), delivery_count=delivery_count)
    reject = Reject(0, b"", Refusal(Reason.INVALID, []))
    return Entry(delivery, Decoded([event_of()] * events, range(events), [reject] * rejects))


def tags(batches: Sequence[Batch]) -> list[list[int]]:
    """The tags of each batch."""
    return [[held.delivery.tag for held in batch.entries] for batch in batches]


def run(arrivals: list[Arrival]) -> list[Batch]:
    """What becomes of arrivals when the batcher is polled before each; the rest is flushed."""
    batches: list[Batch] = []
    now, tested = 0.0, batcher()
    for tag, arrival in enumerate(arrivals, 1):
        now += arrival.after_seconds
        batches += tested.poll(now)
        batches += tested.add(
            entry(tag, arrival.events, arrival.rejects, arrival.body_bytes, arrival.delivery_count), now
        )
    return [*batches, *tested.flush(Trigger.STOP)]


@given(ARRIVALS)
def test_no_message_is_lost_split_or_reordered(arrivals: list[Arrival]) -> None:
    """Every message comes out once, whole, in the order in which it came."""
    assert [tag for batch in tags(run(arrivals)) for tag in batch] == list(range(1, len(arrivals) + 1))


@given(ARRIVALS)
def test_no_batch_past_its_limits_unless_one_message_alone(arrivals: list[Arrival]) -> None:
    """Events (rejects included) and bytes stay within the limits; only a larger message goes past them, alone."""
    for batch in run(arrivals):
        assert batch.events == sum(len(held.decoded.events) + len(held.decoded.rejects) for held in batch.entries)
        assert batch.body_bytes == sum(len(held.delivery.body) for held in batch.entries)
        assert len(batch.entries) == 1 or (batch.events <= EVENTS_MAX and batch.body_bytes <= BYTES_MAX)


@given(ARRIVALS)
def test_a_suspect_is_alone(arrivals: list[Arrival]) -> None:
    """A message that was returned twice shares its batch with nobody."""
    for batch in run(arrivals):
        assert len(batch.entries) == 1 or all(held.delivery.delivery_count < 2 for held in batch.entries)


@given(ARRIVALS)
def test_batches_are_as_full_as_they_may_be(arrivals: list[Arrival]) -> None:
    """Where neither age nor a suspect closes a batch, the next message would not have fitted."""
    calm = [arrival._replace(after_seconds=0.0, delivery_count=0) for arrival in arrivals]
    for batch, following in pairwise(run(calm)):
        first = following.entries[0]
        events = batch.events + len(first.decoded.events) + len(first.decoded.rejects)
        body_bytes = batch.body_bytes + len(first.delivery.body)
        is_full = batch.events >= EVENTS_MAX or batch.body_bytes >= BYTES_MAX
        assert is_full or events > EVENTS_MAX or body_bytes > BYTES_MAX


@given(ARRIVALS)
def test_the_deadline_starts_with_the_first_message(arrivals: list[Arrival]) -> None:
    """At every moment the open batch is due `AGE_SECONDS_MAX` after its own first message."""
    tested, now, first_at = batcher(), 0.0, 0.0
    for tag, arrival in enumerate(arrivals, 1):
        now += arrival.after_seconds
        was_empty = tested.due_at() is None
        closed = tested.add(
            entry(tag, arrival.events, arrival.rejects, arrival.body_bytes, arrival.delivery_count), now
        )
        if was_empty or closed:
            first_at = now
        due_at = tested.due_at()
        assert due_at is None or due_at == first_at + AGE_SECONDS_MAX


def test_a_pause_before_does_not_shorten_the_wait() -> None:
    """After a flush and a long pause a batch still waits its full time: the timer is not the last flush's."""
    tested = batcher()
    tested.add(entry(1), 0.0)
    assert tags(tested.poll(5.0)) == [[1]]
    tested.add(entry(2), 100.0)
    assert not tested.poll(104.9)
    tested.add(entry(3), 104.9)
    assert tags(tested.poll(105.0)) == [[2, 3]]


@pytest.mark.parametrize(
    ("messages", "expected", "triggers"),
    [
        pytest.param([entry(1, 9), entry(2)], [[1, 2]], [Trigger.EVENTS], id="events, to the limit"),
        pytest.param([entry(1, 9), entry(2, 2)], [[1]], [Trigger.EVENTS], id="events, one past it"),
        pytest.param([entry(1, 4, rejects=6)], [[1]], [Trigger.EVENTS], id="rejects count"),
        pytest.param([entry(1, 25)], [[1]], [Trigger.EVENTS], id="larger than a batch"),
        pytest.param([entry(1), entry(2, 25)], [[1], [2]], [Trigger.EVENTS] * 2, id="larger, behind another"),
        pytest.param([entry(1, body_bytes=99), entry(2)], [[1, 2]], [Trigger.BYTES], id="bytes, to the limit"),
        pytest.param([entry(1, body_bytes=99), entry(2, body_bytes=2)], [[1]], [Trigger.BYTES], id="bytes, past it"),
        pytest.param(
            [entry(1), entry(2, delivery_count=2)], [[1], [2]], [Trigger.ALONE] * 2, id="returned twice: alone"
        ),
        pytest.param([entry(1), entry(2, delivery_count=1)], [], [], id="returned once: as any other"),
    ],
)
def test_what_closes_a_batch(messages: list[Entry], expected: list[list[int]], triggers: list[Trigger]) -> None:
    """Each limit at its value and one past it, and what is recorded as the cause."""
    tested = batcher()
    closed = [batch for message in messages for batch in tested.add(message, 0.0)]
    assert tags(closed) == expected
    assert [batch.trigger for batch in closed] == triggers


@pytest.mark.parametrize("trigger", list(Trigger))
def test_flush_takes_whatever_is_open(trigger: Trigger) -> None:
    """A flush gives the open batch with its cause, and then there is none."""
    tested = batcher()
    tested.add(entry(1), 0.0)
    (batch,) = tested.flush(trigger)
    assert (tags([batch]), batch.trigger) == ([[1]], trigger)
    assert (tested.flush(trigger), tested.due_at(), tested.poll(1e9)) == ((), None, ())


def test_age_is_recorded() -> None:
    """A batch that is due is closed for its age, at the instant at which it is due and not before."""
    tested = batcher()
    tested.add(entry(1), 1.0)
    assert not tested.poll(5.999)
    (batch,) = tested.poll(6.0)
    assert (batch.trigger, batch.opened_at) == (Trigger.AGE, 1.0)


def test_dead_channels_are_left_out() -> None:
    """What belongs to another generation is dropped, counts included; a batch without such is itself."""
    batch = Batch(7.0, trigger=Trigger.AGE)
    for tag, generation in ((1, 1), (2, 2), (3, 1)):
        batch.add(entry(tag, events=tag, rejects=1, body_bytes=tag, generation=generation))
    kept = batch.only_generation(1)
    assert tags([kept]) == [[1, 3]]
    assert (kept.events, kept.body_bytes, kept.opened_at, kept.trigger) == (6, 4, 7.0, Trigger.AGE)
    assert kept.only_generation(1) is kept
    assert batch.only_generation(9).entries == []


def test_events_and_their_origins_go_together() -> None:
    """The n-th origin names the delivery and the place in it of the n-th accepted event."""
    batch = Batch(0.0)
    first, second = entry(1, events=2), entry(2, events=2)
    batch.add(first)
    batch.add(Entry(second.delivery, second.decoded._replace(places=[0, 4])))
    assert [(origin.delivery.tag, origin.place) for origin in batch.origins()] == [(1, 0), (1, 1), (2, 0), (2, 4)]
    assert len(batch.accepted()) == 4
