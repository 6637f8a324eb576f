"""What a signal does to the process, with pipelines that stop, or do not."""

import asyncio
import logging
import os
import signal
from typing import Any, cast

import pytest
import structlog
from signals import Signal

from worker import app
from worker.pipeline import Pipeline


class FakePipeline:
    """Runs until it is stopped, or on and on.

    Args:
        obeys: ends when it is told to.
        yields: ends when it is cancelled.
    """

    def __init__(self, *, obeys: bool = True, yields: bool = True) -> None:
        self.is_running = asyncio.Event()
        self._changed = Signal()
        self.stops = 0
        self._obeys = obeys
        self._yields = yields
        self._end = asyncio.Event()

    async def run(self) -> None:
        """See `Pipeline.run`."""
        self.is_running.set()
        try:
            await self._end.wait()
        except asyncio.CancelledError:
            if self._yields:
                raise
            await self._end.wait()  # as one that waits for a server's goodbye

    def stop(self) -> None:
        """See `Pipeline.stop`."""
        self.stops += 1
        self._changed.notify()
        if self._obeys:
            self._end.set()

    async def until_told(self, times: int) -> None:
        """Wait until it has been told to stop so often."""
        await self._changed.until(lambda: self.stops >= times)


async def status_after(pipeline: FakePipeline, *numbers: signal.Signals, seconds_max: float = 60.0) -> int:
    """The exit status of a process that runs this pipeline and gets these signals."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    stopping = asyncio.ensure_future(app._until_stopped(cast("list[Pipeline]", [cast("Any", pipeline)]), seconds_max))
    await pipeline.is_running.wait()
    for sent, number in enumerate(numbers, 1):
        os.kill(os.getpid(), number)
        await pipeline.until_told(sent)
    try:
        async with asyncio.timeout(20):
            return await stopping
    finally:
        structlog.reset_defaults()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_cleanly(number: signal.Signals) -> None:
    """The pipeline is stopped, and the status is 0 when it has ended by itself."""
    assert await status_after(FakePipeline(), number) == app.EXIT_CLEAN


async def test_past_the_deadline_it_is_cancelled() -> None:
    """One that does not end in time is cancelled, and the status says that things went back."""
    assert await status_after(FakePipeline(obeys=False), signal.SIGTERM, seconds_max=0.01) == app.EXIT_GAVE_BACK


async def test_a_second_signal_ends_the_waiting() -> None:
    """Told twice, it does not wait for the deadline, which is a minute away."""
    assert await status_after(FakePipeline(obeys=False), signal.SIGTERM, signal.SIGINT) == app.EXIT_GAVE_BACK


async def test_it_leaves_also_where_a_server_says_no_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not end when it is cancelled either is left behind: whoever stops us would kill us soon."""
    monkeypatch.setattr(app, "LEAVE_SECONDS_MAX", 0.01)
    pipeline = FakePipeline(obeys=False, yields=False)
    assert await status_after(pipeline, signal.SIGTERM, seconds_max=0.01) == app.EXIT_GAVE_BACK
    pipeline._end.set()
