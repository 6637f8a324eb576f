"""Whether and how much is consumed: generations, and channels that do not live."""

import asyncio

import pytest
import stamina
from fakes import MemoryQueue, MemorySource
from rig import Rig, running

from worker.errors import SystemUnavailableError
from worker.source import Receiver


class FailingSource(MemorySource):
    """Its first tries are made, deliver what there is, and then fail."""

    def __init__(self, queue: MemoryQueue, *, failures: int) -> None:
        super().__init__(queue)
        self.failures = failures
        self.generations: list[int] = []

    async def open(self, generation: int, prefetch: int, receiver: Receiver) -> None:
        """See `Source.open`."""
        self.generations.append(generation)
        await super().open(generation, prefetch, receiver)
        if len(self.generations) <= self.failures:
            self.cut("reset")
            raise SystemUnavailableError("reset while the answer was awaited")


async def test_each_try_is_a_generation_of_its_own() -> None:
    """A try that failed after it had delivered gives no tag that the next one could take for its own."""
    rig = Rig(age_seconds_max=0.01, source_of=lambda queue: FailingSource(queue, failures=3))
    rig.publish(5)
    with stamina.set_testing(True, attempts=10**9):  # tries follow each other at once
        async with running(rig):
            await rig.until(lambda: len(rig.source.settled) == 5)
    assert isinstance(rig.source, FailingSource)
    assert rig.source.generations == [1, 2, 3, 4]
    rig.assert_all_stored()


async def test_a_channel_that_dies_at_once_is_not_opened_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker lets us in and throws us out: there is a pause between two tries, which a stop ends."""
    monkeypatch.setattr("worker.consumption.random.uniform", lambda low, high: high * 1000 + low)
    rig = Rig()
    async with running(rig):
        await rig.until(lambda: rig.source.is_consuming)
        rig.source.cut("thrown out")
        await rig.until(lambda: not rig.source.is_open)
        for _ in range(50):
            await asyncio.sleep(0)
        assert rig.source.opens == 1
