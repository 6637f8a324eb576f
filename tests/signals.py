"""Signals: tests wait for what has changed, they do not sleep."""

import asyncio
from collections.abc import Callable


class Signal:
    """Tells those who wait that something has changed."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def notify(self) -> None:
        """Something has changed."""
        self._changed.set()

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait until it is so; the test fails where that never comes."""
        async with asyncio.timeout(20):
            while not predicate():
                self._changed.clear()
                await self._changed.wait()
