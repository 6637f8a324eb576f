"""FastStream with one asyncpg INSERT a message.

As its documentation shows it: a subscriber with a pydantic model, the pool in the application's lifespan. Each message
is acknowledged after its INSERT. Ten connections; a prefetch of 100, so that each always has work; uvloop.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import uvloop
from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

from benchmarks.peers.usage import INSERT, Usage

CONNECTIONS = 10
PREFETCH = 100


def make_app(amqp_url: str, queue: str, dsn: str) -> FastStream:
    """The application."""
    broker = RabbitBroker(amqp_url, default_channel=Channel(prefetch_count=PREFETCH), logger=None)
    pools: list[asyncpg.Pool] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with asyncpg.create_pool(dsn, min_size=CONNECTIONS, max_size=CONNECTIONS) as pool:
            pools.append(pool)
            yield

    @broker.subscriber(RabbitQueue(queue, declare=False), ack_policy=AckPolicy.NACK_ON_ERROR)
    async def record(usage: Usage) -> None:
        await pools[0].execute(INSERT, *usage.row())

    return FastStream(broker, lifespan=lifespan, logger=None)


if __name__ == "__main__":
    uvloop.run(make_app(*sys.argv[1:]).run())
