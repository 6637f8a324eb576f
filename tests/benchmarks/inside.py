"""Ceilings, and a function call for each event, on connections of the bench's own process: no broker, no validation.

The bench runs on uvloop too, and does nothing else meanwhile.
"""

import asyncio
import gc
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import process_time
from uuid import UUID

import asyncpg

from benchmarks.workload import COLUMNS, Workload

BATCH_ROWS = 5000
SEED_CONNECTIONS = 10
_SEED = "SELECT log_ai_usage($1, $2, $3, $4, $5, $6, $7, $8, $9)"

Job = Callable[[asyncpg.Connection], Awaitable[object]]


async def plain_copy(dsn: str, workload: Workload, connections: int) -> float:
    """COPY of the rows into the table in batches as the worker's; CPU seconds of this process."""
    rows = workload.rows()

    def job_at(start: int) -> Job:
        batch = rows[start : start + BATCH_ROWS]
        return lambda connection: connection.copy_records_to_table("ai_usage_logs", records=batch, columns=COLUMNS)

    return await _share(dsn, [job_at(start) for start in range(0, len(rows), BATCH_ROWS)], connections)


async def seed_function(dsn: str, workload: Workload) -> float:
    """`log_ai_usage()`, a call and a commit for each event; CPU seconds of this process."""

    def job_of(event: dict[str, object]) -> Job:
        spent, came = int(str(event["input_tokens"])), int(str(event["output_tokens"]))
        arguments = (
            UUID(str(event["user_id"])), UUID(str(event["organization_id"])), spent + came, spent, came,
            event["endpoint"], event["model"], event["request_type"], json.dumps(event["request_metadata"]),
        )  # fmt: skip
        return lambda connection: connection.fetchval(_SEED, *arguments)

    return await _share(dsn, [job_of(event) for event in workload.stored], SEED_CONNECTIONS)


async def copy_encoding(dsn: str, workload: Workload) -> float:
    """CPU seconds that asyncpg takes in this process to encode the rows for COPY and send them.

    They go to a temporary table without indexes or keys; what the server spends is not counted.
    """
    rows = workload.rows()
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("CREATE TEMPORARY TABLE stage (LIKE ai_usage_logs)")
        with _no_collections():
            begun = process_time()
            for start in range(0, len(rows), BATCH_ROWS):
                await connection.copy_records_to_table(
                    "stage", records=rows[start : start + BATCH_ROWS], columns=COLUMNS
                )
            return process_time() - begun
    finally:
        await connection.close()


@contextmanager
def _no_collections() -> Iterator[None]:
    """No garbage collection meanwhile: this process holds the whole backlog, which a service would not."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def _share(dsn: str, jobs: list[Job], connections: int) -> float:
    """Let the connections take job after job; CPU seconds of this process."""
    pool = [await asyncpg.connect(dsn) for _ in range(connections)]
    waiting = deque(jobs)

    async def work(connection: asyncpg.Connection) -> None:
        while waiting:
            await waiting.popleft()(connection)

    try:
        with _no_collections():
            begun = process_time()
            async with asyncio.TaskGroup() as group:
                for connection in pool:
                    group.create_task(work(connection))
            return process_time() - begun
    finally:
        for connection in pool:
            await connection.close()
