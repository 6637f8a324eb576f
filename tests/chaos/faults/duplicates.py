"""Everything is published several times at once, and Postgres serialises the workers that store it."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg
from harness import until

from chaos.load import Load
from chaos.registry import fault
from chaos.stage import Stage

KILLS = 3
ROWS_MORE = 600  # are stored after each
WORKERS = 4
# Each producer in messages of another size, so that the same events meet in batches of other events.
LOAD = Load(producers=4, rate=300, sizes=((1,), (10,), (50,), (100,)), same_events=True)
ENVIRONMENT = {"USAGE_WRITERS": "2"}
LEVELS = ("serializable", "repeatable read")
CANNOT_SERIALISE = "SQLSTATE 40001"
FAILS_SECONDS_MAX = 60.0


@fault(
    "published twice at once",
    load=LOAD,
    workers=WORKERS,
    environment=ENVIRONMENT,
    recovery_seconds_max=120,
    mixes=False,  # its load is the first one's
)
async def twice(stage: Stage, chance: random.Random) -> None:
    """Four producers publish the same events in messages of 1, 10, 50 and 100 to four workers; some are killed."""
    await _kill_some(stage, chance)
    await _require_no_deadlock(stage)


@fault(
    "published twice, database serializable",
    load=LOAD,
    workers=WORKERS,
    environment=ENVIRONMENT,
    recovery_seconds_max=120,
    mixes=False,
)
async def in_a_serializable_database(stage: Stage, chance: random.Random) -> None:
    """The same where an operator has set another isolation level for the database: the workers pin their own."""
    level = chance.choice(LEVELS)
    async with _host(stage) as host:
        await host.execute(f"ALTER DATABASE {await _name(host)} SET default_transaction_isolation = '{level}'")
        try:
            await stage.fleet.replace()
            await stage.fleet.until_up()
            async with _host(stage) as other:
                assert await other.fetchval("SHOW transaction_isolation") == level
            await _kill_some(stage, chance)
            assert not _failed_to_serialise(stage)
            await _require_no_deadlock(stage)
        finally:
            await host.execute(f"ALTER DATABASE {await _name(host)} RESET default_transaction_isolation")


@fault(
    "published twice, transactions fail to serialise",
    load=replace(LOAD, rate=100),
    workers=WORKERS,
    environment=ENVIRONMENT,
    recovery_seconds_max=120,
    mixes=False,
)
async def under_another_isolation(stage: Stage, chance: random.Random) -> None:
    """The same with workers that pin no level: Postgres ends their transactions with 40001, and they try again."""
    stage.fleet.use("chaos.unpinned_worker", CHAOS_ISOLATION=chance.choice(LEVELS))
    try:
        await stage.fleet.replace()
        await stage.fleet.until_up()
        await until(
            lambda: _failed_to_serialise(stage),
            f"a worker's transaction fails with {CANNOT_SERIALISE}",
            seconds_max=FAILS_SECONDS_MAX,
            details=stage.details,
        )
        await stage.until_more_are_stored(ROWS_MORE)
        await _require_no_deadlock(stage)
    finally:
        stage.fleet.use()
        await stage.fleet.replace()
    await stage.fleet.until_up()


async def _kill_some(stage: Stage, chance: random.Random) -> None:
    for _ in range(KILLS):
        await asyncio.sleep(chance.uniform(0.5, 1.5))
        await (await stage.fleet.pick(chance)).kill()
        await stage.until_more_are_stored(ROWS_MORE)


async def _require_no_deadlock(stage: Stage) -> None:
    """And that the same events did meet: a worker has seen duplicates."""
    await stage.fleet.until_up()
    seen = [await worker.metric("events_total", outcome="duplicate") for worker in stage.fleet.running]
    assert sum(seen) > 0, "no worker has seen an event twice"
    deadlocks = await stage.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    assert deadlocks == 0, f"{deadlocks} deadlocks"


def _failed_to_serialise(stage: Stage) -> bool:
    return any(CANNOT_SERIALISE in log for log in stage.fleet.logs())


@asynccontextmanager
async def _host(stage: Stage) -> AsyncIterator[asyncpg.Connection]:
    """A session of the host's."""
    connection = await asyncpg.connect(stage.dsn, timeout=30)
    try:
        yield connection
    finally:
        connection.terminate()


async def _name(host: asyncpg.Connection) -> str:
    """The database's, as it stands in a statement."""
    return str(await host.fetchval("SELECT quote_ident(current_database())"))
