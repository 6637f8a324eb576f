"""Samples: what workers, broker and database hold, asked for every few seconds from outside.

What does not answer, as it is frozen or away just then, is `None` in that sample.
"""

import asyncio
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from time import monotonic
from typing import Any
from urllib.parse import quote

import aiohttp
import asyncpg
import psutil  # type: ignore[import-untyped] # ships no types
from harness import WorkerProcess
from prometheus_client.parser import text_string_to_metric_families

from chaos.fleet import Fleet
from chaos.stage import WORKERS, Stage

EVERY_SECONDS = 5.0
ANSWER_SECONDS_MAX = 3.0
COUNTED_EVERY = 6  # samples: counting the rows of a large table is no small matter
_SILENT = (OSError, TimeoutError, HTTPException, aiohttp.ClientError, psutil.Error, AssertionError)
_SESSIONS = """
SELECT count(*) FILTER (WHERE application_name ~ (':' || $1 || '( |$)')) AS steady, count(*) AS every
FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'usage-worker%'
"""


@dataclass(slots=True)
class WorkerSample:
    """One worker. `metrics` are its own counts."""

    pid: int
    rss_bytes: int
    descriptors: int
    threads: int
    metrics: Mapping[str, float] | None = None


@dataclass(slots=True)
class Sample:
    """One moment. Sessions, connections and channels are the steady worker's, `…_of_all` those of all workers."""

    at_seconds: float
    workers: dict[str, WorkerSample] = field(default_factory=dict)
    sessions: int | None = None
    sessions_of_all: int | None = None
    connections: int | None = None
    connections_of_all: int | None = None
    channels: int | None = None
    ready: int | None = None
    unacknowledged: int | None = None
    stored: int | None = None


# The metrics that are kept, by the names that they have here.
METRICS = {
    "usage_worker_tasks": "tasks",
    "usage_worker_held_events": "held_events",
    "usage_worker_redeliveries_total": "redeliveries",
    "usage_worker_events_total": "events",
    "usage_worker_reconnects_total": "reconnects",
    "usage_worker_give_backs_total": "give_backs",
}


def metrics_of(text: str) -> dict[str, float]:
    """Out of what /metrics says; series of one name are added up."""
    found = dict.fromkeys(METRICS.values(), 0.0)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in METRICS:
                found[METRICS[sample.name]] += sample.value
    return found


class Sampler:
    """Takes samples until it is stopped.

    Args:
        stage: what is looked at.
        steady: the fleet of the worker that lives from start to end.
        begun_at: monotonic seconds.
    """

    def __init__(self, stage: Stage, steady: Fleet, begun_at: float) -> None:
        self.samples: list[Sample] = []
        self.errors: list[str] = []
        self._stage = stage
        self._fleets = {"steady": steady, "other": stage.fleet}
        self._begun_at = begun_at
        self._database: asyncpg.Connection | None = None
        self._thread = ThreadPoolExecutor(1)  # of its own: a broker that does not answer holds up no fault
        self._asking: asyncio.Future[Any] | None = None
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Go on until `stop`."""
        try:
            while not self._stop.is_set():
                due_at = monotonic() + EVERY_SECONDS
                try:
                    self.samples.append(await self.take())
                except Exception as error:  # noqa: BLE001 - it is told at the end: the run goes on
                    self.errors.append(f"a sample failed with {error!r}")
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, due_at - monotonic())):
                        await self._stop.wait()
        finally:
            self._forget_database()
            self._thread.shutdown(wait=False, cancel_futures=True)

    def stop(self) -> None:
        """No further sample."""
        self._stop.set()

    async def take(self) -> Sample:
        """One sample."""
        sample = Sample(round(monotonic() - self._begun_at, 2))
        await asyncio.gather(self._look_at_workers(sample), self._look_at_postgres(sample))
        await self._look_at_rabbitmq(sample)
        return sample

    async def _look_at_workers(self, sample: Sample) -> None:
        for role, fleet in self._fleets.items():
            for worker in fleet.running[:1]:
                with suppress(*_SILENT):
                    process = psutil.Process(worker.pid)
                    with process.oneshot():
                        sample.workers[role] = WorkerSample(
                            worker.pid, process.memory_info().rss, process.num_fds(), process.num_threads()
                        )
                    sample.workers[role].metrics = await _metrics(worker)

    async def _look_at_postgres(self, sample: Sample) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                if self._database is None:
                    self._database = await asyncpg.connect(self._stage.dsn)
                row = await self._database.fetchrow(_SESSIONS, self._pid())
                assert row is not None
                sample.sessions, sample.sessions_of_all = row["steady"], row["every"]
                if len(self.samples) % COUNTED_EVERY == 0:
                    sample.stored = await self._database.fetchval("SELECT count(*) FROM ai_usage_logs")
        except (*_SILENT, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._forget_database()

    async def _look_at_rabbitmq(self, sample: Sample) -> None:
        if self._asking is not None and not self._asking.done():
            return  # it has not answered the last sample yet
        self._asking = asyncio.get_running_loop().run_in_executor(self._thread, self._ask_rabbitmq)
        with suppress(*_SILENT):
            queue, connections = await asyncio.wait_for(asyncio.shield(self._asking), ANSWER_SECONDS_MAX)
            sample.ready, sample.unacknowledged = queue.get("messages_ready"), queue.get("messages_unacknowledged")
            ours = [connection for connection in connections if connection.get("user") == WORKERS]
            steady = [connection for connection in ours if _is_of(connection, self._pid())]
            sample.connections_of_all, sample.connections = len(ours), len(steady)
            sample.channels = sum(connection.get("channels", 0) for connection in steady)

    def _ask_rabbitmq(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        manage = self._stage.rabbitmq.manage
        queue = manage("GET", f"/api/queues/%2F/{quote(self._stage.settings.queue, safe='')}")
        return queue, manage("GET", "/api/connections")

    def _pid(self) -> str:
        running = self._fleets["steady"].running
        return str(running[0].pid) if running else "nobody"

    def _forget_database(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.terminate()


async def _metrics(worker: WorkerProcess) -> dict[str, float] | None:
    """What it says of itself, where it answers in time."""
    with suppress(*_SILENT):
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            _, text = await worker.get("/metrics")
            return metrics_of(text)
    return None


def _is_of(connection: Mapping[str, Any], pid: str) -> bool:
    """Whether a worker's process has opened a connection: it says so in its name."""
    name = str(connection.get("client_properties", {}).get("connection_name", ""))
    return re.search(rf":{pid}\b", name) is not None
