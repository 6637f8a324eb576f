"""Rounds: what a worker does beside the events, again and again, until it is stopped.

An outage of the database costs rounds, never the worker, and is told once.
"""

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress
from time import monotonic
from typing import Any

import structlog

from worker.errors import UsageWorkerError

log = structlog.get_logger(__name__)


class Rounds(ABC):
    """One thing done in rounds.

    Args:
        failing: what an operator reads while it cannot be done.
        interval_seconds: between two rounds.
        waits_first: an interval passes before the first round.
        share_max: of its time, spent in rounds: where they are slow, they become fewer.
    """

    def __init__(
        self, *, failing: str, interval_seconds: float, waits_first: bool = False, share_max: float = 1.0
    ) -> None:
        self._failing = failing
        self._interval_seconds = interval_seconds
        self._waits_first = waits_first
        self._share_max = share_max
        self._stop = asyncio.Event()
        self._is_failing = False

    @abstractmethod
    async def round(self) -> None:
        """Do it once.

        Raises:
            UsageWorkerError: it cannot be done now.
        """

    @abstractmethod
    def abandon(self) -> None:
        """Leave the database at once: what has not committed is rolled back."""

    def stop(self) -> None:
        """Stop at once, in the middle of a round too; `run` returns."""
        self._stop.set()

    async def run(self) -> None:
        """Go on until `stop`."""
        stopped: asyncio.Task[Any] = asyncio.create_task(self._stop.wait())
        going: asyncio.Task[Any] = asyncio.create_task(self._go())
        try:
            await asyncio.wait({going, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            going.cancel()
            self.abandon()
        await asyncio.wait({going})
        if not going.cancelled():
            going.result()  # it ends by itself only with an error that is nobody's outage

    async def _go(self) -> None:
        """A library may lose the cancellation that a stop sends, so this looks for the stop itself."""
        if self._waits_first:
            await self._pause(self._interval_seconds)
        while not self._stop.is_set():
            begun_at = monotonic()
            await self._try_round()
            await self._pause(max(self._interval_seconds, (monotonic() - begun_at) * (1 / self._share_max - 1)))

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _try_round(self) -> None:
        try:
            await self.round()
        except UsageWorkerError as error:
            if not self._is_failing and not self._stop.is_set():
                self._is_failing = True
                log.warning(self._failing, why=str(error))
        else:
            self._is_failing = False
