"""How a replay treads: small sets first, then at the asked rate, slower while the database is slow. Pure.

Time is passed in, in seconds.
"""

from collections.abc import Sequence

RAMP = (1, 10, 100, 1000)
JUDGED_LETTERS_MIN = 10  # a share of fewer says nothing
SLOW_FACTOR = 1.5  # so many times the best time is still the noise of a healthy database
PAUSE_SECONDS_MAX = 5.0
PAUSE_FACTOR_MAX = 4.0
_CREDIT_SECONDS_MAX = 1.0


class Ramp:
    """How many letters the next transaction carries: a wrong guess costs little."""

    def __init__(self, sizes: Sequence[int] = RAMP) -> None:
        self._sizes = sizes
        self._steps = 0

    def next_size(self) -> int:
        """The size of the next set."""
        size = self._sizes[min(self._steps, len(self._sizes) - 1)]
        self._steps += 1
        return size


class Yielding:
    """Leaves the database to the workers while it is slow.

    Judged by the replay's own transactions of full sets: the workers' are slow when these are. Smaller ones differ too
    much in what they cost beside the letters.

    Args:
        full_letters: the size of a full set.
    """

    def __init__(self, full_letters: int = RAMP[-1]) -> None:
        self._full_letters = full_letters
        self._best_seconds: float | None = None

    def pause_seconds(self, letters: int, took_seconds: float) -> float:
        """How long to leave the database alone after a transaction of so many letters."""
        if letters < self._full_letters:
            return 0.0
        best = self._best_seconds = min(took_seconds, self._best_seconds or took_seconds)
        factor = took_seconds / best if best else 1.0
        if factor < SLOW_FACTOR:
            return 0.0
        return min(took_seconds * min(factor - 1, PAUSE_FACTOR_MAX), PAUSE_SECONDS_MAX)


class Rate:
    """Spreads sets of letters over time. No burst of more than a second's letters follows a slow set."""

    def __init__(self, letters_per_second: float) -> None:
        self._letters_per_second = letters_per_second
        self._due: float | None = None

    def pause_seconds(self, letters: int, now: float) -> float:
        """How long to wait, now that so many letters were carried, before the next set."""
        due = now if self._due is None else max(self._due, now - _CREDIT_SECONDS_MAX)
        self._due = due + letters / self._letters_per_second
        return max(0.0, self._due - now)

    @property
    def size_max(self) -> int:
        """The most letters of one set: a second's, or a slow rate would come in large lumps."""
        return max(1, int(self._letters_per_second))


def is_failing(carried: int, stayed: int, percent_max: float) -> bool:
    """Whether too many of the letters that were carried stayed open."""
    return carried >= JUDGED_LETTERS_MIN and stayed * 100 > percent_max * carried
