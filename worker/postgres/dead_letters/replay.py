"""Replay: every letter that a filter chooses is carried once, in sets, at a pace that leaves room for the workers."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic
from uuid import UUID

from usage_events.contract import Reason

from worker.dead_letters.replay_pace import RAMP, Ramp, Rate, Yielding, is_failing
from worker.postgres.dead_letters.carrier import Carriage, Carrier, Lot
from worker.postgres.dead_letters.suspects import FRESH_SUSPECTS, OTHERS, SUSPECTS, Suspects
from worker.postgres.dead_letters.table import Filter, Place
from worker.postgres.dead_letters.tally import Ending, Tally


@dataclass(slots=True, frozen=True)
class ReplayLimits:
    """What bounds a run; `None` does not."""

    letters_max: int | None = None
    letters_per_second: float | None = None
    failing_percent_max: float | None = None


class Replay:
    """One run over the letters that a filter chooses.

    Args:
        carrier: carries them, or only tries.
        suspects: marks what may end this process.
        chosen: which letters.
        limits: what bounds the run.
        ramp: the sizes of the first sets, and of all that follow.

    `on_progress` hears of each set.
    """

    def __init__(
        self,
        carrier: Carrier,
        suspects: Suspects,
        chosen: Filter,
        limits: ReplayLimits,
        *,
        ramp: tuple[int, ...] = RAMP,
    ) -> None:
        self._carrier = carrier
        self._suspects = suspects
        self._chosen = chosen
        self._limits = limits
        self.on_progress: Callable[[Tally], None] = lambda _: None
        self._ramp = Ramp(ramp)
        self._rate = Rate(limits.letters_per_second) if limits.letters_per_second else None
        self._yielding = Yielding(ramp[-1])
        self._stop = asyncio.Event()
        self.tally = Tally()

    def stop(self) -> None:
        """End after the transaction that is under way."""
        self._stop.set()

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to end."""
        return self._stop.is_set()

    async def run(self) -> Tally:
        """Carry all; what became of them, which stands in `tally` also where this fails.

        Raises:
            SystemUnavailableError: the database cannot go on; what has been carried stays so.
        """
        skipped = await self._carry_all(self._chosen, OTHERS)
        # Whoever worked on these may have finished, or gone.
        for start in range(0, len(skipped), RAMP[-1]):
            ids = tuple(skipped[start : start + RAMP[-1]])
            self.tally.busy += len(await self._carry_all(replace(self._chosen, ids=ids), OTHERS))
        if self._chosen.reason in (None, Reason.DELIVERY_LIMIT):
            also = SUSPECTS if self._chosen.ids else FRESH_SUSPECTS
            self.tally.busy += len(await self._carry_all(self._chosen, also, alone=True))
            if not self._chosen.ids:
                self.tally.left_out = await self._suspects.left_out()
        return self.tally

    async def _carry_all(self, chosen: Filter, also: str, *, alone: bool = False) -> list[UUID]:
        """Carry these, oldest first; the ids of those that somebody else works on."""
        skipped: list[UUID] = []
        after: Place | None = None
        while size := self._next_size(alone=alone):
            begun_at = monotonic()
            before = self._suspects.mark if alone and not self._carrier.is_trial else None
            carriage = await self._carrier.carry_next(Lot(chosen, size, after, also, before))
            skipped += carriage.skipped
            if carriage.last is None:
                break
            after = carriage.last
            self.tally.add(carriage.carried)
            self.on_progress(self.tally)
            await self._pause(carriage, monotonic() - begun_at)
        return skipped

    def _next_size(self, *, alone: bool) -> int:
        """The letters of the next set; 0 where the run is over."""
        tally, limits = self.tally, self._limits
        left = RAMP[-1] if limits.letters_max is None else limits.letters_max - tally.carried
        if self._stop.is_set():
            tally.ending = Ending.STOPPED
        elif limits.failing_percent_max is not None and is_failing(
            tally.carried, tally.stayed, limits.failing_percent_max
        ):
            tally.ending = Ending.FAILING
        elif left <= 0:
            tally.ending = Ending.MAX
        if tally.ending is not Ending.DONE:
            return 0
        return 1 if alone else min(self._ramp.next_size(), left, *([self._rate.size_max] if self._rate else []))

    async def _pause(self, carriage: Carriage, took_seconds: float) -> None:
        letters = len(carriage.carried)
        pause_seconds = self._yielding.pause_seconds(letters, took_seconds)
        if self._rate is not None:
            pause_seconds = max(pause_seconds, self._rate.pause_seconds(letters, monotonic()))
        try:
            async with asyncio.timeout(pause_seconds):
                await self._stop.wait()
        except TimeoutError:
            pass  # nobody has stopped it
