"""How long to wait before trying again: exponential, with full jitter."""

import random
from collections.abc import Iterator

FIRST_SECONDS_MAX = 0.2
SECONDS_MAX = 10.0


def delays() -> Iterator[float]:
    """Seconds to wait after the first failure, the second, and so on without end.

    Each is drawn from all of its range, so that clients who lost one broker together do not come back together.
    """
    ceiling = FIRST_SECONDS_MAX
    while True:
        yield random.uniform(0, ceiling)  # noqa: S311 - jitter, no secret
        ceiling = min(2 * ceiling, SECONDS_MAX)
