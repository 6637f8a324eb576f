"""`make bench`: the headline rates, each beside its ceiling, interleaved in one run; rows are counted after each."""

import argparse
import asyncio
import json
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import asyncpg
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import Reading, run_consumer, run_plain_copy, run_worker
from benchmarks.workload import People, fill_queue, make_events, make_people, messages_of, rows_of
from worker.demo.servers import servers
from worker.postgres.migrations import migrate
from worker.postgres.session import connect as connect_pinned
from worker.rabbitmq.source import connect as connect_broker
from worker.rabbitmq.topology import ensure_topology
from worker.settings import Settings, load_settings

SINGLE_EVENTS = 150_000
ARRAY_EVENTS = 600_000
MEMORY_EVENTS = (5_000, 500_000)


class Bench:
    """One run against one pair of servers."""

    def __init__(self, settings: Settings, console: Console) -> None:
        self.settings = settings
        self.console = console
        self.dsn = settings.postgres_dsn.get_secret_value()
        self.amqp_url = settings.amqp_url.get_secret_value()
        self.readings: dict[str, list[Reading]] = {}
        self.people = People([], [])
        self.environment = {
            "USAGE_AMQP_URL": self.amqp_url,
            "USAGE_POSTGRES_DSN": self.dsn,
            "USAGE_EXCHANGE": settings.exchange,
            "USAGE_QUEUE": settings.queue,
        }

    async def prepare(self) -> None:
        """Schema, people, exchange and queues."""
        connection = await connect_pinned(self.dsn, self.settings.postgres_schema, name="bench")
        await migrate(connection, self.settings.postgres_schema)
        await connection.close()
        self.people = await make_people(self.dsn)
        broker = await connect_broker(self.settings, "bench")
        await ensure_topology(broker, self.settings)
        await broker.close()

    async def worker(self, name: str, count: int, events_per_message: int) -> None:
        """Fill the queue, let one worker drain it, count the rows."""
        await self._truncate()
        events = make_events(self.people, count, seed=count)
        bodies = messages_of(events, events_per_message)
        await fill_queue(self.amqp_url, self.settings.exchange, self.settings.queue, bodies)
        del events, bodies
        self._note(name, await run_worker(self.environment, count))
        await self._require_rows(count)

    async def consumer(self, name: str, count: int) -> None:
        """The same single messages for a consumer that does nothing."""
        bodies = messages_of(make_events(self.people, count, seed=count), 1)
        await fill_queue(self.amqp_url, self.settings.exchange, self.settings.queue, bodies)
        self._note(name, await run_consumer(self.amqp_url, self.settings.queue, count))

    async def copy(self, name: str, count: int, connections: int) -> None:
        """The same rows, by COPY alone."""
        await self._truncate()
        rows = rows_of(make_events(self.people, count, seed=count))
        self._note(name, await run_plain_copy(self.dsn, rows, connections))
        await self._require_rows(count)

    def _note(self, name: str, reading: Reading) -> None:
        self.readings.setdefault(name, []).append(reading)
        self.console.print(f"{name}: {reading.events_per_second:,.0f} events/s")

    async def _truncate(self) -> None:
        await self._sql("TRUNCATE ai_usage_logs")

    async def _require_rows(self, count: int) -> None:
        stored = await self._sql("SELECT count(*) FROM ai_usage_logs")
        if stored != count:
            raise RuntimeError(f"{count} events were sent and {stored} rows are stored: the figure is no figure")

    async def _sql(self, statement: str) -> int:
        connection = await asyncpg.connect(self.dsn)
        try:
            return int(await connection.fetchval(statement) or 0)
        finally:
            await connection.close()


SINGLE, ARRAYS = "worker, one event a message", "worker, 100 events a message"
IDLE = "do-nothing aio-pika consumer, one event a message"
COPY_1, COPY_2 = "plain COPY, one connection", "plain COPY, two connections"
RATIOS = (
    (SINGLE, IDLE),
    (SINGLE, COPY_1),
    (ARRAYS, COPY_1),
    (ARRAYS, COPY_2),
)


async def measure(bench: Bench, rounds: int) -> None:
    """All contenders in turn, `rounds` times: what drifts on the machine hits all alike."""
    await bench.prepare()
    for _ in range(rounds):
        await bench.worker(SINGLE, SINGLE_EVENTS, 1)
        await bench.consumer(IDLE, SINGLE_EVENTS)
        await bench.worker(ARRAYS, ARRAY_EVENTS, 100)
        await bench.copy(COPY_1, ARRAY_EVENTS, 1)
        await bench.copy(COPY_2, ARRAY_EVENTS, 2)
    for count in MEMORY_EVENTS:
        await bench.worker(memory_name(count), count, 1)


def memory_name(count: int) -> str:
    """The name of the run that shows memory at a backlog of so many events."""
    return f"worker, backlog of {count:,}"


def report(bench: Bench, console: Console) -> dict[str, object]:
    """Print the tables; the same as an object."""
    table = Table("what", "events/s, median", "min", "max", "CPU µs an event", title="rates")
    medians = {}
    for name, readings in bench.readings.items():
        rates = [reading.events_per_second for reading in readings]
        medians[name] = statistics.median(rates)
        events = SINGLE_EVENTS if name == SINGLE else ARRAY_EVENTS
        cpu = statistics.median(reading.cpu_seconds for reading in readings) / events * 1e6
        shown = f"{cpu:.1f}" if name in (SINGLE, ARRAYS) else ""
        table.add_row(name, f"{medians[name]:,.0f}", f"{min(rates):,.0f}", f"{max(rates):,.0f}", shown)
    ratios = Table("worker", "beside", "ratio of medians", title="ratios")
    for ours, theirs in RATIOS:
        ratios.add_row(ours, theirs, f"{medians[ours] / medians[theirs]:.2f}")
    memory = Table("backlog, events", "peak memory of the worker, MiB", title="memory")
    for count in MEMORY_EVENTS:
        memory.add_row(f"{count:,}", f"{bench.readings[memory_name(count)][0].peak_memory_bytes / 2**20:.1f}")
    console.print(table, ratios, memory)
    return {
        "machine": {"python": platform.python_version(), "system": platform.platform()},
        "readings": {
            name: [
                {
                    "events_per_second": reading.events_per_second,
                    "cpu_seconds": reading.cpu_seconds,
                    "peak_memory_bytes": reading.peak_memory_bytes,
                }
                for reading in readings
            ]
            for name, readings in bench.readings.items()
        },
        "ratios": [[ours, theirs, medians[ours] / medians[theirs]] for ours, theirs in RATIOS],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Start servers, measure, report."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the readings to this file")
    options = parser.parse_args(arguments)
    console = Console(file=sys.stdout)
    name = f"bench-{uuid4().hex[:8]}"
    with servers() as given:
        settings = load_settings(
            amqp_url=given.amqp_url, postgres_dsn=given.postgres_dsn, exchange=name, queue=f"{name}.events"
        )
        bench = Bench(settings, console)
        asyncio.run(measure(bench, options.rounds))
    result = report(bench, console)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
