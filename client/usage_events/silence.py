"""Notices a broker that lives and no longer confirms: seen on a queue whose leader was lost. Heartbeats do not tell."""

import asyncio
from collections.abc import Awaitable, Callable

SILENCE_SECONDS_MAX = 30
# In several checks, so that a loop that was held up, or a machine that slept, is one silent check and not a lost link.
_CHECKS = 3


class SilenceWatch:
    """Runs while answers are awaited, and calls `on_silence` after half a minute without any."""

    def __init__(self, ready: Callable[[], Awaitable[None]], on_silence: Callable[[], None]) -> None:
        """A broker that has blocked the connection is not `ready`, and may be silent."""
        self._ready = ready
        self._on_silence = on_silence
        self._awaited = 0
        self._answers = 0
        self._is_stopped = False
        self._task: asyncio.Task[None] | None = None

    def expect(self) -> None:
        """One more answer is awaited."""
        self._awaited += 1
        if self._task is None and not self._is_stopped:
            self._task = asyncio.create_task(self._watch(), name="usage_events silence")

    def hear(self) -> None:
        """One answer less is awaited."""
        self._awaited -= 1
        self._answers += 1

    def stop(self) -> None:
        """Nothing more is noticed."""
        self._is_stopped = True
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        silent = 0
        while self._awaited and silent < _CHECKS:
            answers = self._answers
            await asyncio.sleep(SILENCE_SECONDS_MAX / _CHECKS)
            silent = silent + 1 if answers == self._answers and await self._is_ready() else 0
        self._task = None
        if self._awaited:
            self._on_silence()

    async def _is_ready(self) -> bool:
        try:
            async with asyncio.timeout(0):  # an answer that has to be waited for is a no
                await self._ready()
        except TimeoutError:
            return False
        return True
