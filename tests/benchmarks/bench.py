"""One run's ground (servers, people, topology) and the ways to measure on it: a backlog, and a steady rate."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time
from typing import TypeVar
from uuid import uuid4

import asyncpg
from rich.console import Console

from benchmarks.backlog import declare_queue, fill_queue
from benchmarks.contenders import WORKER, Peer, Place
from benchmarks.database import Database, rate_of
from benchmarks.processes import Contender, run_to_end, running
from benchmarks.servers import settings_of
from benchmarks.sheet import Sheet
from benchmarks.sizes import Sizes
from benchmarks.workload import People, Totals, Workload, make_workload
from worker.demo.servers import Servers
from worker.postgres.migrations import migrate
from worker.postgres.session import connect as connect_pinned
from worker.rabbitmq.connection import connect as connect_broker
from worker.rabbitmq.topology import ensure_topology
from worker.settings import load_settings

MIB = 2**20
Figures = dict[str, float]
T = TypeVar("T")


class Bench:
    """Measures, and notes it on a sheet.

    Args:
        place: servers, exchange and queue.
        database: the table.
        people: whose events.
        sizes: how much of everything.
        sheet: where figures go.
        console: where progress goes.
        beside: opens another bench on the same servers and sheet, whose table is empty.
    """

    def __init__(
        self,
        place: Place,
        database: Database,
        people: People,
        sizes: Sizes,
        sheet: Sheet,
        console: Console,
        beside: Callable[[], AbstractAsyncContextManager["Bench"]],
    ) -> None:
        self.place = place
        self.database = database
        self.people = people
        self.sizes = sizes
        self.beside = beside
        self._sheet = sheet
        self._console = console

    def make(self, events: int, events_per_message: int = 1) -> Workload:
        """A clean backlog."""
        return make_workload(self.people, events, events_per_message)

    def note(self, question: str, contender: str, case: float | str = "", /, **figures: float) -> None:
        """Note the figures of one round, and show them."""
        self._sheet.note(question, contender, case, **figures)
        shown = ", ".join(f"{name} {value:,.4g}" for name, value in figures.items())
        self._console.print(f"{question}: {contender} {case}: {shown}", highlight=False, soft_wrap=True)

    async def drain(
        self, workload: Workload, peer: Peer = WORKER, *, processes: int = 1, keeps_rows: bool = False
    ) -> Figures:
        """Let a contender drain a backlog, and check what became of it."""
        if not keeps_rows:
            await self.database.reset()
        await self._fill(workload, peer)
        await self.database.settle_down()
        begun_at = time()
        async with self._started(peer, processes) as contenders:
            await _unless_ended(contenders, self.database.until_a_row(workload.first_ids()))
            sampled_at, cpu_begun = time(), _cpu_seconds(contenders)
            await _unless_ended(contenders, self.database.until_rows(workload.witnesses()))
            await _unless_ended(contenders, self.database.require(workload.totals, workload.begin, workload.refused))
            cpu_seconds = _cpu_seconds(contenders) - cpu_begun
            peak_bytes = sum(contender.peak_memory_bytes() for contender in contenders)
        commits = await self.database.commits(workload.begin)
        share_stored = len(workload.stored) / workload.events
        rows_after = sum(commit.rows for commit in commits if commit.committed_at > sampled_at)
        return {
            "events_per_second": rate_of(commits, share_stored),
            "cpu_us_per_event": cpu_seconds / max(1.0, rows_after / share_stored) * 1e6,
            "peak_memory_mib": peak_bytes / MIB,
            "start_to_commit_seconds": commits[0].committed_at - begun_at,
        }

    async def inside(self, workload: Workload, work: Awaitable[float], *, keeps_rows: bool = False) -> Figures:
        """Let this process write the rows itself; `work` gives its CPU seconds."""
        if not keeps_rows:
            await self.database.reset()
        await self.database.settle_down()
        cpu_seconds = await work
        await self.database.require(workload.totals, workload.begin)
        commits = await self.database.commits(workload.begin)
        return {
            "events_per_second": rate_of(commits),
            "cpu_us_per_event": cpu_seconds / workload.events * 1e6,
        }

    async def consume_idly(self, library: str, workload: Workload) -> Figures:
        """Let a consumer that does nothing take a backlog."""
        await self._fill(workload, WORKER)
        arguments = [library, self.place.amqp_url, self.place.queue, str(len(workload.bodies))]
        return await run_to_end(["benchmarks.peers.idle", *arguments])

    async def publish_steadily(self, rate: float, seconds: float) -> tuple[Figures, datetime]:
        """Publish single events at a steady rate to one worker that is running warm; what the publisher says."""
        await self.database.reset()
        warm_up = self.make(self.sizes.start_up)
        await self._fill(warm_up, WORKER)
        async with self._started(WORKER, 1) as contenders:
            await _unless_ended(contenders, self.database.until_rows(warm_up.witnesses()))
            await self.database.require(warm_up.totals, warm_up.begin)
            await self.database.settle_down()
            begin = datetime.now(UTC)
            with TemporaryDirectory() as folder:
                people_file = Path(folder) / "people.json"
                people_file.write_text(json.dumps([[str(one) for one in ids] for ids in self.people]))
                arguments = [self.place.amqp_url, self.place.exchange, str(people_file), str(rate), str(seconds)]
                report = await _unless_ended(contenders, run_to_end(["benchmarks.peers.paced_publisher", *arguments]))
            await _unless_ended(contenders, self.database.require(_totals(report), begin))
        return report, begin

    async def _fill(self, workload: Workload, peer: Peer) -> None:
        place = self._place_of(peer)
        if peer.has_own_queue:
            await declare_queue(place.amqp_url, place.queue)
        await fill_queue(
            place.amqp_url,
            [peer.wrap(body) for body in workload.bodies],
            exchange="" if peer.has_own_queue else place.exchange,
            routing_key=place.queue if peer.has_own_queue else "usage.recorded",
            queue=place.queue,
            properties_of=peer.properties_of,
        )

    def _place_of(self, peer: Peer) -> Place:
        return self.place._replace(queue=f"{self.place.queue}.own") if peer.has_own_queue else self.place

    @asynccontextmanager
    async def _started(self, peer: Peer, processes: int) -> AsyncIterator[list[Contender]]:
        place = self._place_of(peer)
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(running(peer.command(place), peer.environment(place)))
                for _ in range(processes)
            ]


@asynccontextmanager
async def open_bench(given: Servers, sizes: Sizes, sheet: Sheet, console: Console) -> AsyncIterator[Bench]:
    """A database of the run's own with people, and an exchange and a queue; the database is dropped at the end."""
    name = f"bench-{uuid4().hex[:8]}"
    dsn = await asyncio.to_thread(given.postgres.create_database, name)
    settings = load_settings(
        amqp_url=given.amqp_url, postgres_dsn=dsn, exchange=name, queue=f"{name}.events", http_port=0
    )
    pinned = await connect_pinned(dsn, settings.postgres_schema, name="bench")
    await migrate(pinned, settings.postgres_schema)
    await pinned.close()
    broker = await connect_broker(settings, "bench")
    await ensure_topology(broker, settings)
    await broker.close()
    connection = await asyncpg.connect(dsn)
    try:
        sheet.about["postgres_settings"] = await settings_of(connection)
        sheet.about["postgres"] = str(await connection.fetchval("SHOW server_version"))
        sheet.about["rabbitmq"] = given.rabbitmq.version
        database = Database(connection, dsn)
        people = await database.make_people()
        beside = partial(open_bench, given, sizes, sheet, console)
        place = Place(given.amqp_url, name, settings.queue, dsn)
        yield Bench(place, database, people, sizes, sheet, console, beside)
    finally:
        await connection.close()
        await asyncio.to_thread(given.postgres.drop_database, name)


async def _unless_ended(contenders: Sequence[Contender], awaited: Awaitable[T]) -> T:
    """What comes of `awaited`; a contender that ends before is a failure."""
    watched = asyncio.ensure_future(awaited)
    ends = [asyncio.create_task(contender.wait()) for contender in contenders]
    try:
        done, _ = await asyncio.wait([watched, *ends], return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            if end in done:
                end.result()
        return await watched
    finally:
        for task in (watched, *ends):
            task.cancel()
        await asyncio.gather(watched, *ends, return_exceptions=True)


def _cpu_seconds(contenders: Sequence[Contender]) -> float:
    return sum(contender.cpu_seconds() for contender in contenders)


def _totals(report: Figures) -> Totals:
    return Totals.of(*(int(report[name]) for name in ("messages", "input_tokens", "output_tokens")))
