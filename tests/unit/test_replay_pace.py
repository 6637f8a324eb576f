"""How a replay treads: the ramp, the rate, and how it makes way for the workers."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.dead_letters.replay_pace import (
    JUDGED_LETTERS_MIN,
    PAUSE_SECONDS_MAX,
    RAMP,
    Ramp,
    Rate,
    Yielding,
    is_failing,
)


def test_the_first_sets_are_small() -> None:
    """One letter, ten, a hundred, then a thousand for good."""
    ramp = Ramp()
    assert [ramp.next_size() for _ in range(6)] == [1, 10, 100, 1000, 1000, 1000]


def test_a_healthy_database_costs_no_pause() -> None:
    """Times that differ as those of a healthy database do make no pause, small sets never."""
    yielding = Yielding()
    assert [yielding.pause_seconds(RAMP[-1], seconds) for seconds in (0.1, 0.12, 0.09, 0.13)] == [0.0] * 4
    assert yielding.pause_seconds(100, 30.0) == 0.0


def test_the_slower_the_database_the_longer_the_pause() -> None:
    """Pauses grow with what a set takes beside the best one, up to a limit, and end when the database is well again."""
    yielding = Yielding()
    yielding.pause_seconds(RAMP[-1], 0.1)
    pauses = [yielding.pause_seconds(RAMP[-1], seconds) for seconds in (0.2, 0.4, 0.8, 1.0, 20.0)]
    assert pauses[0] == pytest.approx(0.2)
    assert all(one < other for one, other in pairwise(pauses))
    assert pauses[-1] == PAUSE_SECONDS_MAX
    assert yielding.pause_seconds(RAMP[-1], 0.1) == 0.0


@given(
    st.integers(1, 5000),
    st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 3)), min_size=1, max_size=50),
)
def test_the_rate_is_kept(letters_per_second: int, sets: list[tuple[int, float]]) -> None:
    """However long sets take: so many letters a second, and no more than a second's worth on top."""
    rate, now, carried = Rate(letters_per_second), 0.0, 0
    for letters, took_seconds in sets:
        now += took_seconds
        carried += letters
        now += rate.pause_seconds(letters, now)
        assert carried <= letters_per_second * (now + 1) + 1e-6 * carried


def test_a_slow_rate_comes_in_small_sets() -> None:
    """A set is no larger than a second's letters, and one at least."""
    assert Rate(7).size_max == 7
    assert Rate(0.5).size_max == 1


@pytest.mark.parametrize(
    ("carried", "stayed", "percent_max", "failing"),
    [
        (JUDGED_LETTERS_MIN - 1, JUDGED_LETTERS_MIN - 1, 0, False),
        (JUDGED_LETTERS_MIN, 1, 0, True),
        (JUDGED_LETTERS_MIN, 0, 0, False),
        (100, 20, 20, False),
        (100, 21, 20, True),
        (100, 100, 100, False),
    ],
)
def test_when_too_many_fail(*, carried: int, stayed: int, percent_max: float, failing: bool) -> None:
    """More than the limit, at the limit, and too few to judge by."""
    assert is_failing(carried, stayed, percent_max) is failing
