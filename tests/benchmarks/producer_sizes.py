"""How long producers are measured: for figures to believe, or (`--quick`) to see that it all works."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProducerSizes:
    """Calls a second, calls in a burst, seconds, and events for each number of events a message (0: aio-pika alone)."""

    rate: float = 5_000.0
    burst: int = 20_000
    idle_seconds: float = 20.0
    before_seconds: float = 5.0
    outage_seconds: float = 10.0
    after_seconds: float = 15.0
    warm_up: int = 1_000
    rounds: int = 3
    published: tuple[tuple[int, int], ...] = ((0, 10_000), (1, 50_000), (10, 150_000), (100, 300_000), (1_000, 300_000))

    @property
    def seconds_with_outage(self) -> float:
        """How long calls arrive where a server is stopped meanwhile."""
        return self.before_seconds + self.outage_seconds + self.after_seconds


FULL = ProducerSizes()
QUICK = ProducerSizes(
    rate=300.0,
    burst=500,
    idle_seconds=0.5,
    before_seconds=0.5,
    outage_seconds=1.0,
    after_seconds=0.5,
    warm_up=20,
    rounds=1,
    published=((0, 200), (1, 500), (10, 1_000), (100, 2_000), (1_000, 2_000)),
)
