"""A stop ends the pipeline, also where a library loses the cancellation that it sends; one that nobody sent is told."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress

import pytest
import stamina
import structlog
from fakes import MemoryDatabase, MemoryQueue, MemorySource, MemoryStore
from makers import body_of, decoded
from rig import Rig, running

from worker.clock import Clock
from worker.errors import SystemUnavailableError
from worker.metrics import Metrics
from worker.outage import Outage
from worker.pipeline import Pipeline, PipelineOptions
from worker.pulse import Pulse
from worker.source import Receiver


class DeafSource(MemorySource):
    """Opens at the moment at which it is cancelled, and forgets that it was; or fails then."""

    def __init__(self, queue: MemoryQueue, *, fails: bool) -> None:
        super().__init__(queue)
        self.is_opening = asyncio.Event()
        self._fails = fails

    async def open(self, generation: int, prefetch: int, receiver: Receiver) -> None:
        """See `Source.open`."""
        self.is_opening.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if self._fails:
                raise SystemUnavailableError("the broker did not answer") from None
        await super().open(generation, prefetch, receiver)


@pytest.fixture(autouse=True)
def _quiet_and_without_backoff() -> Iterator[None]:
    """Tries follow each other at once."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with stamina.set_testing(True, attempts=10**9):
        yield
    structlog.reset_defaults()


@pytest.mark.parametrize("fails", [False, True])
async def test_a_stop_whose_cancellation_is_lost(*, fails: bool) -> None:
    """The source opens, or fails, just when it is to give up: it stops, and the message stays in the queue."""
    queue = MemoryQueue()
    queue.publish(body_of())
    database = MemoryDatabase()
    source = DeafSource(queue, fails=fails)
    pipeline = Pipeline(
        source=source,
        stores=[MemoryStore(database)],
        probe=MemoryStore(database),
        decoder=decoded,
        clock=Clock(),
        options=PipelineOptions(
            batch_events_max=4,
            batch_bytes_max=10**6,
            batch_age_seconds_max=1000,
            held_bytes_max=10**6,
            prefetch_max=64,
            max_age_seconds=3600,
            max_ahead_seconds=300,
        ),
        metrics=Metrics(),
    )
    running = asyncio.ensure_future(pipeline.run())
    await source.is_opening.wait()
    pipeline.stop()
    try:
        async with asyncio.timeout(20):
            await asyncio.shield(running)
    finally:
        running.cancel()
        await asyncio.wait({running})
    assert not source.is_open
    assert len(queue.ready) == 1
    assert database.rows == {}


class DeafStore(MemoryStore):
    """Answers at the moment at which it is cancelled, and forgets that it was."""

    def __init__(self, database: MemoryDatabase) -> None:
        super().__init__(database)
        self.is_asked = asyncio.Event()

    async def ping(self) -> None:
        """See `Store.ping`."""
        self.is_asked.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


async def test_rounds_whose_cancellation_is_lost() -> None:
    """What is done beside the events ends, too, and does not wait for its next round."""
    store = DeafStore(MemoryDatabase())
    outage = Outage(hold_seconds_max=600.0, metrics=Metrics())
    pulse = Pulse(store, outage, held=lambda: 0, interval_seconds=0.0)
    running = asyncio.ensure_future(pulse.run())
    await store.is_asked.wait()
    pulse.stop()
    async with asyncio.timeout(20):
        await running


class CancellingSource(MemorySource):
    """Its loss is a cancellation, which nobody has sent."""

    async def lost(self) -> str:
        """See `Source.lost`."""
        raise asyncio.CancelledError


async def test_a_cancellation_that_nobody_sent_ends_the_worker_instead_of_its_watch() -> None:
    """A group of tasks takes it for an end as any other: the worker would stay ready, and never connect again."""
    async with running(Rig(source_of=CancellingSource)) as rig:
        assert rig.running is not None
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.wait_for(rig.running, 30)
    assert caught.group_contains(RuntimeError, match="cancelled from within", depth=1)
