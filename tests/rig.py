"""A pipeline between a broker and a database in memory, for tests that break everything around it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

from fakes import MemoryDatabase, MemoryQueue, MemorySource, MemoryStore
from makers import body_of, decoded
from usage_events.ids import uuid7

from worker.clock import Clock
from worker.metrics import Metrics
from worker.pipeline import Pipeline, PipelineOptions

LONG_SECONDS = 1000.0


class Rig:
    """A pipeline with everything around it."""

    def __init__(
        self,
        *,
        writers: int = 1,
        events_max: int = 4,
        age_seconds_max: float = LONG_SECONDS,
        hold_seconds_max: float = LONG_SECONDS,
        held_bytes_max: int = 10**6,
        queue: MemoryQueue | None = None,
        database: MemoryDatabase | None = None,
        source_of: Callable[[MemoryQueue], MemorySource] = MemorySource,
    ) -> None:
        self.queue = queue or MemoryQueue()
        self.source = source_of(self.queue)
        self.database = database or MemoryDatabase()
        self.stores = [MemoryStore(self.database) for _ in range(writers)]
        self.probe = MemoryStore(self.database)
        self.metrics = Metrics()
        self.published: set[UUID] = set()
        self.pipeline = Pipeline(
            source=self.source,
            stores=self.stores,
            probe=self.probe,
            decoder=decoded,
            clock=Clock(),
            options=PipelineOptions(
                batch_events_max=events_max,
                batch_bytes_max=held_bytes_max,
                batch_age_seconds_max=age_seconds_max,
                held_bytes_max=held_bytes_max,
                prefetch_max=64,
                max_age_seconds=3600,
                max_ahead_seconds=300,
                hold_seconds_max=hold_seconds_max,
            ),
            metrics=self.metrics,
        )
        self.running: asyncio.Task[None] | None = None

    def publish(self, count: int) -> None:
        """So many messages of one event each."""
        made = [uuid7() for _ in range(count)]
        self.published.update(made)
        self.queue.publish(*(body_of(id=str(one)) for one in made))

    def stored(self) -> set[UUID]:
        """The ids in the table."""
        return {UUID(bytes=one) for one in self.database.rows}

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait for what broker or database will see."""

        async def watch(signal_of: MemoryDatabase | MemorySource) -> None:
            await signal_of.signal.until(predicate)

        watching = [asyncio.ensure_future(watch(self.source)), asyncio.ensure_future(watch(self.database))]
        done, pending = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        done.pop().result()

    async def until_received(self, count: int) -> None:
        """Wait until so many deliveries have been made and decoded."""
        await self.until(lambda: self.source.received >= count)
        await self.until(lambda: not self.pipeline._inbox)

    async def stop(self) -> None:
        """Stop it; it ends by itself."""
        self.pipeline.stop()
        async with asyncio.timeout(20):
            assert self.running is not None
            await self.running

    def assert_books(self) -> None:
        """Nothing is acknowledged that is not committed; nothing published is neither stored nor in the queue."""
        committed = {entry.delivery.body for batch in self.database.batches for entry in batch.entries}
        assert {message.body for message in self.source.settled} <= committed
        ready = {message.body for message in self.queue.ready}
        settled = [message.body for message in self.source.settled]
        assert len(set(settled)) == len(settled), "settled twice"
        assert not ready & set(settled), "settled, and in the queue"
        assert len(ready) + len(settled) == len(self.published), "neither settled nor in the queue"

    def assert_all_stored(self) -> None:
        """Everything published is stored once and acknowledged."""
        assert self.stored() == self.published
        assert len(self.source.settled) == len(self.published)
        assert not self.queue.ready
        assert self.pipeline.held() == 0
        self.assert_books()


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[Rig]:
    """The pipeline runs; at the end it is stopped, or cancelled where it cannot stop."""
    rig.running = asyncio.ensure_future(rig.pipeline.run())
    try:
        yield rig
        if not rig.running.done():
            await rig.stop()
    finally:
        rig.running.cancel()
        await asyncio.wait({rig.running})
