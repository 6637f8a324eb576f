"""The pulse: a worker whose queue is empty notices that its database has gone, and that it is back."""

import asyncio

import pytest
from fakes import MemoryDatabase, MemoryStore
from harness import until
from rig import Rig, running

from worker.consumption import State
from worker.metrics import Metrics
from worker.outage import Outage
from worker.pulse import Pulse


class CountingStore(MemoryStore):
    """Counts the questions; each waits for the gate, where there is one."""

    def __init__(self, database: MemoryDatabase, gate: asyncio.Event | None = None) -> None:
        super().__init__(database)
        self.asked = 0
        self._gate = gate

    async def ping(self) -> None:
        """One question."""
        self.asked += 1
        if self._gate is not None:
            await self._gate.wait()
        await super().ping()


def outage_of(metrics: Metrics) -> Outage:
    """An outage that is none yet."""
    return Outage(hold_seconds_max=600.0, metrics=metrics)


async def test_an_idle_pipeline_is_not_ready_without_its_database() -> None:
    """Nothing comes and nothing is written: the outage shows all the same, and ends by itself."""
    rig = Rig()
    pulse = Pulse(MemoryStore(rig.database), rig.pipeline.outage, held=rig.pipeline.held, interval_seconds=0.001)
    async with running(rig):
        beating = asyncio.ensure_future(pulse.run())
        await rig.until(lambda: rig.source.is_consuming)
        await until(lambda: rig.pipeline.is_consuming, "it consumes")
        rig.database.is_down = True
        await until(lambda: rig.pipeline.state is State.HOLDING, "the outage is noticed")
        assert rig.metrics.registry.get_sample_value("usage_worker_database_up") == 0
        rig.database.is_down = False
        await until(lambda: rig.pipeline.is_consuming, "its end is noticed")
        assert rig.metrics.registry.get_sample_value("usage_worker_database_up") == 1
        pulse.stop()
        await beating


@pytest.mark.parametrize(("held", "interval_seconds"), [(1, 0.0), (0, 3600.0)], ids=["held", "heard just now"])
async def test_it_does_not_ask_where_writers_know(held: int, interval_seconds: float) -> None:
    """Neither while something is held, whose writers ask themselves, nor just after an answer."""
    store = CountingStore(MemoryDatabase())
    await Pulse(store, outage_of(Metrics()), held=lambda: held, interval_seconds=interval_seconds).round()
    assert store.asked == 0
    await Pulse(store, outage_of(Metrics()), held=lambda: 0, interval_seconds=0.0).round()
    assert store.asked == 1
    assert store.is_closed


@pytest.mark.parametrize("is_down", [True, False])
async def test_an_answer_that_comes_late_says_nothing(is_down: bool) -> None:  # noqa: FBT001 - the case
    """Deliveries that came meanwhile are written by those who find out themselves: neither an outage nor its end."""
    database, gate, held, metrics = MemoryDatabase(), asyncio.Event(), 0, Metrics()
    database.is_down = is_down
    store, outage = CountingStore(database, gate), outage_of(metrics)
    asking = asyncio.ensure_future(Pulse(store, outage, held=lambda: held, interval_seconds=0.0).round())
    await until(lambda: store.asked == 1, "it has asked")
    held = 1
    metrics.database_up.set(0.5)
    gate.set()
    await asking
    assert not outage
    assert metrics.registry.get_sample_value("usage_worker_database_up") == 0.5
