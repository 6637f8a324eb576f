"""From publish to row: what was confirmed is stored or a dead letter, with bad events, duplicates and kills."""

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest
from delivery_paths import both_paths, both_paths_at_length
from harness import Message, System, event, message, raw

FAULTS: list[dict[str, Any]] = [
    {"input_tokens": -1},
    {"tokens_used": 7},
    {"created_at": "2019-01-01T00:00:00Z"},
    {"user_id": "99999999-9999-4999-8999-999999999999"},
    {"input_token": 1},
]


def mixed_messages(chance: random.Random, events_count: int) -> Iterator[Message]:
    """Messages of `events_count` different events, alone and in arrays; one in 20 bad, one in 10 sent twice."""
    left = events_count
    while left:
        size = min(left, chance.choice([1, 1, 1, 1, 1, 1, 1, 10, 50]))
        left -= size
        events = [event() if chance.random() > 0.05 else bad_event(chance) for _ in range(size)]
        yield message(*events)
        if chance.random() < 0.1:
            yield message(*events)


def bad_event(chance: random.Random) -> dict[str, Any]:
    """An event that is refused, though its id can be read."""
    return event(**chance.choice(FAULTS))


@both_paths
async def test_the_books_balance_with_bad_events_duplicates_and_a_kill(system: System) -> None:
    """Of 10,000 events, each ends as one row or as a letter, though the worker is killed among them."""
    chance = random.Random(7)
    messages = list(mixed_messages(chance, 10_000))
    worker = await system.start_worker()
    publishing = asyncio.create_task(system.publish(*messages, *(raw(b'{"n": %d' % n) for n in range(20))))
    await system.until_stored(1000)
    await worker.kill()
    await system.start_worker()
    await publishing
    await system.settle()

    books = await system.books()
    books.check()
    assert len(system.ledger.confirmed) == 10_000
    assert len(books.stored) + len(books.dead_only) == 10_000
    assert books.letters.keys() == {"bad_json", "invalid", "token_mismatch", "too_old", "unknown_user"}
    assert books.letters["bad_json"] == 20


@both_paths_at_length
async def test_twenty_kills_at_random_instants_lose_and_double_nothing(system: System) -> None:
    """A worker dies 20 times while events come: each event is one row, and none became a dead letter."""
    seed = random.randrange(2**32)
    print(f"seed: {seed}")  # noqa: T201 - shown where the test fails, to run it again
    chance = random.Random(seed)
    for _ in range(20):
        messages = [message(event()) for _ in range(150)] + [message(*(event() for _ in range(50)))]
        publishing = asyncio.create_task(system.publish(*messages))
        worker = await system.start_worker(wait_ready=False, USAGE_BATCH_MAX_EVENTS="100")
        await worker.url()
        await asyncio.sleep(chance.uniform(0.0, 0.3))  # the instant is what the test is about
        await worker.kill()
        await publishing
    await system.start_worker()
    await system.settle()

    books = await system.books()
    books.check()
    assert books.stored.keys() == system.ledger.confirmed
    assert books.letters == {}


@both_paths_at_length
async def test_two_workers_share_a_queue(system: System) -> None:
    """Both store a part, and together each event once."""
    workers = [await system.start_worker() for _ in range(2)]
    await system.publish(*(message(event()) for _ in range(5000)))
    await system.until_stored(5000)

    parts = [await worker.metric("events_total", outcome="stored") for worker in workers]
    assert sum(parts) == 5000
    assert min(parts) > 0
    await system.settle()
    (await system.books()).check()


@both_paths_at_length
async def test_bad_events_alone_neither_stop_nor_lose_anything(system: System) -> None:
    """Nothing but bad events: each becomes a letter under its own reason, and a good one after them is stored."""
    worker = await system.start_worker()
    chance = random.Random(11)
    await system.publish(
        *(message(bad_event(chance)) for _ in range(300)),
        *(message(*(bad_event(chance) for _ in range(50))) for _ in range(6)),
        *(raw(b"not json %d" % n) for n in range(100)),
        *(raw(b"%d" % n, content_type="text/plain") for n in range(100)),
    )
    await system.publish(message(event()))
    await system.until_stored(1)
    await system.until(lambda: _all_counted(system, 801), "all are counted")
    assert await worker.metric("events_total", outcome="dead") == 800
    assert await worker.metric("dead_letters_total", reason="bad_json") == 100
    assert await worker.metric("dead_letters_total", reason="unsupported_content_type") == 100
    await system.settle()

    books = await system.books()
    books.check()
    assert len(books.stored) == 1
    assert sum(books.letters.values()) == 800


async def _all_counted(system: System, events: int) -> bool:
    return await system.workers[0].metric("events_total") == events


@both_paths_at_length
async def test_a_lone_event_after_a_pause_is_stored_by_its_age(system: System) -> None:
    """Nothing comes after it, so no size closes its batch: its age does."""
    worker = await system.start_worker(USAGE_BATCH_MAX_AGE="0.1")
    await system.publish(*(message(event()) for _ in range(20)))  # the prefetch grows: it closes no batch any more
    await system.until_stored(20)
    before = await worker.metric("batches_total", trigger="age")

    await system.publish(message(event()))
    await system.until_stored(21)
    await system.until(lambda: _closed_by_age(system, before), "the batch is counted as closed by its age")
    await system.settle()


async def _closed_by_age(system: System, before: float) -> bool:
    return await system.workers[0].metric("batches_total", trigger="age") == before + 1


@both_paths_at_length
@pytest.mark.parametrize("events_count", [1, 1000])
async def test_a_message_is_acknowledged_whole(system: System, events_count: int) -> None:
    """The smallest and the largest message: every event of it is a row, also where a batch holds fewer."""
    await system.start_worker(USAGE_BATCH_MAX_EVENTS="10")
    await system.publish(message(*(event() for _ in range(events_count))))
    await system.settle()
    (await system.books()).check()
    assert await system.stored() == events_count


@both_paths_at_length
async def test_a_growing_prefetch_spends_no_delivery(system: System) -> None:
    """A backlog is drained from prefetch 1 to its full size, and the broker hands out each message once."""
    await system.declare()
    await system.publish(*(message(event()) for _ in range(3000)))
    worker = await system.start_worker(USAGE_BATCH_MAX_EVENTS="500")
    await system.until_stored(3000)
    assert await worker.metric("redeliveries_total") == 0
