"""How much of everything: for figures to believe, or (`--quick`) to see that it all works."""

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class Sizes:
    """Events a run unless the name says otherwise. Chosen so that one takes a few seconds on two cores."""

    rounds: int = 3
    single: int = 300_000
    arrays: int = 600_000
    faststream: int = 20_000
    executemany: int = 100_000
    celery: int = 40_000
    seed: int = 40_000
    mixed_single: int = 100_000
    mixed_arrays: int = 300_000
    table_rows: tuple[int, ...] = (0, 5_000_000, 10_000_000, 25_000_000)
    table_run: int = 250_000
    backlogs: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    latency_seconds: float = 15.0
    start_up: int = 1_000
    profile: int = 50_000


FULL = Sizes()
QUICK = Sizes(
    rounds=1,
    single=12_000,
    arrays=30_000,
    faststream=1_000,
    executemany=12_000,
    celery=12_000,
    seed=1_000,
    mixed_single=12_000,
    mixed_arrays=20_000,
    table_rows=(0, 50_000),
    table_run=20_000,
    backlogs=(5_000, 20_000),
    latency_seconds=2.0,
    start_up=100,
    profile=2_000,
)
