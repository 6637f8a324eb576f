"""The watch: now and then it counts the open dead letters, for the gauges that operators are alerted by."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from typing import Protocol

from worker.clock import Clock, Reading
from worker.metrics import Metrics
from worker.rounds import Rounds

INTERVAL_SECONDS = 15.0
COUNTING_SHARE_MAX = 0.01  # of its time: a table so large that counting is slow is counted more seldom


@dataclass(slots=True, frozen=True)
class OpenLetters:
    """The open letters of the table: how many by reason, each reason named, and the age of the oldest (0: none).

    `table_bytes` is what all letters take on the server's disk, indexes included. `partition_months_ahead` is for how
    many months after this one the table of usage has a partition, NaN where it is not divided. `clock` is what the
    database's shows.
    """

    by_reason: Mapping[str, int]
    oldest_seconds: float
    table_bytes: int = 0
    partition_months_ahead: float = nan
    clock: Reading | None = None


class Census(Protocol):
    """What counts, defined where it is used."""

    async def count(self) -> OpenLetters:
        """Count once.

        Raises:
            UsageWorkerError: it cannot be done now.
        """

    def abandon(self) -> None:
        """Leave the database at once."""


class Watch(Rounds):
    """Sets the gauges, and the clock, until it is stopped. While the database is away they keep what was true last.

    Args:
        census: counts.
        metrics: holds the gauges.
        clock: what events are judged by.
        interval_seconds: between two counts.
    """

    def __init__(
        self, census: Census, metrics: Metrics, clock: Clock, *, interval_seconds: float = INTERVAL_SECONDS
    ) -> None:
        super().__init__(
            failing="open dead letters cannot be counted now: their gauges stand still",
            interval_seconds=interval_seconds,
            share_max=COUNTING_SHARE_MAX,
        )
        self._census = census
        self._metrics = metrics
        self._clock = clock

    async def round(self) -> None:
        """See `Rounds.round`."""
        letters = await self._census.count()
        if letters.clock is not None:
            self._clock.set(letters.clock)
        for reason, count in letters.by_reason.items():
            self._metrics.dead_letters_open.labels(reason).set(count)
        self._metrics.dead_letters_oldest_open_seconds.set(letters.oldest_seconds)
        self._metrics.dead_letters_bytes.set(letters.table_bytes)
        self._metrics.partition_months_ahead.set(letters.partition_months_ahead)

    def abandon(self) -> None:
        """See `Rounds.abandon`."""
        self._census.abandon()
