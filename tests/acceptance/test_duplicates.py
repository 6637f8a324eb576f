"""Nothing is stored twice, whatever comes twice; and another content under a known id is not dropped in silence."""

import random
from signal import SIGSTOP
from typing import Any

from harness import CommitGate, System, event, message


async def test_what_committed_unacknowledged_is_known_when_it_comes_again(system: System) -> None:
    """A worker dies between commit and acknowledgement; its message comes again beside fresh events."""
    first = [event() for _ in range(100)]
    worker = await system.start_worker()
    async with CommitGate(system.database) as gate:
        await system.publish(message(*first))
        await gate.until_one_waits()
        worker.send_signal(SIGSTOP)
        await gate.open()
        await system.until_stored(100)
        await worker.kill()
    await system.publish(message(*first[:50], *(event() for _ in range(50))))

    successor = await system.start_worker()
    await system.until_stored(150)
    await system.until(lambda: _duplicates(system, 150), "the duplicates are counted")
    assert await successor.metric("events_total", outcome="stored") == 50
    assert await successor.metric("redeliveries_total") >= 1  # the second may have gone to the dead one as well
    await system.settle()

    books = await system.books()
    books.check()
    assert books.letters == {}


async def _duplicates(system: System, events: int) -> bool:
    return await system.workers[-1].metric("events_total", outcome="duplicate") == events


async def test_everything_twice_and_a_kill_doubles_nothing(system: System) -> None:
    """All events are published again in another order, packed otherwise, and a worker dies among them."""
    events = [event() for _ in range(3000)]
    worker = await system.start_worker()
    await system.publish(*(message(one) for one in events))
    await system.until_stored(500)
    await worker.kill()
    random.Random(3).shuffle(events)
    await system.publish(*(message(*events[start : start + 7]) for start in range(0, 3000, 7)))
    await system.start_worker()
    await system.settle()

    books = await system.books()
    books.check()
    assert books.stored.keys() == system.ledger.confirmed
    assert books.letters == {}


async def test_overlapping_batches_in_other_orders_do_not_deadlock(system: System) -> None:
    """Two workers with two writers each store the same ids, up and down, at once: Postgres sees no deadlock."""
    for _ in range(2):
        await system.start_worker(USAGE_BATCH_MAX_EVENTS="1000")
    for _ in range(10):
        events = sorted((event() for _ in range(1000)), key=_id)
        await system.publish(*[message(*events), message(*reversed(events))] * 2)
    await system.settle()

    books = await system.books()
    books.check()
    assert len(books.stored) == 10_000
    assert books.letters == {}
    deadlocks = await system.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert deadlocks == 0, system.details()


def _id(one: dict[str, Any]) -> str:
    return str(one["id"])


async def test_two_contents_in_one_batch(system: System) -> None:
    """The first is the row, the second a letter."""
    first = event(input_tokens=1)
    await system.start_worker()
    await system.publish(message(first, event(id=first["id"], input_tokens=2)))
    await system.settle()
    await _is_one_row_and_one_conflict(system, tokens={21})


async def test_two_contents_in_two_batches(system: System) -> None:
    """What is stored stays, what comes later is a letter."""
    first = event(input_tokens=1)
    await system.start_worker()
    await system.publish(message(first))
    await system.until_stored(1)
    await system.publish(message(event(id=first["id"], input_tokens=2)))
    await system.settle()
    await _is_one_row_and_one_conflict(system, tokens={21})


async def test_two_contents_in_two_workers_at_once(system: System) -> None:
    """One transaction waits for the other's commit: one of the two is the row, the other a letter."""
    first = event(input_tokens=1)
    for _ in range(2):
        await system.start_worker()
    async with CommitGate(system.database) as gate:
        await system.publish(message(first), message(event(id=first["id"], input_tokens=2)))
        await gate.until_one_waits()
        await gate.until_one_waits_behind()
        await gate.open()
        await system.settle()
    await _is_one_row_and_one_conflict(system, tokens={21, 22})


async def test_one_content_in_two_workers_at_once(system: System) -> None:
    """The same, with the same content: one row, and no letter."""
    first = event()
    for _ in range(2):
        await system.start_worker()
    async with CommitGate(system.database) as gate:
        await system.publish(message(first), message(first))
        await gate.until_one_waits()
        await gate.until_one_waits_behind()
        await gate.open()
        await system.settle()
    books = await system.books()
    books.check()
    assert len(books.stored) == 1
    assert books.letters == {}


async def _is_one_row_and_one_conflict(system: System, *, tokens: set[int]) -> None:
    books = await system.books()
    books.check()
    (stored,) = books.stored.values()
    assert stored in tokens
    assert books.letters == {"id_conflict": 1}
    assert books.dead == books.stored.keys()
