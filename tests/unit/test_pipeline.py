"""The pipeline between a broker and a database in memory, with failures at every place where it waits."""

import asyncio
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import stamina
import stamina.instrumentation
import structlog
from cancelling import CancelAt
from fakes import MemoryDatabase, MemoryQueue
from makers import array_of, body_of
from rig import Rig, running
from usage_events.contract import Reason
from usage_events.ids import uuid7

from worker.batch import Trigger
from worker.consumption import State
from worker.prefetch import Prefetch


@pytest.fixture(autouse=True)
def _no_backoff() -> Iterator[None]:
    """Tries follow each other at once; how long they wait in between is the library's matter."""
    stamina.instrumentation.set_on_retry_hooks([])
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with stamina.set_testing(True, attempts=10**9):
        yield
    structlog.reset_defaults()


@pytest.fixture
def wide_prefetch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a slow start that is over: 64 messages at once."""
    monkeypatch.setattr(Prefetch, "restart", lambda self: setattr(self, "current", 64))


def triggers(rig: Rig) -> list[Trigger | None]:
    """What closed each batch."""
    return [batch.trigger for batch in rig.database.batches]


# The way of a message.


async def test_everything_is_stored_and_acknowledged() -> None:
    """From a slow start on, every message becomes a row and is acknowledged; the metrics count the same."""
    rig = Rig(writers=2, age_seconds_max=0.01)
    rig.publish(100)
    async with running(rig):
        await rig.until(lambda: len(rig.source.settled) == 100)
    rig.assert_all_stored()
    assert all(store.is_closed for store in (*rig.stores, rig.probe))
    assert rig.metrics.events.labels("stored")._value.get() == 100
    assert rig.metrics.held_events._value.get() == 0


@pytest.mark.usefixtures("wide_prefetch")
async def test_acknowledged_only_after_the_commit() -> None:
    """While a transaction is under way nothing of it is acknowledged; when it has committed, all of it is at once."""
    rig = Rig()
    gate = asyncio.Event()
    rig.database.gates.append(gate)
    rig.publish(4)
    async with running(rig):
        await rig.until(lambda: rig.database.waiting == 1)
        assert (rig.source.acks, rig.pipeline.held()) == ([], 4)
        gate.set()
        await rig.until(lambda: len(rig.source.settled) == 4)
        assert [ack.multiple for ack in rig.source.acks] == [True]
    rig.assert_all_stored()


@pytest.mark.usefixtures("wide_prefetch")
async def test_bad_events_are_letters_beside_their_neighbours() -> None:
    """A message of good, bad and known events: each gets its outcome, and the message is acknowledged whole."""
    rig = Rig(events_max=3)
    known = body_of()
    rig.queue.publish(
        array_of([known, body_of(input_tokens=-1), body_of(user_id=str(uuid7()))]), known, b"{", body_of()
    )
    async with running(rig):
        await rig.until(lambda: len(rig.source.settled) == 4)
    assert len(rig.database.rows) == 2
    assert {letter.reason for letter in rig.database.letters.values()} == {
        Reason.INVALID,
        Reason.UNKNOWN_USER,
        Reason.BAD_JSON,
    }
    counted = {outcome: rig.metrics.events.labels(outcome)._value.get() for outcome in ("stored", "duplicate", "dead")}
    assert counted == {"stored": 2, "duplicate": 1, "dead": 3}


@pytest.mark.usefixtures("wide_prefetch")
async def test_the_deadline_starts_with_the_first_event_after_a_pause() -> None:
    """After a pause that is longer than the batch's age, the next batch waits its full age all the same."""
    age_seconds = 0.05
    rig = Rig(age_seconds_max=age_seconds)
    loop = asyncio.get_running_loop()
    async with running(rig):
        rig.publish(1)
        await rig.until(lambda: len(rig.source.settled) == 1)
        await asyncio.sleep(2 * age_seconds)
        published_at = loop.time()
        rig.publish(1)
        await rig.until_received(2)
        rig.publish(1)
        await rig.until(lambda: len(rig.source.settled) == 3)
        assert loop.time() >= published_at + age_seconds
    assert triggers(rig) == [Trigger.AGE, Trigger.AGE]
    rig.assert_all_stored()


async def test_all_that_prefetch_allows_is_a_batch() -> None:
    """Where the broker may hand out no more, waiting for more would be in vain: the batch goes at once."""
    rig = Rig(events_max=100)
    rig.publish(1 + 2 + 4)
    async with running(rig):
        await rig.until(lambda: len(rig.source.settled) == 7)
    assert set(triggers(rig)) == {Trigger.PREFETCH}
    assert max(len(batch.entries) for batch in rig.database.batches) == 4
    rig.assert_all_stored()


async def test_a_suspect_shrinks_the_prefetch() -> None:
    """A message that comes back for the second time is written alone, and the prefetch falls to 1 at once."""
    rig = Rig(age_seconds_max=0.01)
    async with running(rig):
        rig.publish(31)
        await rig.until(lambda: len(rig.source.settled) == 31)
        await rig.until(lambda: rig.source.prefetch > 1)
        rig.publish(1)
        await rig.until(lambda: len(rig.source.settled) == 32)
    rig.assert_all_stored()


@pytest.mark.usefixtures("wide_prefetch")
async def test_bytes_held_are_bounded() -> None:
    """Past the budget the source is paused, and read again when half of it is settled."""
    rig = Rig(held_bytes_max=1000)
    gate = asyncio.Event()
    rig.database.gates.append(gate)
    rig.publish(8)
    async with running(rig):
        await rig.until(lambda: rig.source.is_paused)
        assert rig.source.received < 8
        gate.set()
        await rig.until(lambda: len(rig.source.settled) == 8)
        assert not rig.source.is_paused
    rig.assert_all_stored()


# Outages of the database.


@pytest.mark.usefixtures("wide_prefetch")
async def test_an_outage_holds() -> None:
    """While the database is away nothing is refused, returned or acknowledged; then it goes on where it stood."""
    rig = Rig()
    async with running(rig):
        await rig.until(lambda: rig.source.is_consuming)
        rig.database.is_down = True
        rig.publish(4)
        await rig.until(lambda: rig.database.failures >= 5)
        assert (rig.source.returns, rig.source.acks, rig.pipeline.held()) == (0, [], 4)
        assert (rig.pipeline.state, rig.pipeline.is_consuming) == (State.HOLDING, False)
        rig.database.is_down = False
        await rig.until(lambda: len(rig.source.settled) == 4)
        assert rig.pipeline.is_consuming
    assert (rig.source.opens, rig.database.letters) == (1, {})
    rig.assert_all_stored()


async def test_nothing_is_consumed_before_the_database_answers() -> None:
    """A worker that starts during an outage takes no delivery, so its restarts spend none."""
    rig = Rig()
    rig.database.is_down = True
    rig.publish(1)
    async with running(rig):
        await rig.until(lambda: rig.database.failures >= 5)
        assert (rig.source.opens, rig.pipeline.state) == (0, State.WAITING)
        rig.database.is_down = False
        await rig.until(lambda: len(rig.source.settled) == 1)
    rig.assert_all_stored()


@pytest.mark.usefixtures("wide_prefetch")
async def test_a_long_outage_gives_back_once() -> None:
    """Past the limit everything held goes back, once; nothing is consumed again until the database answers."""
    rig = Rig(hold_seconds_max=0.02)
    async with running(rig):
        await rig.until(lambda: rig.source.is_consuming)
        rig.database.is_down = True
        rig.publish(6)
        await rig.until(lambda: rig.source.returns == 1)
        failures = rig.database.failures
        await rig.until(lambda: rig.database.failures >= failures + 5)
        assert (rig.source.returns, rig.source.opens, rig.source.is_open) == (1, 1, False)
        assert [message.delivery_count for message in rig.queue.ready] == [1] * 6
        rig.database.is_down = False
        await rig.until(lambda: len(rig.source.settled) == 6)
    assert rig.source.opens == 2
    assert rig.metrics.give_backs._value.get() == 1
    assert rig.metrics.reconnects.labels("rabbitmq")._value.get() == 0, "its own doing is no lost connection"
    rig.assert_all_stored()


@pytest.mark.usefixtures("wide_prefetch")
async def test_a_commit_while_it_is_given_back_is_not_acknowledged() -> None:
    """A transaction that ends just when its deliveries have gone back acknowledges nothing: they come again."""
    rig = Rig(hold_seconds_max=0.02)
    gate = asyncio.Event()
    async with running(rig):
        await rig.until(lambda: rig.source.is_consuming)
        rig.database.gates.append(gate)
        rig.publish(4)
        await rig.until(lambda: rig.database.waiting == 1)
        rig.pipeline._outage.failed(_down())
        give_back = rig.source.give_back

        async def and_commit(last_tag: int) -> None:
            await give_back(last_tag)
            gate.set()
            for _ in range(20):
                await asyncio.sleep(0)

        rig.source.give_back = and_commit  # type: ignore[method-assign]
        await rig.until(lambda: len(rig.source.settled) == 4)
        rig.source.give_back = give_back  # type: ignore[method-assign]
    rig.assert_all_stored()
    assert rig.metrics.events.labels("duplicate")._value.get() == 4


# Losing the channel.


@pytest.mark.usefixtures("wide_prefetch")
async def test_a_lost_channel_takes_its_tags_with_it() -> None:
    """Lost in the middle of a write: no acknowledgement of an old tag, and no stale entry reaches the store again."""
    rig = Rig()
    gate = asyncio.Event()
    rig.database.gates.append(gate)
    rig.publish(11)
    async with running(rig):
        await rig.until(lambda: rig.database.waiting == 1)
        await rig.until_received(11)
        rig.source.cut()
        await rig.until(lambda: rig.source.opens == 2)
        gate.set()
        await rig.until_received(11 + 11)
        await rig.stop()
        stale = [
            batch for batch in rig.database.seen[1:] if {entry.delivery.generation for entry in batch.entries} != {2}
        ]
        assert stale == []
    rig.assert_all_stored()
    assert rig.metrics.reconnects.labels("rabbitmq")._value.get() == 1
    assert rig.metrics.give_backs._value.get() == 0


@pytest.mark.usefixtures("wide_prefetch")
async def test_a_lost_channel_while_acknowledging() -> None:
    """Acknowledgements that are lost with their channel cost a duplicate, nothing else."""
    rig = Rig()
    acknowledge = rig.source.acknowledge

    async def cut_first(acks: Any) -> None:
        rig.source.acknowledge = acknowledge  # type: ignore[method-assign]
        rig.source.cut()
        await acknowledge(acks)

    rig.source.acknowledge = cut_first  # type: ignore[method-assign]
    rig.publish(4)
    async with running(rig):
        await rig.until(lambda: len(rig.source.settled) == 4)
    rig.assert_all_stored()
    assert rig.metrics.events.labels("duplicate")._value.get() == 4


async def test_a_deleted_queue_is_noticed() -> None:
    """A consumer that the broker cancels is opened again."""
    rig = Rig()
    async with running(rig):
        await rig.until(lambda: rig.source.is_consuming)
        rig.source.delete_queue()
        await rig.until(lambda: rig.source.opens == 2)
        rig.publish(1)
        await rig.until(lambda: len(rig.source.settled) == 1)
    rig.assert_all_stored()


async def test_a_broker_that_is_down_is_waited_for() -> None:
    """The broker may be away at the start: it is tried until it is there."""
    rig = Rig()
    rig.queue.is_down = True
    async with running(rig):
        await rig.until(lambda: rig.source.failed_opens >= 3)
        assert (rig.source.opens, rig.pipeline.state) == (0, State.CONNECTING)
        rig.queue.is_down = False
        rig.publish(1)
        await rig.until(lambda: len(rig.source.settled) == 1)
    rig.assert_all_stored()


# Two writers.


@pytest.mark.usefixtures("wide_prefetch")
async def test_two_writers_out_of_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch behind one that is stuck is acknowledged one by one; the stuck one by one frame when it commits."""
    monkeypatch.setattr("worker.settle.PATIENCE_SECONDS", 0.01)
    rig = Rig(writers=2)
    first, second = asyncio.Event(), asyncio.Event()
    rig.database.gates.extend([first, second])
    rig.publish(8)
    async with running(rig):
        await rig.until(lambda: rig.database.waiting == 2)
        second.set()
        await rig.until(lambda: len(rig.source.acks) == 4)
        assert [(ack.tag, ack.multiple) for ack in rig.source.acks] == [(tag, False) for tag in (5, 6, 7, 8)]
        first.set()
        await rig.until(lambda: len(rig.source.settled) == 8)
        assert rig.source.acks[4:] == [(4, True)]
    rig.assert_all_stored()


# Stopping.


@pytest.mark.usefixtures("wide_prefetch")
async def test_stop_flushes_a_half_full_batch() -> None:
    """What is held at a stop is written and acknowledged, however young and small its batch is."""
    rig = Rig()
    async with running(rig):
        rig.publish(3)
        await rig.until_received(3)
        assert rig.database.batches == []
        await rig.stop()
        assert not rig.source.is_consuming
    assert triggers(rig) == [Trigger.STOP]
    assert rig.source.returns == 0
    rig.assert_all_stored()


@pytest.mark.usefixtures("wide_prefetch")
async def test_stop_takes_no_more() -> None:
    """After a stop nothing more is taken from the queue."""
    rig = Rig(events_max=100)
    async with running(rig):
        rig.publish(64)
        await rig.until_received(64)
        rig.publish(100)
        await rig.stop()
    assert len(rig.stored()) == len(rig.source.settled)
    assert len(rig.queue.ready) == 164 - len(rig.source.settled)
    rig.assert_books()


async def test_stop_while_the_prefetch_changes() -> None:
    """A stop while it consumes again with another prefetch still ends the consuming, and all that is held is stored."""
    rig = Rig(age_seconds_max=0.01)
    first, second = asyncio.Event(), asyncio.Event()
    first.set()
    rig.database.gates.extend([first, second])
    rig.source.before_set_prefetch.clear()
    rig.publish(2)
    async with running(rig):
        await rig.until(lambda: rig.source.in_set_prefetch)
        rig.pipeline.stop()
        rig.publish(20)
        for _ in range(10):  # enough for the stop to come as far as it can
            await asyncio.sleep(0)
        rig.source.before_set_prefetch.set()
        await rig.until(lambda: rig.source.received == 3)  # what the new prefetch allows
        second.set()
        await rig.stop()
    assert rig.source.received == 3, "consumed on after the stop"
    assert [message.delivery_count for message in rig.queue.ready] == [0] * 19
    rig.assert_books()


async def test_stop_waits_until_the_last_acknowledgement_is_sent() -> None:
    """A commit while the consumer is being cancelled: its acknowledgement leaves before the connection does."""
    rig = Rig(age_seconds_max=0.01)
    commit = asyncio.Event()
    rig.database.gates.append(commit)
    rig.source.before_stop_consuming.clear()
    rig.publish(1)
    async with running(rig):
        await rig.until(lambda: rig.database.waiting == 1)
        rig.pipeline.stop()
        await rig.until(lambda: rig.source.in_stop_consuming)
        commit.set()
        await rig.until(lambda: len(rig.stored()) == 1)
        for _ in range(10):  # enough for the acknowledgement to come as far as it can
            await asyncio.sleep(0)
        rig.source.before_stop_consuming.set()
        await rig.stop()
    assert len(rig.source.settled) == 1
    assert not rig.queue.ready, "it was given back after its commit"
    rig.assert_books()


@pytest.mark.parametrize("is_database_down", [True, False])
async def test_stop_before_anything_is_open(*, is_database_down: bool) -> None:
    """A worker that still waits for the database or the broker stops at once."""
    rig = Rig()
    rig.database.is_down = is_database_down
    rig.queue.is_down = True
    async with running(rig):
        await rig.until(lambda: rig.source.failed_opens + rig.database.failures >= 3)
        await rig.stop()
        assert rig.pipeline.state is State.STOPPING
    assert rig.source.opens == 0


@pytest.mark.usefixtures("wide_prefetch")
async def test_a_delivery_of_a_dead_channel_does_not_keep_a_stop_waiting() -> None:
    """What still comes out of a channel that is lost is not held: it will be delivered again."""
    rig = Rig()
    async with running(rig):
        await rig.until(lambda: rig.source.is_consuming)
        rig.queue.is_down = True
        rig.source.cut()
        await rig.until(lambda: rig.source.failed_opens >= 3)
        rig.publish(1)
        rig.source.is_consuming = True  # bytes that were on their way
        rig.source._pump()
        assert rig.pipeline.held() == 0
        rig.source.cut()
        await rig.stop()
    rig.assert_books()


@pytest.mark.usefixtures("wide_prefetch")
async def test_cancelled_it_gives_back() -> None:
    """Past its deadline the worker is cancelled: what is held goes back to the queue, nothing is acknowledged."""
    rig = Rig()
    rig.database.gates.append(asyncio.Event())
    async with running(rig):
        rig.publish(6)
        await rig.until(lambda: rig.database.waiting == 1)
        await rig.until_received(6)
        assert rig.running is not None
        rig.running.cancel()
        await asyncio.wait({rig.running})
        assert rig.running.cancelled()
    assert (rig.source.returns, rig.source.acks) == (1, [])
    assert len(rig.queue.ready) == 6
    assert all(store.is_closed for store in (*rig.stores, rig.probe))
    rig.assert_books()


METHODS = ["_write_batches", "_assemble", "supervise"]


async def run_cancelling(method: str, at: int, queue: MemoryQueue, database: MemoryDatabase) -> tuple[Rig, int]:
    """Run a pipeline that is cancelled at the n-th wait of one of its tasks; how many waits there were."""
    rig = Rig(writers=2, age_seconds_max=0.001, queue=queue, database=database)
    cancelling = CancelAt(at, lambda: rig.running is None or rig.running.cancel())
    owner = rig.pipeline if hasattr(rig.pipeline, method) else rig.pipeline._consumption
    inner = getattr(owner, method)
    setattr(owner, method, lambda *arguments: cancelling.run(inner(*arguments)))
    rig.publish(12)
    rig.running = asyncio.ensure_future(rig.pipeline.run())
    finished = asyncio.ensure_future(rig.until(lambda: len(rig.source.settled) == 12))
    await asyncio.wait({rig.running, finished}, return_when=asyncio.FIRST_COMPLETED)
    if not rig.running.done():
        rig.pipeline.stop()
    finished.cancel()
    async with asyncio.timeout(20):
        await asyncio.wait({rig.running, finished})
    return rig, cancelling.waits


@pytest.mark.parametrize("method", METHODS)
async def test_a_cancellation_at_every_wait_loses_nothing(method: str) -> None:
    """Cancelled at each wait in turn: only what has committed is acknowledged, the rest is in the queue again.

    A second pipeline then finishes the work, and each event is stored once.
    """
    cancelled = 0
    for at in itertools.count(1):
        queue, database = MemoryQueue(), MemoryDatabase()
        rig, waits = await run_cancelling(method, at, queue, database)
        rig.assert_books()
        if waits < at:
            break
        cancelled += 1
        second = Rig(queue=queue, database=database, age_seconds_max=0.001)
        second.published = rig.published
        async with running(second):
            await second.until(lambda: not queue.ready and not second.source.unacknowledged)  # noqa: B023 - of this turn
        assert second.stored() == rig.published
    assert cancelled >= 3


def _down() -> Any:
    from worker.errors import SystemUnavailableError

    return SystemUnavailableError("down")
