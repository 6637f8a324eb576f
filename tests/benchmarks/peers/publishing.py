"""Publishes events, each confirmed: `… peers.publishing AMQP_URL EXCHANGE PEOPLE_FILE EVENTS EVENTS_PER_MESSAGE`.

With 0 events a message, aio-pika's own publish, which waits for each confirmation: what one would write by hand. Prints
one JSON object. The time runs from the first event's making to the last confirmation.
"""

import asyncio
import json
import sys
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import aio_pika
import uvloop
from usage_events import UsageEvent, UsagePublisher
from usage_events.ids import uuid7

BEFORE_OTHERS = 50  # events that are recorded before the sender has its turn


def fields(people: "cycle[tuple[str, str]]") -> dict[str, Any]:
    """An event but for id and time."""
    user, organization = next(people)
    return {
        "user_id": user,
        "organization_id": organization,
        "input_tokens": 374,
        "output_tokens": 44,
        "endpoint": "/v1/chat/completions",
        "model": "gpt-4o-mini",
        "request_type": "chat",
        "request_metadata": {"trace": "5f0c8d3e9a7b2c14", "region": "eu", "cached": 0},
    }


async def publish_plainly(amqp_url: str, exchange_name: str, people: "cycle[tuple[str, str]]", events: int) -> float:
    """aio-pika alone; the seconds that it took."""
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel(on_return_raises=True)
        exchange = await channel.get_exchange(exchange_name)
        begun_at = perf_counter()
        for _ in range(events):
            event = {"id": str(uuid7()), "created_at": datetime.now(UTC).isoformat(), **fields(people)}
            message = aio_pika.Message(
                json.dumps(event).encode(), content_type="application/json", delivery_mode=2
            )  # fmt: skip
            await exchange.publish(message, "usage.recorded")
        return perf_counter() - begun_at


async def publish(
    amqp_url: str, exchange: str, people: "cycle[tuple[str, str]]", events: int, events_per_message: int
) -> tuple[float, int]:
    """`UsagePublisher`; the seconds that it took, and the messages."""
    publisher = UsagePublisher(
        amqp_url, exchange=exchange, events_per_message_max=events_per_message, buffer_events_max=events,
        buffer_bytes_max=events * 1024,
    )  # fmt: skip
    async with publisher:
        await publisher.connect()
        begun_at = perf_counter()
        for number in range(events):
            publisher.record(UsageEvent(**fields(people)))
            if number % BEFORE_OTHERS == 0:
                await asyncio.sleep(0)
        await publisher.flush()
        seconds = perf_counter() - begun_at
        if publisher.books.confirmed != events:
            raise RuntimeError(f"{events} events are to be confirmed: {publisher.books}")
        return seconds, publisher.books.confirmed_messages


async def main(
    amqp_url: str, exchange: str, pairs: list[tuple[str, str]], events: int, events_per_message: int
) -> None:
    """Publish, and print what was done."""
    people = cycle(pairs)
    messages = events
    cpu_begun = process_time()
    if events_per_message:
        seconds, messages = await publish(amqp_url, exchange, people, events, events_per_message)
    else:
        seconds = await publish_plainly(amqp_url, exchange, people, events)
    cpu_seconds = process_time() - cpu_begun
    report = {"events_per_second": events / seconds, "cpu_us_per_event": cpu_seconds / events * 1e6}
    sys.stdout.write(json.dumps(report | {"messages": messages, "events_per_message": events / messages}))


if __name__ == "__main__":
    url, exchange_given, file, count, per_message = sys.argv[1:]
    given = [(user, organization) for user, organization in json.loads(Path(file).read_text())]
    uvloop.run(main(url, exchange_given, given, int(count), int(per_message)))
