"""A consumer that does nothing: what aio-pika itself can deliver. Prints messages a second."""

import asyncio
import sys
from time import perf_counter

import aio_pika
import uvloop
from aio_pika.abc import AbstractIncomingMessage

PREFETCH = 3000
ACKNOWLEDGED_AT_ONCE = 1000


async def main(amqp_url: str, queue_name: str, messages: int) -> None:
    """Consume so many messages, from the first to the last."""
    connection = await aio_pika.connect(amqp_url)
    channel = await connection.channel(publisher_confirms=False)
    await channel.set_qos(prefetch_count=PREFETCH)
    queue = await channel.get_queue(queue_name)
    done = asyncio.Event()
    count = 0
    begun_at = 0.0

    async def on_message(message: AbstractIncomingMessage) -> None:
        nonlocal count, begun_at
        count += 1
        if count == 1:
            begun_at = perf_counter()
        if count % ACKNOWLEDGED_AT_ONCE == 0 or count == messages:
            await message.ack(multiple=True)
        if count == messages:
            done.set()

    await queue.consume(on_message)
    await done.wait()
    sys.stdout.write(f"{messages / (perf_counter() - begun_at)}\n")
    await connection.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
