"""The healer: now and then, letters that were refused only for something that exists by now are replayed."""

import asyncio
from typing import Any, Protocol

import structlog

from worker.errors import SystemUnavailableError

INTERVAL_SECONDS = 60.0

log = structlog.get_logger(__name__)


class Healing(Protocol):
    """What does it, defined where it is used."""

    async def heal(self) -> int:
        """One round; how many letters were recovered. Does nothing while another worker heals.

        Raises:
            SystemUnavailableError: the database cannot do it now.
        """

    def abandon(self) -> None:
        """Leave the database at once: what has not committed is rolled back."""


class Healer:
    """Heals until it is stopped. An outage of the database costs rounds, never the worker.

    Args:
        healing: does it.
        interval_seconds: between two rounds.
    """

    def __init__(self, healing: Healing, *, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._healing = healing
        self._interval_seconds = interval_seconds
        self._stop = asyncio.Event()
        self._is_failing = False

    def stop(self) -> None:
        """Stop at once, in the middle of a round too; `run` returns."""
        self._stop.set()

    async def run(self) -> None:
        """Heal every interval until `stop`."""
        stopped: asyncio.Task[Any] = asyncio.create_task(self._stop.wait())
        try:
            while not stopped.done():
                await asyncio.wait({stopped}, timeout=self._interval_seconds)
                if not stopped.done():
                    await self._heal_until(stopped)
        finally:
            stopped.cancel()

    async def _heal_until(self, stopped: asyncio.Task[Any]) -> None:
        healing: asyncio.Task[Any] = asyncio.create_task(self._heal())
        try:
            await asyncio.wait({healing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not healing.done():
                self._healing.abandon()
                healing.cancel()
        await asyncio.wait({healing})
        if not healing.cancelled():
            healing.result()

    async def _heal(self) -> None:
        try:
            healed = await self._healing.heal()
        except SystemUnavailableError as error:
            if not self._is_failing and not self._stop.is_set():
                self._is_failing = True
                log.warning("letters cannot be healed now", why=str(error))
            return
        self._is_failing = False
        if healed:
            log.info("letters healed: their users and organizations exist now", letters=healed)
