"""The watch: now and then it counts the open dead letters, for the gauges that operators are alerted by."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

import structlog

from worker.errors import UsageWorkerError
from worker.metrics import Metrics

INTERVAL_SECONDS = 15.0
COUNTING_SHARE_MAX = 0.01  # of its time: a table so large that counting is slow is counted more seldom

log = structlog.get_logger(__name__)


@dataclass(slots=True, frozen=True)
class OpenLetters:
    """The open letters of the table: how many by reason, each reason named, and the age of the oldest (0: none)."""

    by_reason: Mapping[str, int]
    oldest_seconds: float


class Census(Protocol):
    """What counts, defined where it is used."""

    async def count(self) -> OpenLetters:
        """Count once.

        Raises:
            UsageWorkerError: it cannot be done now.
        """

    def abandon(self) -> None:
        """Leave the database at once."""


class Watch:
    """Sets the gauges until it is stopped. While the database is away they keep what was true last.

    Args:
        census: counts.
        metrics: holds the gauges.
        interval_seconds: between two counts.
    """

    def __init__(self, census: Census, metrics: Metrics, *, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._census = census
        self._metrics = metrics
        self._interval_seconds = interval_seconds
        self._stop = asyncio.Event()
        self._is_failing = False

    def stop(self) -> None:
        """Stop at once, in the middle of a count too; `run` returns."""
        self._stop.set()

    async def run(self) -> None:
        """Count at once, and again every interval, until `stop`."""
        stopped: asyncio.Task[Any] = asyncio.create_task(self._stop.wait())
        counting: asyncio.Task[Any] = asyncio.create_task(self._count_for_ever())
        try:
            await asyncio.wait({counting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            counting.cancel()
            self._census.abandon()
        if not self._stop.is_set():
            counting.result()  # it ends by itself only with an error that is nobody's outage

    async def _count_for_ever(self) -> None:
        while not self._stop.is_set():
            begun_at = monotonic()
            await self._count()
            await asyncio.sleep(max(self._interval_seconds, (monotonic() - begun_at) / COUNTING_SHARE_MAX))

    async def _count(self) -> None:
        try:
            letters = await self._census.count()
        except UsageWorkerError as error:
            if not self._is_failing and not self._stop.is_set():
                self._is_failing = True
                log.warning("open dead letters cannot be counted now: their gauges stand still", why=str(error))
            return
        self._is_failing = False
        for reason, count in letters.by_reason.items():
            self._metrics.dead_letters_open.labels(reason).set(count)
        self._metrics.dead_letters_oldest_open_seconds.set(letters.oldest_seconds)
