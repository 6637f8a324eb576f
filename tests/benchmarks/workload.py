"""What is measured with: events that look like real ones, as messages in a queue and as rows for COPY."""

import asyncio
import json
import random
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import aio_pika
import asyncpg
from aiormq.abc import ChannelFrame
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from usage_events.ids import uuid7

USERS = 1000
ORGANIZATIONS = 50
MODELS = ("gpt-4o-mini", "gpt-4o", "claude-sonnet", "gemini-flash")
ENDPOINTS = ("/v1/chat/completions", "/v1/embeddings", "/v1/responses")
FRAMES_AT_ONCE = 500

COLUMNS = (
    "id", "user_id", "organization_id", "tokens_used", "input_tokens", "output_tokens", "endpoint", "model",
    "request_type", "request_metadata", "estimated_cost_usd", "created_at",
)  # fmt: skip


class People(NamedTuple):
    """The users and organizations that exist."""

    users: list[UUID]
    organizations: list[UUID]


async def make_people(dsn: str) -> People:
    """Fill `users` and `organizations`."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("TRUNCATE users, organizations CASCADE")
        insert = "INSERT INTO {} SELECT gen_random_uuid() FROM generate_series(1, $1) RETURNING id"
        users = await connection.fetch(insert.format("users"), USERS)
        organizations = await connection.fetch(insert.format("organizations"), ORGANIZATIONS)
    finally:
        await connection.close()
    return People([row["id"] for row in users], [row["id"] for row in organizations])


def make_events(people: People, count: int, *, seed: int) -> list[dict[str, Any]]:
    """Events as producers write them, one after another in time."""
    dice = random.Random(seed)
    begin = datetime.now(UTC) - timedelta(seconds=60)
    return [
        {
            "id": str(uuid7()),
            "user_id": str(dice.choice(people.users)),
            "organization_id": str(dice.choice(people.organizations)),
            "input_tokens": dice.randrange(10, 4000),
            "output_tokens": dice.randrange(1, 1000),
            "endpoint": dice.choice(ENDPOINTS),
            "model": dice.choice(MODELS),
            "request_type": "chat",
            "request_metadata": {"trace": f"{dice.getrandbits(64):016x}", "region": "eu", "cached": 0},
            "created_at": (begin + timedelta(microseconds=100 * number)).isoformat(),
        }
        for number in range(count)
    ]


def messages_of(events: Sequence[dict[str, Any]], events_per_message: int) -> list[bytes]:
    """The bodies: one object each, or arrays."""
    if events_per_message == 1:
        return [json.dumps(event, separators=(",", ":")).encode() for event in events]
    return [
        json.dumps(events[start : start + events_per_message], separators=(",", ":")).encode()
        for start in range(0, len(events), events_per_message)
    ]


def rows_of(events: Iterable[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """The same as rows for asyncpg's COPY, in the order of `COLUMNS`."""
    return [
        (
            UUID(event["id"]), UUID(event["user_id"]), UUID(event["organization_id"]),
            event["input_tokens"] + event["output_tokens"], event["input_tokens"], event["output_tokens"],
            event["endpoint"], event["model"], event["request_type"], json.dumps(event["request_metadata"]),
            Decimal(event["input_tokens"] + 3 * event["output_tokens"]).scaleb(-6),
            datetime.fromisoformat(event["created_at"]),
        )
        for event in events
    ]  # fmt: skip


async def fill_queue(amqp_url: str, exchange: str, queue: str, bodies: Sequence[bytes]) -> None:
    """Publish the bodies as fast as the broker takes them, and wait until all stand in the queue.

    Frames are made in advance and sent in heaps: a filler that is slower than what it measures would be in the way.
    """
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        channel = await connection.channel(publisher_confirms=False)
        underlay: Any = await channel.get_underlay_channel()
        properties = commands.Basic.Properties(content_type="application/json", delivery_mode=2)
        frame_max = underlay.connection.connection_tune.frame_max - 8
        for start in range(0, len(bodies), FRAMES_AT_ONCE):
            frames: list[Any] = []
            for body in bodies[start : start + FRAMES_AT_ONCE]:
                frames.append(commands.Basic.Publish(exchange=exchange, routing_key="usage.recorded"))
                frames.append(ContentHeader(0, len(body), properties))
                frames += [ContentBody(body[at : at + frame_max]) for at in range(0, len(body), frame_max)]
            drained = asyncio.get_running_loop().create_future()
            await underlay.write_queue.put(
                ChannelFrame.marshall(channel_number=underlay.number, frames=frames, drain_future=drained)
            )
            await drained
        async with asyncio.timeout(120):
            while (await underlay.queue_declare(queue, passive=True)).message_count < len(bodies):  # noqa: ASYNC110 - the broker tells nobody
                await asyncio.sleep(0.05)
