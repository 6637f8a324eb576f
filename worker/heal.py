"""The healer: now and then, letters that were refused only for something that exists by now are replayed."""

from typing import Protocol

import structlog

from worker.rounds import Rounds

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


class Healer(Rounds):
    """Heals until it is stopped.

    Args:
        healing: does it.
        interval_seconds: between two rounds.
    """

    def __init__(self, healing: Healing, *, interval_seconds: float = INTERVAL_SECONDS) -> None:
        super().__init__(failing="letters cannot be healed now", interval_seconds=interval_seconds, waits_first=True)
        self._healing = healing

    async def round(self) -> None:
        """See `Rounds.round`."""
        healed = await self._healing.heal()
        if healed:
            log.info("letters healed: their users and organizations exist now", letters=healed)

    def abandon(self) -> None:
        """See `Rounds.abandon`."""
        self._healing.abandon()
