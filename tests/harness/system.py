"""The system under test: one database, one queue, the workers between them, and the ledger of what was published."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import aio_pika
import asyncpg

from harness.books import Books
from harness.events import ORGANIZATION, USER, Message
from harness.publisher import Ledger, Publisher
from harness.waiting import until
from harness.worker import WorkerProcess
from worker.demo.postgres_server import PASSWORD
from worker.rabbitmq.connection import connect
from worker.rabbitmq.topology import ensure_topology
from worker.settings import Settings, load_settings

CANARY = "canary-5d0e"  # the password of a database that asks for none


def with_canary(dsn: str) -> str:
    """The same with a password, where there is none: a server that trusts everybody does not look at it."""
    parts = urlsplit(dsn)
    if parts.password is not None:
        return dsn
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user or 'postgres'}:{CANARY}@{host}"))


class System:
    """See the package's docstring.

    Args:
        dsn: a database that is migrated and holds nothing else.
        amqp_url: the broker.
        exchange: the exchange's name, of this test alone.
        queue: the queue's name, of this test alone.
        folder: where the workers' logs go.
        delivery_path: how the workers take deliveries.
    """

    def __init__(
        self, dsn: str, amqp_url: str, *, exchange: str, queue: str, folder: Path, delivery_path: str = "fast"
    ) -> None:
        self.dsn = dsn
        self.amqp_url = amqp_url
        self.exchange = exchange
        self.queue = queue
        self.delivery_path = delivery_path
        self.ledger = Ledger()
        self.workers: list[WorkerProcess] = []
        self.database: asyncpg.Connection
        self._folder = folder
        self._publisher = Publisher(amqp_url, exchange, self.ledger)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Declare the topology, so that one may publish before a worker starts; put `USER` and `ORGANIZATION` in."""
        async with AsyncExitStack() as stack:
            self.database = await asyncpg.connect(self.dsn)
            stack.push_async_callback(self.database.close)
            await self.database.execute("INSERT INTO users VALUES ($1) ON CONFLICT DO NOTHING", USER)
            await self.database.execute("INSERT INTO organizations VALUES ($1) ON CONFLICT DO NOTHING", ORGANIZATION)
            await self.declare()
            await stack.enter_async_context(self._publisher)
            stack.push_async_callback(self._kill_all)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # Workers.

    def environment(self) -> dict[str, str]:
        """What a command needs to find this system."""
        return {
            "USAGE_POSTGRES_DSN": with_canary(self.dsn),
            "USAGE_AMQP_URL": self.amqp_url,
            "USAGE_EXCHANGE": self.exchange,
            "USAGE_QUEUE": self.queue,
            "USAGE_DELIVERY_PATH": self.delivery_path,
        }

    async def start_worker(self, *, wait_ready: bool = True, **environment: str) -> WorkerProcess:
        """Start a worker with these settings on top; returns when it is ready."""
        log_path = self._folder / f"worker-{len(self.workers)}.log"
        worker = await WorkerProcess.start(self.environment() | environment, log_path)
        self.workers.append(worker)
        if wait_ready:
            await until(worker.is_ready, "the worker is ready", details=worker.log_tail)
        return worker

    async def stop_workers(self) -> None:
        """SIGTERM to all that run.

        Raises:
            AssertionError: one did not stop cleanly.
        """
        running = [worker for worker in self.workers if worker.status is None]
        await asyncio.gather(*(worker.stop() for worker in running))
        for worker in running:
            assert worker.status == 0, f"the worker did not stop cleanly\n{worker.log_tail()}"

    # Messages.

    async def publish(self, *messages: Message, routing_key: str = "usage.recorded") -> None:
        """Publish in this order, through outages; returns when each is confirmed."""
        await self._publisher.publish(messages, routing_key)

    async def ready_messages(self, queue: str | None = None) -> int:
        """Messages in the queue that nobody holds; `queue` is the queue of events if not given."""
        connection = await aio_pika.connect(self.amqp_url)
        async with connection, connection.channel() as channel:
            answer = await channel.declare_queue(queue or self.queue, passive=True)
            return answer.declaration_result.message_count or 0

    async def settle(self, seconds_max: float = 60.0) -> None:
        """Wait until both queues are empty, then stop the workers, and see that nothing came back.

        Raises:
            TimeoutError: the queues do not become empty.
            AssertionError: a worker did not stop cleanly, or it gave something back.
        """
        await self.until(self._queues_empty, "the queues are empty", seconds_max=seconds_max)
        await self.stop_workers()
        assert await self._queues_empty(), f"messages came back to the queue\n{self.details()}"

    # The database.

    async def value(self, query: str, *arguments: Any) -> Any:
        """One value out of the database."""
        return await self.database.fetchval(query, *arguments)

    async def stored(self) -> int:
        """Rows in `ai_usage_logs`."""
        return int(await self.value("SELECT count(*) FROM ai_usage_logs"))

    async def until_stored(self, rows: int, seconds_max: float = 30.0) -> None:
        """Wait until so many rows are there, or more."""

        async def enough() -> bool:
            return await self.stored() >= rows

        await self.until(enough, f"{rows} rows are stored", seconds_max=seconds_max)

    async def books(self) -> Books:
        """What was confirmed against what is stored."""
        return await Books.read(self.database, self.ledger)

    async def until(
        self, condition: Callable[[], bool | Awaitable[bool]], what: str, *, seconds_max: float = 30.0
    ) -> None:
        """`until`, with all workers' logs in the text of a failure."""
        await until(condition, what, seconds_max=seconds_max, details=self.details)

    def details(self) -> str:
        """The end of each worker's log."""
        return "\n".join(worker.log_tail() for worker in self.workers)

    # Set-up.

    async def declare(self) -> None:
        """Declare exchange and queues as a worker would."""
        connection = await connect(self._settings(), "usage-worker tests")
        async with connection:
            await ensure_topology(connection, self._settings())

    async def delete(self) -> None:
        """Delete exchange and queues with all that is in them; no worker may run."""
        settings = self._settings()
        connection = await aio_pika.connect(self.amqp_url)
        async with connection, connection.channel() as channel:
            for queue in (settings.queue, settings.dead_queue):
                await channel.queue_delete(queue)
            for exchange in (settings.exchange, settings.dead_exchange):
                await channel.exchange_delete(exchange)

    def _settings(self) -> Settings:
        return load_settings(amqp_url=self.amqp_url, exchange=self.exchange, queue=self.queue)

    async def _queues_empty(self) -> bool:
        return not (await self.ready_messages() or await self.ready_messages(f"{self.queue}.dead"))

    async def _kill_all(self) -> None:
        await asyncio.gather(*(worker.kill() for worker in self.workers))
        for worker in self.workers:
            for password in (CANARY, PASSWORD):
                assert password not in worker.log(), f"the database's password is in the log\n{worker.log_tail()}"
