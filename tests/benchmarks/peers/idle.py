"""Consumers that do nothing: what the AMQP libraries themselves can deliver. Prints one JSON object.

`python -m benchmarks.peers.idle {aio_pika,aiormq} AMQP_URL QUEUE MESSAGES`: from the first message to the last; every
thousandth is acknowledged with all before it. Prefetch 3,000, uvloop.
"""

import asyncio
import json
import sys
from time import perf_counter, process_time

import aio_pika
import uvloop
from aio_pika.abc import AbstractIncomingMessage
from aiormq.abc import DeliveredMessage

PREFETCH = 3000
ACKNOWLEDGED_AT_ONCE = 1000


class Count:
    """Counts messages and takes the time between the first and the last."""

    def __init__(self, messages: int) -> None:
        self._messages = messages
        self._count = 0
        self._begun_at = self._cpu_begun = 0.0
        self.done = asyncio.Event()
        self.report = ""

    def take(self) -> bool:
        """One more; whether it is to be acknowledged."""
        self._count += 1
        if self._count == 1:
            self._begun_at, self._cpu_begun = perf_counter(), process_time()
        if self._count == self._messages:
            self.report = json.dumps(
                {
                    "events_per_second": (self._messages - 1) / (perf_counter() - self._begun_at),
                    "cpu_us_per_event": (process_time() - self._cpu_begun) / self._messages * 1e6,
                }
            )
            self.done.set()
        return self._count % ACKNOWLEDGED_AT_ONCE == 0 or self._count == self._messages


async def consume_by_aio_pika(channel: aio_pika.abc.AbstractChannel, queue: str, count: Count) -> None:
    """The way that its documentation shows."""

    async def on_message(message: AbstractIncomingMessage) -> None:
        if count.take():
            await message.ack(multiple=True)

    await (await channel.get_queue(queue)).consume(on_message)


async def consume_by_aiormq(channel: aio_pika.abc.AbstractChannel, queue: str, count: Count) -> None:
    """The channel below aio-pika's."""
    underlay = await channel.get_underlay_channel()

    async def on_message(message: DeliveredMessage) -> None:
        if count.take():
            assert message.delivery_tag is not None
            await underlay.basic_ack(message.delivery_tag, multiple=True, wait=False)

    await underlay.basic_consume(queue, on_message)


CONSUME = {"aio_pika": consume_by_aio_pika, "aiormq": consume_by_aiormq}


async def main(library: str, amqp_url: str, queue: str, messages: int) -> None:
    """Consume so many messages."""
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        channel = await connection.channel(publisher_confirms=False)
        await channel.set_qos(prefetch_count=PREFETCH)
        count = Count(messages)
        await CONSUME[library](channel, queue, count)
        await count.done.wait()
        await channel.close()  # answered after the last acknowledgement has been taken
    sys.stdout.write(f"{count.report}\n")


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
