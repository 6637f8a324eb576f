"""aio-pika with batches by `executemany`: what is written by hand where one INSERT a message has become too slow.

A callback fills a list; it is written at 5,000 events or after 250 ms, as the worker's batches are, in one transaction
(asyncpg's `executemany` is one), and acknowledged by one `ack(multiple=True)`. Prefetch of three batches, pydantic's
`model_validate_json`, uvloop.
"""

import asyncio
import sys

import aio_pika
import asyncpg
import uvloop
from aio_pika.abc import AbstractIncomingMessage

from benchmarks.peers.usage import INSERT, Usage

BATCH_EVENTS = 5000
BATCH_SECONDS = 0.25
PREFETCH = 3 * BATCH_EVENTS


async def main(amqp_url: str, queue_name: str, dsn: str) -> None:
    """Consume until killed."""
    database = await asyncpg.connect(dsn)
    connection = await aio_pika.connect(amqp_url)
    channel = await connection.channel(publisher_confirms=False)
    await channel.set_qos(prefetch_count=PREFETCH)
    queue = await channel.get_queue(queue_name)
    inbox: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    await queue.consume(inbox.put)
    loop = asyncio.get_running_loop()
    while True:
        batch = [await inbox.get()]
        due_at = loop.time() + BATCH_SECONDS
        while len(batch) < BATCH_EVENTS:
            try:
                async with asyncio.timeout_at(due_at):
                    batch.append(await inbox.get())
                while len(batch) < BATCH_EVENTS and not inbox.empty():
                    batch.append(inbox.get_nowait())
            except TimeoutError:
                break
        await database.executemany(INSERT, [Usage.model_validate_json(message.body).row() for message in batch])
        await batch[-1].ack(multiple=True)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
