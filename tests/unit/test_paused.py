"""While too much is held nothing is read from the broker, its answers neither: nobody may wait for one."""

import asyncio
import logging
from collections.abc import Iterator, Sequence

import pytest
import stamina
import structlog
from fakes import Message
from makers import body_of
from rig import Rig, running
from usage_events.ids import uuid7

from worker.batch import SUSPECT_DELIVERY_COUNT
from worker.prefetch import Prefetch
from worker.settle import Ack

HELD_BYTES_MAX = 1000  # five messages are more


@pytest.fixture(autouse=True)
def _wide_prefetch_without_backoff(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """64 messages at once; tries follow each other at once."""
    monkeypatch.setattr(Prefetch, "restart", lambda self: setattr(self, "current", 64))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with stamina.set_testing(True, attempts=10**9):
        yield
    structlog.reset_defaults()


@pytest.mark.parametrize("writers", [1, 2])
async def test_a_stop_settles_what_is_held(writers: int) -> None:
    """The answer to its cancel comes once something is settled: that has to be acknowledged before."""
    rig = Rig(held_bytes_max=HELD_BYTES_MAX, writers=writers, events_max=2)
    gate = asyncio.Event()
    rig.database.gates.append(gate)
    rig.publish(12)
    async with running(rig):
        await rig.until(lambda: rig.source.is_paused)
        rig.pipeline.stop()
        await rig.until(lambda: rig.source.in_stop_consuming)
        gate.set()
        await rig.stop()
    assert rig.pipeline.held() == 0
    assert rig.source.settled, "nothing was held"
    rig.assert_books()


async def test_nothing_is_acknowledged_while_a_stop_waits_for_its_answer() -> None:
    """What the broker would send for it would cross the cancel, and be counted as one delivery more."""
    rig = Rig(events_max=2)
    gate = asyncio.Event()
    rig.database.gates.append(gate)
    rig.source.before_stop_consuming.clear()
    rig.publish(2)
    async with running(rig):
        await rig.until(lambda: rig.database.waiting == 1)
        rig.pipeline.stop()
        await rig.until(lambda: rig.source.in_stop_consuming)
        gate.set()
        await rig.until(lambda: bool(rig.database.batches))
        for _ in range(50):
            await asyncio.sleep(0)
        assert rig.source.acks == []
        rig.source.before_stop_consuming.set()
        await rig.stop()
    rig.assert_all_stored()


async def test_the_prefetch_does_not_change() -> None:
    """A message that was returned often asks for a prefetch of 1: it is told once something can be read again."""
    rig = Rig(held_bytes_max=HELD_BYTES_MAX, events_max=1)
    asked_while_paused: list[bool] = []
    set_prefetch = rig.source.set_prefetch

    async def watched(prefetch: int, acks: Sequence[Ack]) -> None:
        asked_while_paused.append(rig.source.is_paused)
        await set_prefetch(prefetch, acks)

    rig.source.set_prefetch = watched  # type: ignore[method-assign]
    identifier = uuid7()
    rig.published.add(identifier)
    rig.queue.ready.append(Message(body_of(id=str(identifier)), delivery_count=SUSPECT_DELIVERY_COUNT))
    rig.publish(11)
    async with running(rig):
        await rig.until(lambda: rig.source.is_paused)
        await rig.until(lambda: len(rig.source.settled) == 12)
    assert asked_while_paused
    assert not any(asked_while_paused)
    rig.assert_all_stored()


async def test_a_long_outage_gives_back() -> None:
    """The end of the channel gives back what is held, and what stands unread behind it."""
    rig = Rig(held_bytes_max=HELD_BYTES_MAX, hold_seconds_max=0.02, age_seconds_max=0.01)
    async with running(rig):
        await rig.until(lambda: rig.source.is_consuming)
        rig.database.is_down = True
        rig.publish(8)
        await rig.until(lambda: not rig.source.is_open)
        assert len(rig.queue.ready) == 8
        rig.database.is_down = False
        await rig.until(lambda: len(rig.source.settled) == 8)
    assert rig.source.opens == 2
    assert rig.metrics.give_backs._value.get() == 1
    assert rig.metrics.reconnects.labels("rabbitmq")._value.get() == 0, "its own doing is no lost connection"
    rig.assert_all_stored()
