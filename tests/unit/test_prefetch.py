"""The prefetch: a slow start, so that a poison message takes few with it, and what bounds its growth."""

from hypothesis import given
from hypothesis import strategies as st

from worker.prefetch import Prefetch, PrefetchLimits

WIDE = PrefetchLimits(messages_max=65_535, events_wanted=15_000, body_bytes_max=64 * 1024 * 1024)


def cycle(prefetch: Prefetch, *, events: int = 1, body_bytes: int = 100, delivery_count: int = 0) -> int | None:
    """A whole prefetch is delivered and acknowledged; what is proposed then."""
    messages = prefetch.current
    for _ in range(messages):
        prefetch.seen(messages=1, events=events, body_bytes=body_bytes, delivery_count_max=delivery_count)
    prefetch.acknowledged(messages)
    return prefetch.proposal(full=True)


def grown(limits: PrefetchLimits, **messages: int) -> Prefetch:
    """A prefetch after many cycles of equal messages."""
    prefetch = Prefetch(limits)
    for _ in range(40):
        cycle(prefetch, **messages)
    return prefetch


def test_starts_at_one() -> None:
    """One message, and nothing is proposed before anything has been acknowledged."""
    prefetch = Prefetch(WIDE)
    assert (prefetch.current, prefetch.proposal(full=True)) == (1, None)


def test_doubles_after_a_whole_prefetch() -> None:
    """Growth needs as many acknowledgements as the prefetch is large: one fewer is not enough."""
    prefetch = Prefetch(WIDE)
    for expected in (2, 4, 8, 16):
        messages = prefetch.current
        for _ in range(messages):
            prefetch.seen(messages=1, events=1, body_bytes=1, delivery_count_max=0)
        prefetch.acknowledged(messages - 1)
        assert prefetch.proposal(full=True) is None
        prefetch.acknowledged(1)
        assert prefetch.proposal(full=True) == expected == prefetch.current


def test_acknowledgements_of_an_earlier_cycle_do_not_count_twice() -> None:
    """A change begins a new cycle: what was acknowledged before it is spent."""
    prefetch = Prefetch(WIDE)
    assert cycle(prefetch) == 2
    prefetch.seen(messages=1, events=1, body_bytes=1, delivery_count_max=0)
    assert prefetch.proposal(full=True) is None


def test_a_reconnect_starts_again() -> None:
    """After a reconnect nothing is known of what comes: 1, with empty counts."""
    prefetch = grown(WIDE)
    prefetch.seen(messages=1, events=1, body_bytes=1, delivery_count_max=9)
    prefetch.restart()
    assert (prefetch.current, prefetch.proposal(full=True), prefetch.is_suspicious) == (1, None, False)


def test_a_suspect_shrinks_it_at_once() -> None:
    """A message that was returned twice makes it 1 before anything of this cycle is acknowledged."""
    prefetch = grown(WIDE)
    suspicions = []
    for delivery_count in (1, 2):
        prefetch.seen(messages=1, events=1, body_bytes=1, delivery_count_max=delivery_count)
        suspicions.append(prefetch.is_suspicious)
    assert suspicions == [False, True]
    assert (prefetch.proposal(full=True), prefetch.is_suspicious) == (1, False)


def test_stays_at_one_until_a_cycle_has_no_suspect() -> None:
    """While suspects come it stays; the first cycle without one lets it grow again."""
    prefetch = grown(WIDE)
    prefetch.seen(messages=1, events=1, body_bytes=1, delivery_count_max=2)
    assert prefetch.proposal(full=True) == 1
    assert [cycle(prefetch, delivery_count=3) for _ in range(3)] == [None, None, None]
    assert cycle(prefetch) == 2


@given(
    messages_max=st.integers(1, 65_535),
    events_wanted=st.integers(1, 100_000),
    body_bytes_max=st.integers(1, 10**9),
    events=st.integers(1, 1000),
    body_bytes=st.integers(1, 2 * 1024 * 1024),
)
def test_never_past_a_bound(
    messages_max: int, events_wanted: int, body_bytes_max: int, events: int, body_bytes: int
) -> None:
    """Messages, events wanted and bytes bound every proposal; at least one message is always allowed."""
    prefetch = Prefetch(PrefetchLimits(messages_max, events_wanted, body_bytes_max))
    for _ in range(17):
        before = prefetch.current
        proposal = cycle(prefetch, events=events, body_bytes=body_bytes)
        if proposal is None:
            continue
        assert 1 <= proposal <= min(2 * before, messages_max)
        assert proposal == 1 or (proposal - 1) * events < events_wanted
        assert proposal == 1 or proposal * body_bytes <= body_bytes_max


def test_grows_to_what_keeps_the_writers_busy() -> None:
    """Single events need as many messages as events are wanted; arrays of 100 a hundredth of them."""
    assert grown(WIDE).current >= 15_000 / 1.2
    assert 150 / 1.2 <= grown(WIDE, events=100).current <= 150


def test_messages_without_events_are_bounded_all_the_same() -> None:
    """Empty messages divide by nothing and stay below the cap."""
    assert grown(PrefetchLimits(100, 1000, 10**6), events=0).current <= 100


def test_larger_messages_shrink_it() -> None:
    """When messages grow to a hundred events each, the prefetch falls to what they need."""
    prefetch = grown(WIDE)
    assert cycle(prefetch, events=100) == 150


def test_not_for_a_little() -> None:
    """Consuming again costs a round trip: a gain below a fifth is left, and the cycle begins anew."""
    prefetch = grown(PrefetchLimits(messages_max=9, events_wanted=10**6, body_bytes_max=10**9))
    assert prefetch.current == 8
    assert cycle(prefetch) is None
