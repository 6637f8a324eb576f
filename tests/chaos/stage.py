"""What a run is played on: two servers, a proxy before each of their users, producers, workers, and an observer.

    producers ── proxy ──▶ RabbitMQ ◀── proxy ── workers ── proxy ──▶ Postgres

Before several nodes a proxy is their load balancer. The observer asks the servers directly.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import aio_pika
import aiormq
import asyncpg
from harness import ORGANIZATION, USER
from harness.waiting import until
from usage_events.contract import MAX_AHEAD_SECONDS

from chaos.fleet import Fleet, NotFeltError
from chaos.home import TESTS
from chaos.ledger import Books, Ledger, balance, balance_in_parts
from chaos.load import ORGANIZATIONS, USERS, Load
from chaos.producer import PAUSE, RESUME, Message, Options, single
from chaos.proxy import LOOPBACK, Proxy
from chaos.recovery import rows_per_second, seconds_until_flowing
from chaos.several import mend, ports
from chaos.streams import Protocol
from worker.demo.postgres_server import PostgresServer
from worker.demo.rabbitmq_server import RabbitServer
from worker.postgres.migrations import migrate
from worker.postgres.session import connect
from worker.rabbitmq.connection import connect as connect_broker
from worker.rabbitmq.topology import ensure_topology
from worker.retention.months import Month
from worker.settings import Settings, load_settings

PASSWORD = "chaos"
WORKERS, PRODUCERS = "chaos-worker", "chaos-producer"  # users of the broker
CALL_SECONDS_MAX = 10.0
SETTLE_SECONDS_MAX = 180.0
WHOLE_SECONDS_MAX = 60.0
STOPS_MAX = 3
LEDGERS_BYTES_MAX = 2**26  # are held against the tables at once
WORKER_SETTINGS = {"USAGE_BATCH_MAX_EVENTS": "200", "USAGE_BATCH_MAX_AGE": "0.1"}
AWAY = (OSError, TimeoutError, RuntimeError, asyncpg.PostgresError, asyncpg.InterfaceError)
_BROKER_AWAY = (aiormq.exceptions.AMQPError, aio_pika.exceptions.AMQPError, OSError, RuntimeError, TimeoutError)


@dataclass(slots=True, frozen=True)
class Servers:
    """Two servers that may be broken; they outlive a run."""

    postgres: PostgresServer
    rabbitmq: RabbitServer

    def add_users(self) -> None:
        """Producers and workers log in as users of their own, so that an operator can tell them apart."""
        for user in (WORKERS, PRODUCERS):
            self.rabbitmq.manage("PUT", f"/api/users/{user}", {"password": PASSWORD, "tags": ""})
            rights = {"configure": ".*", "write": ".*", "read": ".*"}
            self.rabbitmq.manage("PUT", f"/api/permissions/%2F/{user}", rights)

    def mend(self) -> None:
        """Let both run again, where a fault has failed before it had mended what it broke."""
        for server in (self.postgres, self.rabbitmq):
            mend(server)


class Stage:
    """One run's own database, exchange and queues; see the module's docstring.

    Args:
        servers: where they are.
        folder: for ledgers and logs; empty.
        seed: of everything that is left to chance.
        environment: what the workers are told beside where the servers are.
        module: what the workers run in the command's place.
    """

    def __init__(
        self,
        servers: Servers,
        folder: Path,
        *,
        seed: int,
        environment: Mapping[str, str],
        module: str | None = None,
    ) -> None:
        self.servers = servers
        self.postgres = servers.postgres
        self.rabbitmq = servers.rabbitmq
        self.folder = folder
        self.seed = seed
        name = uuid4().hex[:12]
        self.settings: Settings = load_settings(
            amqp_url=self.rabbitmq.amqp_url, exchange=f"chaos-{name}", queue=f"chaos-{name}.events"
        )
        self.fleet: Fleet
        self.workers_to_rabbitmq: Proxy
        self.workers_to_nodes: list[Proxy] = []  # of Postgres, in the order in which workers try them; mostly one
        self.producers_to_rabbitmq: Proxy
        self.producers: list[asyncio.subprocess.Process] = []
        self.ledgers: list[Path] = []
        self.usual_rows_per_second = 0.0  # where it was measured
        self.recoveries: list[float] = []  # seconds until events flowed again, each time that something was mended
        self._database_name = f"chaos_{name}"
        self._environment = environment
        self._module = module
        self._database: asyncpg.Connection | None = None
        self._asking = asyncio.Lock()
        self._database_dsn = ""
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await asyncio.to_thread(self.postgres.create_database, self._database_name)
            stack.push_async_callback(asyncio.to_thread, self.postgres.drop_database, self._database_name)
            await self._prepare_database()
            await self.declare()
            stack.push_async_callback(self._delete_queues)
            amqp_port, *others = ports(self.rabbitmq, self.rabbitmq.amqp_url)
            self.workers_to_rabbitmq = await Proxy.start(amqp_port, Protocol.AMQP, seed=self.seed, others=others)
            stack.push_async_callback(self.workers_to_rabbitmq.close)
            self.producers_to_rabbitmq = await Proxy.start(amqp_port, Protocol.AMQP, seed=self.seed, others=others)
            stack.push_async_callback(self.producers_to_rabbitmq.close)
            for port in ports(self.postgres, self.dsn):
                proxy = await Proxy.start(port, Protocol.POSTGRES, seed=self.seed)
                stack.push_async_callback(proxy.close)
                self.workers_to_nodes.append(proxy)
            self.fleet = Fleet(self.worker_environment(), self.folder, self._module)
            stack.push_async_callback(asyncio.to_thread, self.servers.mend)
            stack.push_async_callback(self._end)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def dsn(self) -> str:
        """The run's database, asked directly; of several servers on the one that takes writes now."""
        return self.dsn_of(self.postgres)

    def dsn_of(self, server: PostgresServer) -> str:
        """The run's database on this server, asked directly."""
        return urlunsplit(urlsplit(server.dsn)._replace(path=f"/{self._database_name}"))

    def dsn_of_workers(self, user: str | None = None) -> str:
        """The same through the proxies, of all servers, as this user or as the one that tests are."""
        return _through(self.dsn, *self.workers_to_nodes, user=user)

    @property
    def workers_to_postgres(self) -> Proxy:
        """The proxy before the only server."""
        (proxy,) = self.workers_to_nodes
        return proxy

    # Producers.

    async def start_producers(self, load: Load, name: str = "producer") -> None:
        """Begin to publish; each producer has a ledger of its own, of this name."""
        now = datetime.now(UTC)
        for number in range(load.producers):
            ledger = self.new_ledger(f"{name}-{number}")
            ahead_seconds = load.ahead_seconds[number % len(load.ahead_seconds)]
            options = Options(
                amqp_url=_through(self.rabbitmq.amqp_url, self.producers_to_rabbitmq, user=PRODUCERS) + "?heartbeat=5",
                exchange=self.settings.exchange,
                ledger=str(ledger),
                seed=self.seed if load.same_events else self.seed * 100 + number,
                rate=load.rate,
                created_at=(now + timedelta(seconds=ahead_seconds)).isoformat(),
                is_in_future=ahead_seconds > MAX_AHEAD_SECONDS,
                user_ids=[str(user) for user in USERS],
                organization_ids=[str(organization) for organization in ORGANIZATIONS],
                number=number,
                sizes=load.sizes[number % len(load.sizes)],
                bad_share=load.bad_share,
                unreadable_share=load.unreadable_share,
                padding_bytes=load.padding_bytes,
                ids_from_ms=_first_ms(load.ids_of_months_ago),
            )
            with (self.folder / f"{name}-{number}.log").open("wb") as log:
                self.producers.append(
                    await asyncio.create_subprocess_exec(
                        *options.command(), cwd=TESTS, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log
                    )
                )

    async def pause_producers(self) -> None:
        """Let them publish nothing; returns when all that they have sent is confirmed."""
        self._tell_producers(PAUSE)
        ledgers = self.producers_ledgers

        def all_is_confirmed() -> bool:
            found = Ledger.read(ledgers)
            return found.sent.keys() == found.confirmed

        await until(all_is_confirmed, "all is confirmed", seconds_max=SETTLE_SECONDS_MAX, details=self.details)

    def resume_producers(self) -> None:
        """Let them go on."""
        self._tell_producers(RESUME)

    def _tell_producers(self, number: signal.Signals) -> None:
        for producer in self.producers:
            if producer.returncode is None:
                producer.send_signal(number)

    async def stop_producers(self) -> None:
        """Publish nothing more; returns when everything that was begun is confirmed.

        Raises:
            AssertionError: one has failed.
        """
        self._tell_producers(signal.SIGTERM)
        async with asyncio.timeout(SETTLE_SECONDS_MAX):
            statuses = [await producer.wait() for producer in self.producers]
        logs = "\n".join(path.read_text(errors="replace")[-3000:] for path in self.folder.glob("producer-*.log"))
        assert not any(statuses), f"producers ended with {statuses}\n{logs}"

    # What an observer sees.

    async def value(self, query: str, *arguments: Any, seconds_max: float = 60.0) -> Any:
        """One value out of the database, asked for until it answers."""
        give_up_at = monotonic() + seconds_max
        while True:
            try:
                async with self._asking:  # several ask at once, over one connection
                    if self._database_dsn != self.dsn:  # another server takes writes now
                        self._forget_database()
                    if self._database is None:
                        self._database_dsn = self.dsn
                        self._database = await asyncpg.connect(self.dsn, timeout=CALL_SECONDS_MAX)
                    return await self._database.fetchval(query, *arguments, timeout=CALL_SECONDS_MAX)
            except AWAY:
                self._forget_database()
                if monotonic() > give_up_at:
                    raise
                await asyncio.sleep(0.1)

    async def stored(self) -> int:
        """Rows in the table."""
        return int(await self.value("SELECT count(*) FROM ai_usage_logs"))

    async def until_more_are_stored(self, rows: int, seconds_max: float = 60.0) -> None:
        """Until so many more rows are there than now."""
        wanted = await self.stored() + rows

        async def enough() -> bool:
            return await self.stored() >= wanted

        await until(enough, f"{rows} more rows are stored", seconds_max=seconds_max, details=self.details)

    async def until_felt(self, condition: Callable[[], bool | Awaitable[bool]], what: str) -> None:
        """Until something shows that a fault was felt.

        Raises:
            NotFeltError: nothing does.
        """
        try:
            await until(condition, what, details=self.details)
        except TimeoutError as error:
            raise NotFeltError(str(error)) from error

    async def ready(self, queue: str | None = None) -> int:
        """Messages in the queue that nobody holds."""
        connection = await aio_pika.connect(self.rabbitmq.amqp_url, timeout=CALL_SECONDS_MAX)
        async with connection, connection.channel() as channel:
            answer = await channel.declare_queue(queue or self.settings.queue, passive=True)
            return answer.declaration_result.message_count or 0

    async def measure_rate(self, load: Load) -> None:
        """How many rows come as long as nothing is broken; not more than the load makes, where some had piled up."""
        self.usual_rows_per_second = min(await rows_per_second(self), load.rows_per_second)
        assert self.usual_rows_per_second, "nothing is stored"

    async def until_flowing(self, seconds_max: float, *, each_worker: bool = True) -> float:
        """Right after something was mended: the seconds until events flow again, which are noted.

        Raises:
            TimeoutError: they do not; says what is missing.
        """
        self.recoveries.append(await seconds_until_flowing(self, seconds_max, each_worker=each_worker))
        return self.recoveries[-1]

    async def settle(self, whole_seconds_max: float = WHOLE_SECONDS_MAX) -> int:
        """Stop the producers, wait until the queues are empty and the books are right, and stop the workers.

        Books that are not right in time stay what they are. Where messages have come back to the queue, though nothing
        was missing, workers are started again. Returns how often they were stopped.

        Raises:
            TimeoutError: the queues do not become empty.
            AssertionError: something comes back each time.
        """
        await self.stop_producers()
        for stops in range(1, STOPS_MAX + 1):
            await until(self.is_drained, "the queues are empty", seconds_max=SETTLE_SECONDS_MAX, details=self.details)
            with suppress(TimeoutError):  # the outcome says what is missing
                await until(self.is_whole, "everything is stored", seconds_max=whole_seconds_max)
            await self.fleet.until_up()
            await self.fleet.scale(0)
            if await self.is_drained():
                return stops
            await self.fleet.scale(2)
        raise AssertionError("messages come back to the queue each time that the workers are stopped")

    async def is_whole(self) -> bool:
        """Whether everything that was confirmed is stored; what workers hold at their stop would come back."""
        return not (await self.books()).lost

    async def books(self) -> Books:
        """The ledgers against the tables."""
        database = await asyncpg.connect(self.dsn)
        try:
            if sum(path.stat().st_size for path in self.ledgers) > LEDGERS_BYTES_MAX:
                return await balance_in_parts(database, self.ledgers)
            return await balance(database, Ledger.read(self.ledgers))
        finally:
            await database.close()

    @property
    def producers_ledgers(self) -> list[Path]:
        """Of those that publish all the time."""
        return [path for path in self.ledgers if path.stem.startswith("producer")]

    def details(self) -> str:
        """The end of each running worker's log."""
        return "\n".join(worker.log_tail() for worker in self.fleet.running)

    # Set-up.

    async def declare(self) -> None:
        """Declare exchange and queues as a worker would."""
        connection = await connect_broker(self.settings, "chaos")
        async with connection:
            await ensure_topology(connection, self.settings)

    async def _prepare_database(self) -> None:
        connection = await connect(self.dsn, "public", name="chaos")
        await migrate(connection, "public")
        await connection.execute("INSERT INTO users SELECT unnest($1::uuid[])", [*USERS])
        await connection.execute("INSERT INTO organizations SELECT unnest($1::uuid[])", [*ORGANIZATIONS])
        await connection.close()

    def worker_environment(self) -> dict[str, str]:
        """What each worker is told."""
        return {
            "USAGE_POSTGRES_DSN": self.dsn_of_workers(),
            "USAGE_AMQP_URL": _through(self.rabbitmq.amqp_url, self.workers_to_rabbitmq, user=WORKERS),
            "USAGE_EXCHANGE": self.settings.exchange,
            "USAGE_QUEUE": self.settings.queue,
            **WORKER_SETTINGS,
            **self._environment,
        }

    def new_ledger(self, name: str) -> Path:
        """An empty ledger of this name, which counts."""
        path = self.folder / f"{name}.ledger"
        path.touch()
        self.ledgers.append(path)
        return path

    def _forget_database(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.terminate()

    def new_message(self) -> Message:
        """A good event alone, like no other."""
        return single(str(USER), str(ORGANIZATION))

    async def publish(self, body: bytes, seconds_max: float) -> None:
        """Publish a body as a producer does, until it is confirmed."""
        url = _through(self.rabbitmq.amqp_url, self.producers_to_rabbitmq, user=PRODUCERS)
        give_up_at = monotonic() + seconds_max
        while True:
            try:
                connection = await aio_pika.connect(url, timeout=CALL_SECONDS_MAX)
                async with connection, connection.channel(on_return_raises=True) as channel:
                    exchange = await channel.get_exchange(self.settings.exchange, ensure=False)
                    await exchange.publish(
                        aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT),
                        "usage.recorded",
                        mandatory=True,
                        timeout=CALL_SECONDS_MAX,
                    )
            except _BROKER_AWAY:
                if monotonic() > give_up_at:
                    raise
                await asyncio.sleep(0.1)
            else:
                return

    async def is_drained(self) -> bool:
        """Whether the queues are empty; not where the broker does not say."""
        try:
            return not (await self.ready() or await self.ready(self.settings.dead_queue))
        except _BROKER_AWAY:
            return False

    async def _end(self) -> None:
        await self.fleet.kill_all()
        for producer in self.producers:
            if producer.returncode is None:
                with suppress(ProcessLookupError):
                    producer.kill()
                await producer.wait()
        self._forget_database()

    async def _delete_queues(self) -> None:
        connection = await aio_pika.connect(self.rabbitmq.amqp_url, timeout=CALL_SECONDS_MAX)
        async with connection, connection.channel() as channel:
            for queue in (self.settings.queue, self.settings.dead_queue):
                await channel.queue_delete(queue)
            for exchange in (self.settings.exchange, self.settings.dead_exchange):
                await channel.exchange_delete(exchange)


def _first_ms(months_ago: int) -> int:
    """The first millisecond of a month; 0 for this one."""
    return round(Month.of(datetime.now(UTC)).plus(-months_ago).start.timestamp()) * 1000 if months_ago else 0


def _through(url: str, *proxies: Proxy, user: str | None = None) -> str:
    """A server's URL with these proxies in its place, to be tried in turn."""
    parts = urlsplit(url)
    login = f"{user}:{PASSWORD}" if user else parts.netloc.rpartition("@")[0]
    hosts = ",".join(f"{LOOPBACK}:{proxy.port}" for proxy in proxies)
    return urlunsplit(parts._replace(netloc=f"{login}@{hosts}"))
