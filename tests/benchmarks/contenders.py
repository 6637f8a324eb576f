"""What is measured: the worker, and the ceilings beside it. Each takes a backlog and says how fast it was."""

import asyncio
import contextlib
import os
import re
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import asyncpg

from benchmarks.workload import COLUMNS

BATCH_ROWS = 5000
DRAIN_SECONDS_MAX = 180.0
_SETTLED = re.compile(r'^usage_worker_events_total\{outcome="\w+"\} (\S+)', re.MULTILINE)


@dataclass(slots=True, frozen=True)
class Reading:
    """One run: how many events a second, and what the process used."""

    events_per_second: float
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0


@contextlib.asynccontextmanager
async def worker_process(environment: dict[str, str]) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """A running worker and its HTTP port; stopped with SIGTERM at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", "run",
        env=os.environ | environment | {"USAGE_HTTP_PORT": "0", "USAGE_LOG_FORMAT": "json"},
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    port = 0
    while not port:
        line = await process.stderr.readline()
        if not line:
            raise RuntimeError(f"the worker ended with {await process.wait()}")
        found = re.search(rb'"port": (\d+)', line)
        port = int(found[1]) if found else 0
    drain = asyncio.create_task(process.stderr.read())
    try:
        yield process, port
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()
        await drain


async def run_worker(environment: dict[str, str], events: int) -> Reading:
    """Start a worker on a backlog; from its first settled batch to its last event."""
    async with worker_process(environment) as (process, port):
        first_at, first = 0.0, 0
        async with asyncio.timeout(DRAIN_SECONDS_MAX):
            while True:
                settled = await asyncio.to_thread(_settled, port)
                now = perf_counter()
                if settled and not first_at:
                    first_at, first = now, settled
                if settled >= events:
                    break
                await asyncio.sleep(0.02)
        cpu_seconds, peak = _used(process.pid)
    return Reading((events - first) / max(1e-9, now - first_at), cpu_seconds, peak)


def _used(pid: int) -> tuple[float, int]:
    """CPU seconds and the peak of resident memory in bytes, by the kernel's own accounts."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    times = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    cpu_seconds = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
    return cpu_seconds, int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _settled(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return int(sum(float(value) for value in _SETTLED.findall(answer.read().decode())))


async def run_plain_copy(dsn: str, rows: Sequence[tuple[Any, ...]], connections: int) -> Reading:
    """Nothing but COPY into the same table: no broker, no validation, no deduplication."""
    pool = [await asyncpg.connect(dsn) for _ in range(connections)]
    batches = [rows[start : start + BATCH_ROWS] for start in range(0, len(rows), BATCH_ROWS)]
    batches.reverse()

    async def work(connection: asyncpg.Connection) -> None:
        while batches:
            await connection.copy_records_to_table("ai_usage_logs", records=batches.pop(), columns=COLUMNS)

    try:
        begun_at = perf_counter()
        await asyncio.gather(*(work(connection) for connection in pool))
        return Reading(len(rows) / (perf_counter() - begun_at))
    finally:
        for connection in pool:
            await connection.close()


async def run_consumer(amqp_url: str, queue: str, messages: int) -> Reading:
    """A consumer on aio-pika that does nothing but acknowledge every thousandth message, with all before it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).with_name("idle_consumer.py")), amqp_url, queue, str(messages),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await asyncio.wait_for(process.communicate(), DRAIN_SECONDS_MAX)
    return Reading(float(output))
