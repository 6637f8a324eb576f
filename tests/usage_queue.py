"""A queue bound as the worker's is, for tests that look at what a producer has sent."""

import asyncio
import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue


@asynccontextmanager
async def open_channel(amqp_url: str) -> AsyncIterator[AbstractChannel]:
    """A channel of a connection of its own."""
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        yield await connection.channel()


async def declare(channel: AbstractChannel, exchange: str, queue: str, **arguments: Any) -> AbstractQueue:
    """Exchange and queue as the worker declares them, but for the arguments."""
    await channel.declare_exchange(exchange, "topic", durable=True)
    declared = await channel.declare_queue(
        queue, durable=True, arguments={"x-queue-type": "quorum"} | {f"x-{name}": arguments[name] for name in arguments}
    )
    await declared.bind(exchange, "usage.recorded.#")
    return declared


async def receive(queue: AbstractQueue, count: int) -> list[AbstractIncomingMessage]:
    """The next messages of the queue, acknowledged; waits until there are so many."""
    arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    tag = await queue.consume(arrived.put)
    messages = [await arrived.get() for _ in range(count)]
    for message in messages:
        await message.ack()
    await queue.cancel(tag)
    return messages


async def receive_until(queue: AbstractQueue, wanted: Collection[bytes]) -> list[bytes]:
    """The bodies in the queue, duplicates included, up to the one that completes `wanted`."""
    arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    await queue.consume(arrived.put, no_ack=True)
    bodies: list[bytes] = []
    missing = set(wanted)
    while missing:
        body = (await arrived.get()).body
        bodies.append(body)
        missing.discard(body)
    return bodies


async def ids_in(queue: AbstractQueue, count: int) -> list[str]:
    """The ids of the next events, at least so many; more, where more are there."""
    found: list[str] = []
    async with queue.iterator(no_ack=True) as messages:
        async for message in messages:
            body = json.loads(message.body)
            found += [one["id"] for one in (body if isinstance(body, list) else [body])]
            if len(found) >= count:
                break
    return found
