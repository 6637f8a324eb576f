"""`python -m benchmarks.data_life`: what retention and partitions cost, and how long a worker stands still for them.

A large table, a worker that stores what is published all the time, and each command beside it in turn. The longest
stall is the longest time in which the worker's counters did not move. At the end each confirmed id is looked for.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from dividing import NEXT, id_of, owner_session
from harness import ORGANIZATION, USER, System, event, message, until
from harness.worker import COMMAND, WorkerProcess
from usage_events.ids import uuid7

from worker.demo.servers import servers
from worker.postgres.migrations import migrate
from worker.postgres.partitions.drop import drop, find_due
from worker.retention.months import Month

POLL_SECONDS = 0.02
IDLE_SECONDS, QUICK_IDLE_SECONDS = 15.0, 1.0
STEADY_EVENTS = 50  # in a message, each tenth of a second
DRAIN_MESSAGES, QUICK_DRAIN_MESSAGES, DRAIN_EVENTS = 1000, 20, 100
OLD_MONTHS, KEPT_MONTHS = 14, 13
LOOKED_UP = 2000
ROUNDS = 3

# UUIDv7s of the last months, and one in ten random; three users share them.
FILL = """
INSERT INTO ai_usage_logs (id, user_id, organization_id, tokens_used, input_tokens, output_tokens, endpoint, model,
                           request_type, estimated_cost_usd, created_at)
SELECT CASE WHEN n % 10 = 0 THEN gen_random_uuid() ELSE (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12,
       '0') || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid END,
       CASE n % 150 WHEN 1 THEN $8::uuid WHEN 2 THEN $9::uuid ELSE $1::uuid END, $2, 120, 100, 20, '/v1/chat',
       'test-model', 'chat', 0.00016, at
FROM generate_series($3::bigint, $4::bigint) n,
     LATERAL (SELECT $5::timestamptz + n / $7::float8 * ($6::timestamptz - $5) AS at) when_
"""
INDEXES = "SELECT indexname AS name, indexdef AS sql FROM pg_indexes WHERE tablename = 'ai_usage_logs'"
KEYS = """
SELECT conname AS name, pg_get_constraintdef(oid) AS sql FROM pg_constraint
WHERE conrelid = 'ai_usage_logs'::regclass AND contype IN ('p', 'f') ORDER BY contype DESC
"""
MONTH_ROWS = """
INSERT INTO ai_usage_logs (id, user_id, organization_id, created_at)
SELECT (lpad(to_hex($3::bigint + n / 1000), 12, '0') || '7' || lpad(to_hex(n % 1000), 3, '0') || '8'
        || substr(md5(n::text), 1, 15))::uuid, $1, $2, now() FROM generate_series(1, $4::int) n
"""
MISSING = (
    "SELECT count(*) FROM unnest($1::uuid[]) g (id) WHERE NOT EXISTS (SELECT FROM ai_usage_logs l WHERE l.id = g.id)"
)
DOUBLED = """
SELECT count(*) FROM (SELECT l.id FROM unnest($1::uuid[]) g (id) JOIN ai_usage_logs l USING (id)
                      GROUP BY 1 HAVING count(*) > 1) twice
"""


class Life:
    """The system, what is published into it, and the figures."""

    def __init__(self, system: System, owner: asyncpg.Connection, rows: int, *, is_quick: bool) -> None:
        self.system = system
        self.owner = owner
        self.rows = rows
        self.drained = (QUICK_DRAIN_MESSAGES if is_quick else DRAIN_MESSAGES) * DRAIN_EVENTS
        self.idle_seconds = QUICK_IDLE_SECONDS if is_quick else IDLE_SECONDS
        self.leaving = [uuid4(), uuid4()]  # users, each with one row in 150, all over the table
        self.rounds = 1 if is_quick else ROUNDS
        self.worker: WorkerProcess
        self.figures: dict[str, Any] = {"rows": rows}

    def note(self, **figures: float) -> None:
        """Note and show."""
        rounded = {name: round(value, 4) for name, value in figures.items()}
        self.figures |= rounded
        sys.stderr.write(f"{datetime.now(UTC):%H:%M:%S} {rounded}\n")

    async def fill(self) -> None:
        """The large table; its indexes and keys are made afterwards, which takes a quarter of the time."""
        database = self.system.database
        indexes, keys = await database.fetch(INDEXES), await database.fetch(KEYS)
        for key in keys:
            await database.execute(f"ALTER TABLE ai_usage_logs DROP CONSTRAINT {key['name']}")
        named = {key["name"] for key in keys}
        for index in indexes:
            if index["name"] not in named:
                await database.execute(f"DROP INDEX {index['name']}")
        await database.executemany("INSERT INTO users VALUES ($1)", [(one,) for one in self.leaving])
        since, until = NEXT.plus(-OLD_MONTHS - 1).start, datetime.now(UTC) - timedelta(days=1)
        for start in range(0, self.rows, 1_000_000):
            end = min(start + 1_000_000, self.rows) - 1
            given = (USER, ORGANIZATION, start, end, since, until, self.rows, *self.leaving)
            await database.execute(FILL, *given, timeout=600)
        await database.execute("SET maintenance_work_mem = '1GB'; SET max_parallel_maintenance_workers = 2")
        for statement in [f"ALTER TABLE ai_usage_logs ADD CONSTRAINT {one['name']} {one['sql']}" for one in keys] + [
            one["sql"] for one in indexes if one["name"] not in named
        ]:
            await database.execute(statement, timeout=1800)
        await database.execute("VACUUM ANALYZE ai_usage_logs", timeout=1800)
        self.note(table_gb=await self.system.value("SELECT pg_total_relation_size('ai_usage_logs')") / 1e9)

    @asynccontextmanager
    async def beside(self, name: str) -> AsyncIterator[None]:
        """While a steady stream is stored: how long the body takes, and the longest stall of the worker in it."""
        stop, stall = asyncio.Event(), 0.0

        async def publish() -> None:
            while not stop.is_set():
                await self.system.publish(message(*(event(id=str(uuid7())) for _ in range(STEADY_EVENTS))))
                await asyncio.sleep(0.1)

        async def watch() -> None:
            nonlocal stall
            count, moved_at = -1.0, perf_counter()
            while not stop.is_set():
                found = await self.worker.metric("events_total")
                if found != count:
                    count, moved_at = found, perf_counter()
                stall = max(stall, perf_counter() - moved_at)
                await asyncio.sleep(POLL_SECONDS)

        tasks = [asyncio.create_task(publish())]
        await asyncio.sleep(2)
        tasks.append(asyncio.create_task(watch()))
        begun_at = perf_counter()
        yield
        seconds = perf_counter() - begun_at
        await asyncio.sleep(2)
        stop.set()
        await asyncio.gather(*tasks)
        self.note(**{f"{name}_seconds": seconds, f"{name}_longest_stall_seconds": stall})

    async def drain(self, name: str, month: Month | None = None, rounds: int | None = None) -> float:
        """Events a second from a backlog that is there, the middle one of some rounds; ids of now, or of a month."""
        rates = []
        for one in range(rounds or self.rounds):
            ids = [] if month is None else [id_of(month, one * self.drained + number) for number in range(self.drained)]
            rates.append(await self._drain_once(ids))
        rate = median(rates)
        self.note(**{f"{name}_events_per_second": rate})
        return rate

    async def _drain_once(self, ids: Sequence[UUID]) -> float:
        given = [str(one) for one in ids] or [str(uuid7()) for _ in range(self.drained)]
        bodies = [
            message(*(event(id=one) for one in given[start : start + DRAIN_EVENTS]))
            for start in range(0, len(given), DRAIN_EVENTS)
        ]
        await self._until_idle()
        self.worker.send_signal(signal.SIGSTOP)
        await self.system.publish(*bodies)
        self.worker.send_signal(signal.SIGCONT)
        begun_at = perf_counter()
        await self._until_idle()
        return len(given) / (perf_counter() - begun_at)

    async def _until_idle(self) -> None:
        """Until the worker has counted every event that was ever published."""

        async def is_idle() -> bool:
            return await self.worker.metric("events_total") >= len(self.system.ledger.confirmed)

        await until(is_idle, "the worker has settled everything", seconds_max=600)

    async def command(self, *arguments: str) -> None:
        """A command of the operator's, to its end."""
        process = await asyncio.create_subprocess_exec(
            COMMAND, *arguments, env=os.environ | self.system.environment(), stdout=sys.stderr, stderr=sys.stderr
        )
        if await process.wait():
            raise RuntimeError(f"{arguments} ended with {process.returncode}")

    async def look_up(self, name: str) -> None:
        """Milliseconds to find a row by its id, in a session like the worker's."""
        ids = await self.owner.fetch(f"SELECT id FROM ai_usage_logs TABLESAMPLE SYSTEM (0.05) LIMIT {LOOKED_UP}")
        begun_at = perf_counter()
        for (one,) in ids:
            await self.owner.fetchval("SELECT tokens_used FROM ai_usage_logs WHERE id = $1", one)
        self.note(**{f"find_{name}_ms": (perf_counter() - begun_at) * 1000 / max(len(ids), 1)})


async def measure_deletions(life: Life) -> None:
    """A user who goes by the host's cascade alone, and one who is erased first; then what is old."""
    user, other = life.leaving
    rows = await life.system.value("SELECT count(*) FROM ai_usage_logs WHERE user_id = $1", user)
    life.note(rows_of_a_user=float(rows))
    async with life.beside("cascade_alone"):
        await life.system.database.execute("DELETE FROM users WHERE id = $1", user, timeout=600)
    async with life.beside("erase"):
        await life.command("dead-letters", "erase", "--user", str(other), "--yes")
    async with life.beside("cascade_after_erase"):
        await life.system.database.execute("DELETE FROM users WHERE id = $1", other, timeout=600)
    old = await life.system.value(
        "SELECT count(*) FROM ai_usage_logs WHERE created_at < $1", NEXT.plus(-KEPT_MONTHS - 1).start
    )
    alone = await life.drain("drain_alone")
    begun_at = perf_counter()
    retain = asyncio.create_task(life.command("retain", "--older-than", str(KEPT_MONTHS), "--yes"))
    await asyncio.sleep(1)
    beside = await life.drain("drain_beside_retain", rounds=1)
    life.note(drain_ratio_beside_retain=beside / alone, retain_was_done=float(retain.done()))
    async with life.beside("retain_rest"):
        await retain
        seconds = perf_counter() - begun_at
    life.note(retained_rows=float(old), retained_rows_per_second=old / seconds)


async def measure_partitions(life: Life) -> None:
    """Dividing the table, months ahead, and a month that goes."""
    before = await life.drain("drain_plain")
    await life.look_up("plain")
    async with life.beside("enable"):
        await life.command("partitions", "enable", "--ahead", "1")
    async with life.beside("ensure"):
        await life.command("partitions", "ensure", "--ahead", "4")
    await life.look_up("divided")
    after = await life.drain("drain_default_partition")
    month = await life.drain("drain_month_partition", NEXT)
    life.note(ratio_default_partition=after / before, ratio_month_partition=month / before)
    rows = min(life.rows // 14, 1_500_000)
    first_ms = round(NEXT.plus(1).start.timestamp()) * 1000
    await life.system.database.execute(MONTH_ROWS, USER, ORGANIZATION, first_ms, rows, timeout=600)
    first_kept = NEXT.plus(2)
    async with life.beside("drop"):
        begun_at = perf_counter()
        due = await find_due(life.owner, first_kept)
        life.note(drop_counting_seconds=perf_counter() - begun_at)
        begun_at = perf_counter()
        _ = [one async for one in drop(life.owner, due, first_kept)]
        life.note(drop_only_seconds=perf_counter() - begun_at, dropped_rows=float(sum(one.rows for one in due)))


async def check(life: Life) -> None:
    """Each confirmed id is there, once."""
    await life.system.settle(seconds_max=300)
    confirmed = [one for one in life.system.ledger.confirmed if one < NEXT.first_id]  # the others were dropped
    life.note(
        confirmed=float(len(confirmed)),
        missing=float(await life.system.value(MISSING, confirmed)),
        doubled=float(await life.system.value(DOUBLED, confirmed)),
        letters=float(await life.system.value("SELECT count(*) FROM ai_usage_dead_letters")),
    )


async def measure(dsn: str, amqp_url: str, rows: int, folder: Path, *, is_quick: bool) -> dict[str, Any]:
    """Everything, in a database and queues of its own."""
    owner = await owner_session(dsn)
    await migrate(owner, "public")
    unique = uuid4().hex[:8]
    try:
        async with System(dsn, amqp_url, exchange=f"life-{unique}", queue=f"life-{unique}.q", folder=folder) as system:
            life = Life(system, owner, rows, is_quick=is_quick)
            await life.fill()
            life.worker = await system.start_worker()
            async with life.beside("idle"):
                await asyncio.sleep(life.idle_seconds)
            steps: Sequence[Awaitable[None]] = (measure_deletions(life), measure_partitions(life), check(life))
            for step in steps:
                await step
            await system.delete()
            return life.figures
    finally:
        await owner.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Start servers, measure, report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_life", description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--quick", action="store_true", help="to see that it works, not for figures")
    parser.add_argument("--json", type=Path, help="write all figures to this file, too")
    options = parser.parse_args(arguments)
    with servers() as given, TemporaryDirectory() as folder:
        dsn = given.postgres.create_database(f"life_{uuid4().hex[:8]}")
        figures = asyncio.run(measure(dsn, given.amqp_url, options.rows, Path(folder), is_quick=options.quick))
    text = json.dumps(figures, indent=1) + "\n"
    sys.stdout.write(text)
    if options.json:
        options.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
