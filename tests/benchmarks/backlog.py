"""Fills queues: a filler that is slower than what it measures would be in the way."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import aio_pika
from aiormq.abc import AbstractChannel, ChannelFrame
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

FRAMES_AT_ONCE = 500
FILL_SECONDS_MAX = 300.0
_POLL_SECONDS = 0.05

PropertiesOf = Callable[[int], commands.Basic.Properties]


def plain_properties(_: int) -> commands.Basic.Properties:
    """What a service sets."""
    return commands.Basic.Properties(content_type="application/json", delivery_mode=2)


async def fill_queue(
    amqp_url: str,
    bodies: Sequence[bytes],
    *,
    exchange: str,
    routing_key: str,
    queue: str,
    properties_of: PropertiesOf = plain_properties,
) -> None:
    """Publish the bodies as fast as the broker takes them, and wait until all stand in the queue.

    Raises:
        TimeoutError: they do not; the text says how many do.
    """
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        channel = await connection.channel(publisher_confirms=False)
        underlay: Any = await channel.get_underlay_channel()
        await underlay.queue_purge(queue)  # whoever was stopped before its last acknowledgement gave messages back
        frame_max = underlay.connection.connection_tune.frame_max - 8
        for start in range(0, len(bodies), FRAMES_AT_ONCE):
            frames: list[Any] = []
            for number in range(start, min(start + FRAMES_AT_ONCE, len(bodies))):
                publish = commands.Basic.Publish(exchange=exchange, routing_key=routing_key)
                frames += [publish, *_content(bodies[number], properties_of(number), frame_max)]
            drained = asyncio.get_running_loop().create_future()
            await underlay.write_queue.put(
                ChannelFrame.marshall(channel_number=underlay.number, frames=frames, drain_future=drained)
            )
            await drained
        await until_ready(underlay, queue, len(bodies))


async def declare_queue(amqp_url: str, queue: str) -> None:
    """A quorum queue of a peer's own, reached by the default exchange."""
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        channel = await connection.channel()
        await channel.declare_queue(queue, durable=True, arguments={"x-queue-type": "quorum"})


def _content(body: bytes, properties: commands.Basic.Properties, frame_max: int) -> Iterator[Any]:
    yield ContentHeader(0, len(body), properties)
    for at in range(0, len(body), frame_max):
        yield ContentBody(body[at : at + frame_max])


async def until_ready(channel: AbstractChannel, queue: str, messages: int) -> None:
    """Wait until exactly so many messages stand in a queue.

    Raises:
        TimeoutError: they do not; the text says how many do.
    """
    ready: int | None = 0
    try:
        async with asyncio.timeout(FILL_SECONDS_MAX):
            while (ready := (await channel.queue_declare(queue, passive=True)).message_count) != messages:  # noqa: ASYNC110 - the broker tells nobody
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise TimeoutError(
            f"{ready} messages stand in {queue!r} after {FILL_SECONDS_MAX:g} s instead of {messages}: "
            "something else publishes or consumes, or messages of a run before are left"
        ) from None
