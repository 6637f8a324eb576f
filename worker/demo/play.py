"""The demo's story: two workers, traffic in bursts, one worker killed in the middle, and the books at the end."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from uuid import UUID

import asyncpg
from rich.console import Console
from rich.live import Live
from usage_events.publisher import UsagePublisher

from worker.demo.show import Counts, count, print_daily, print_letters, print_totals, progress_line
from worker.demo.traffic import Traffic
from worker.errors import UsageWorkerError
from worker.postgres.migrations import migrate
from worker.postgres.session import connect
from worker.rabbitmq.connection import connect as connect_broker
from worker.rabbitmq.topology import remove_topology
from worker.settings import Settings

WORKERS = 2
USERS = 300
ORGANIZATIONS = 25
EVENTS_PER_BURST = 1500
EVENTS_PER_MESSAGE = 25
KILL_AT_SHARE = 0.4
SETTLE_SECONDS_MAX = 60.0
REFRESH_SECONDS = 0.2


class DemoError(UsageWorkerError):
    """The demo did not show what it is there to show."""


@dataclass(slots=True, frozen=True)
class Plan:
    """How much traffic, over how long."""

    events: int
    seconds: float
    seed: int


class Demo:
    """Plays on servers that are there.

    Args:
        settings: where they are.
        plan: what is published.
        folder: for the workers' logs.
        console: where it is shown.
    """

    def __init__(self, settings: Settings, plan: Plan, folder: Path, console: Console) -> None:
        self._settings = settings
        self._plan = plan
        self._folder = folder
        self._console = console
        self._workers: list[asyncio.subprocess.Process] = []
        self._note = ""

    async def play(self) -> None:
        """Play it all.

        Raises:
            DemoError: the books do not balance.
        """
        connection = await connect(
            self._settings.postgres_dsn.get_secret_value(), self._settings.postgres_schema, name="usage-worker demo"
        )
        try:
            for applied in await migrate(connection, self._settings.postgres_schema):
                self._console.print(f"migrated: {applied.name}")
            traffic = await self._people(connection)
            for number in range(WORKERS):
                await self._start_worker(number)
            await self._wait_until_ready()
            published = await self._run(traffic, connection)
            await self._report(traffic, connection, published)
        finally:
            await self._stop_workers()
            await connection.execute(f'DROP SCHEMA IF EXISTS "{self._settings.postgres_schema}" CASCADE')
            await connection.close()
            broker = await connect_broker(self._settings, "usage-worker demo")
            async with broker:
                await remove_topology(broker, self._settings)

    async def _people(self, connection: asyncpg.Connection) -> Traffic:
        insert = "INSERT INTO {} (id) SELECT gen_random_uuid() FROM generate_series(1, $1) RETURNING id"
        users: Sequence[UUID] = [row["id"] for row in await connection.fetch(insert.format("users"), USERS)]
        organizations = [row["id"] for row in await connection.fetch(insert.format("organizations"), ORGANIZATIONS)]
        return Traffic(users, organizations, seed=self._plan.seed)

    async def _start_worker(self, number: int) -> None:
        settings = self._settings
        environment = os.environ | {
            "USAGE_AMQP_URL": settings.amqp_url.get_secret_value(),
            "USAGE_POSTGRES_DSN": settings.postgres_dsn.get_secret_value(),
            "USAGE_POSTGRES_SCHEMA": settings.postgres_schema,
            "USAGE_EXCHANGE": settings.exchange,
            "USAGE_QUEUE": settings.queue,
            "USAGE_HTTP_PORT": "0",
            "USAGE_LOG_FORMAT": "json",
        }
        with (self._folder / f"worker-{number}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "worker", "run", env=environment, stdout=log, stderr=log
            )
        self._workers.append(process)
        self._console.print(f"worker {number + 1}: process {process.pid}")

    async def _wait_until_ready(self) -> None:
        """Both consume: their logs say so."""
        try:
            async with asyncio.timeout(SETTLE_SECONDS_MAX):
                for number, process in enumerate(self._workers):
                    log = self._folder / f"worker-{number}.log"
                    while b'"event": "consuming"' not in log.read_bytes():
                        if process.returncode is not None:
                            raise DemoError(f"worker {number + 1} ended:\n{log.read_text(errors='replace')}")
                        await asyncio.sleep(REFRESH_SECONDS / 4)
        except TimeoutError:
            raise DemoError(f"the workers did not start to consume within {SETTLE_SECONDS_MAX:.0f} s") from None

    async def _run(self, traffic: Traffic, connection: asyncpg.Connection) -> int:
        """Publish, kill, watch until everything has settled; the number of confirmed events."""
        async with UsagePublisher(
            self._settings.amqp_url.get_secret_value(), exchange=self._settings.exchange, app_id="usage-worker-demo"
        ) as publisher:
            with Live(console=self._console, refresh_per_second=1 / REFRESH_SECONDS, transient=True) as live:
                publishing = asyncio.create_task(self._publish(traffic, publisher))
                try:
                    await self._watch(live, traffic, connection, publisher, publishing)
                finally:
                    publishing.cancel()
        return publisher.books.confirmed

    async def _publish(self, traffic: Traffic, publisher: UsagePublisher) -> None:
        plan = self._plan
        begun_at = monotonic()
        confirmations = []
        sent = 0
        for burst in traffic.bursts(plan.events, EVENTS_PER_BURST):
            for start in range(0, len(burst), EVENTS_PER_MESSAGE):
                confirmations += [
                    await publisher.send(group) for group in _messages(burst[start : start + EVENTS_PER_MESSAGE])
                ]
            sent += len(burst)
            if sent >= plan.events * KILL_AT_SHARE and not self._note:
                self._kill_one()
            ahead = begun_at + plan.seconds * sent / plan.events - monotonic()
            await asyncio.sleep(max(0.0, ahead))
        await asyncio.gather(*confirmations)

    def _kill_one(self) -> None:
        victim = self._workers[0]
        victim.send_signal(signal.SIGKILL)
        self._note = f"worker 1 (process {victim.pid}) was killed with SIGKILL after"

    async def _watch(
        self,
        live: Live,
        traffic: Traffic,
        connection: asyncpg.Connection,
        publisher: UsagePublisher,
        publishing: "asyncio.Task[None]",
    ) -> None:
        last, last_at = Counts(), monotonic()
        settle_until: float | None = None
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            counts, now = await count(connection), monotonic()
            rate = (counts.stored - last.stored) / (now - last_at)
            last, last_at = counts, now
            note = self._note.removesuffix(" after")
            live.update(progress_line(publisher.books.confirmed, counts, rate, note))
            if publishing.done():
                publishing.result()
                settle_until = settle_until or now + SETTLE_SECONDS_MAX
                if await _missing(connection, traffic) == 0:
                    return
                if now > settle_until:
                    return  # the report says what is missing

    async def _report(self, traffic: Traffic, connection: asyncpg.Connection, published: int) -> None:
        counts = await count(connection)
        ledger = traffic.ledger
        console = self._console
        if self._note:
            console.print(
                f"{self._note} {KILL_AT_SHARE:.0%} of the events; what it held went to worker 2", soft_wrap=True
            )
        print_letters(console, counts)
        await print_daily(console, connection)
        missing = await _missing(connection, traffic)
        only_letter = len(ledger.ids) - counts.stored - missing
        print_totals(
            console,
            [
                ("events published and confirmed", published),
                ("of them published twice, stored once", ledger.twice),
                ("rows in ai_usage_logs", counts.stored),
                ("dead letters", counts.letters),
                ("deliveries that the dead letters stand for", counts.deliveries_dead),
            ],
        )
        console.print(
            f"The books: {len(ledger.ids):,} ids confirmed = {counts.stored:,} stored + {only_letter:,} with a dead "
            f"letter only + {missing:,} missing.",
            soft_wrap=True,
        )
        if missing or published != ledger.events:
            raise DemoError(
                f"the books do not balance: {missing} ids missing, {published} of {ledger.events} events confirmed"
            )
        console.print("[bold green]They balance: nothing lost, nothing doubled.[/]")

    async def _stop_workers(self) -> None:
        for process in self._workers:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
        for process in self._workers:
            await process.wait()


def _messages(group: Sequence[bytes]) -> list[list[bytes]]:
    """What is no JSON goes as a message of its own, as its producer would have sent it."""
    good = [body for body in group if body.endswith(b"}")]
    return ([good] if good else []) + [[body] for body in group if not body.endswith(b"}")]


async def _missing(connection: asyncpg.Connection, traffic: Traffic) -> int:
    """Ids of the ledger that are neither stored nor in a dead letter."""
    return int(
        await connection.fetchval(
            "SELECT count(*) FROM unnest($1::uuid[]) AS given(id)"
            " WHERE NOT EXISTS (SELECT FROM ai_usage_logs l WHERE l.id = given.id)"
            " AND NOT EXISTS (SELECT FROM ai_usage_dead_letters d WHERE d.event_id = given.id)",
            list(traffic.ledger.ids),
        )
    )
