"""Postgres stops, crashes, stands still, is full, locked, reconfigured and migrated."""

import asyncio
import os
import random
import signal
from contextlib import suppress

import asyncpg

from chaos import command
from chaos.fleet import NotFeltError
from chaos.registry import NotHereError, fault
from chaos.small_disk import fill, log_on_small_disk, small_disk, table_on
from chaos.stage import AWAY, Stage
from worker.demo.processes import LocalProcess
from worker.postgres.migrations import find_migrations

WORKERS = "application_name LIKE 'usage-worker%' AND datname = current_database()"
# What a worker says of each.
NO_CONNECTION = "too many clients already"
DISK_FULL = "No space left on device"
READ_ONLY = "read-only transaction"
LOCK_TIMEOUT = "lock timeout"
CANCELLED = "canceling statement due to user request"
STATEMENT_TIMEOUT = "canceling statement due to statement timeout"
NO_TABLE = "SQLSTATE 42P01"

# How the newest migration is taken back: the schema of the version before.
NEWEST = 3
_TAKE_BACK = f"""
ALTER TABLE ai_usage_dead_letters ALTER COLUMN body SET NOT NULL;
DELETE FROM ai_usage_migrations WHERE version = {NEWEST}
"""
_STAND_STILL = """
CREATE TABLE host_stands_still AS SELECT 1;
CREATE FUNCTION host_stand_still() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    WHILE EXISTS (SELECT FROM host_stands_still) LOOP PERFORM pg_sleep(0.1); END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER host_stands_still BEFORE INSERT ON ai_usage_logs EXECUTE FUNCTION host_stand_still()
"""
A_WORKER_WAITS = f"SELECT count(*) > 0 FROM pg_stat_activity WHERE {WORKERS} AND wait_event_type = 'Lock'"


@fault("Postgres restarted (fast)")
async def restart_fast(stage: Stage, chance: random.Random) -> None:
    """Sessions are ended, and the server comes back after a moment."""
    await asyncio.to_thread(stage.postgres.stop, "fast")
    await asyncio.sleep(chance.uniform(0, 3))
    await asyncio.to_thread(stage.postgres.start)


@fault("Postgres restarted (immediate)")
async def restart_immediate(stage: Stage, chance: random.Random) -> None:
    """Shut down without a checkpoint, three times; recovery at each start."""
    for _ in range(3):
        await asyncio.to_thread(stage.postgres.stop, "immediate")
        await asyncio.to_thread(stage.postgres.start)
        await asyncio.sleep(chance.uniform(0, 1.5))


@fault("Postgres killed")
async def kill(stage: Stage, chance: random.Random) -> None:
    """SIGKILL to every process of it, twice."""
    for _ in range(2):
        await asyncio.to_thread(stage.postgres.kill)
        await asyncio.sleep(chance.uniform(0, 2))
        await asyncio.to_thread(stage.postgres.start)
        await asyncio.sleep(chance.uniform(0, 1.5))


@fault("Postgres backends killed")
async def kill_backends(stage: Stage, chance: random.Random) -> None:
    """Sessions of the workers are terminated at random instants, also in the middle of a transaction."""
    killing = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {WORKERS}"
    killed = 0
    for _ in range(20):
        killed += await stage.value(killing)
        await asyncio.sleep(chance.uniform(0, 0.4))
    if not killed:
        raise NotFeltError("there was no session of a worker")


@fault("Postgres frozen")
async def freeze(stage: Stage, chance: random.Random) -> None:
    """SIGSTOP to every process of it for some seconds: sessions stay open and nobody answers."""
    stage.postgres.freeze()
    try:
        await asyncio.sleep(chance.uniform(3, 8))
    finally:
        stage.postgres.thaw()


@fault("Postgres has no connection left")
async def no_connections(stage: Stage, chance: random.Random) -> None:
    """Somebody has taken every connection, the workers' own are ended, and a worker is started meanwhile."""
    said = stage.fleet.times_said(NO_CONNECTION)
    taken: list[asyncpg.Connection] = []
    killer = await _connected(stage)
    try:
        for _ in range(5):  # workers may be quicker than we are
            await killer.fetchval(f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {WORKERS}")
            with suppress(asyncpg.TooManyConnectionsError):
                while True:
                    taken += [await _connected(stage)]
        assert taken, "every connection was a worker's"
        # What a worker logs of an outage is how it began. That of one which begins now is the server's refusal.
        await (await stage.fleet.pick(chance)).kill()
        await asyncio.sleep(chance.uniform(2, 5))
        await stage.fleet.until_said(NO_CONNECTION, said)
    finally:
        for connection in (*taken, killer):
            connection.terminate()


@fault("Postgres disk full", soaks=False)
async def disk_full(stage: Stage, chance: random.Random) -> None:
    """The table's disk (a small tmpfs) is full until somebody makes room."""
    said = stage.fleet.times_said(DISK_FULL)
    async with small_disk() as mount, table_on(stage, mount / "space"):
        ballast = await asyncio.to_thread(fill, mount)
        try:
            await asyncio.sleep(chance.uniform(3, 6))
            await stage.fleet.until_said(DISK_FULL, said)
        finally:
            ballast.unlink()
        await asyncio.sleep(2)


@fault("Postgres write-ahead log's disk full", mixes=False, soaks=False, recovery_seconds_max=60)
async def log_full(stage: Stage, chance: random.Random) -> None:
    """The disk of its write-ahead log (a small tmpfs) is full: it panics, and ends until somebody makes room."""
    async with log_on_small_disk(stage.postgres) as mount:
        await stage.until_more_are_stored(100)
        ballast = await asyncio.to_thread(fill, mount)
        host = stage.postgres._host
        assert isinstance(host, LocalProcess)
        async with asyncio.timeout(60):
            while host.is_running():
                with suppress(*AWAY):  # the next segment: workers would take a while to fill the last
                    await asyncio.to_thread(stage.postgres.execute, "SELECT pg_switch_wal()")
        assert "No space left on device" in host.log_tail(), host.log_tail()
        await asyncio.sleep(chance.uniform(0, 3))
        ballast.unlink()
        await asyncio.to_thread(stage.postgres.start)
        await stage.until_flowing(60)


@fault("Postgres read-only")
async def read_only(stage: Stage, chance: random.Random) -> None:
    """The server takes no writes, as after a failover to the wrong side."""
    said = stage.fleet.times_said(READ_ONLY)
    await _configure(stage, "SET default_transaction_read_only = on")
    try:
        await asyncio.sleep(chance.uniform(2, 5))
        await stage.fleet.until_said(READ_ONLY, said)
    finally:
        await _configure(stage, "RESET default_transaction_read_only")


@fault("Postgres table locked")
async def lock(stage: Stage, chance: random.Random) -> None:
    """Somebody holds the table for some seconds, three times."""
    for _ in range(3):
        await hold(stage, "LOCK TABLE ai_usage_logs IN ACCESS EXCLUSIVE MODE", chance.uniform(0.5, 3))


@fault("Postgres table locked past the time-outs", recovery_seconds_max=60)
async def lock_for_long(stage: Stage, chance: random.Random) -> None:
    """Somebody holds the table for longer than the workers' lock time-out of 10 s."""
    said = stage.fleet.times_said(LOCK_TIMEOUT)
    await hold(stage, "LOCK TABLE ai_usage_logs IN ACCESS EXCLUSIVE MODE", chance.uniform(12, 16))
    await stage.fleet.until_said(LOCK_TIMEOUT, said)


@fault("Postgres statements cancelled")
async def cancel(stage: Stage, chance: random.Random) -> None:
    """Statements of the workers are cancelled at 100 instants, as an operator does it."""
    said = stage.fleet.times_said(CANCELLED)
    cancelling = f"SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE {WORKERS} AND state <> 'idle'"
    for _ in range(100):
        await stage.value(cancelling)
        await asyncio.sleep(chance.uniform(0, 0.05))
    await stage.fleet.until_said(CANCELLED, said)  # a request that comes between two statements ends none


@fault("Postgres statement time-out", soaks=False)
async def slow(stage: Stage, chance: random.Random) -> None:
    """A trigger of the host's stands still, for longer than the workers' statement time-out of 30 s."""
    said = stage.fleet.times_said(STATEMENT_TIMEOUT)
    database = await _connected(stage)
    try:
        await database.execute(_STAND_STILL, timeout=60)
        await stage.fleet.until_said(STATEMENT_TIMEOUT, said, seconds_max=90)
        await asyncio.sleep(chance.uniform(0, 3))
    finally:
        # Those that wait for it hold the table: they are let go first.
        await database.execute("DELETE FROM host_stands_still", timeout=60)
        await database.execute("DROP FUNCTION host_stand_still CASCADE; DROP TABLE host_stands_still", timeout=60)
        database.terminate()


@fault("Postgres migrated under load", soaks=False)
async def migrate(stage: Stage, chance: random.Random) -> None:
    """The host adds a column and an index, renames the table away and back, rewrites it."""
    database = await _connected(stage)

    async def rename_until_missed() -> None:
        said = stage.fleet.times_said(NO_TABLE)
        await database.execute("ALTER TABLE ai_usage_logs RENAME TO elsewhere", timeout=60)
        try:
            await stage.fleet.until_said(NO_TABLE, said)
        finally:
            await database.execute("ALTER TABLE elsewhere RENAME TO ai_usage_logs", timeout=60)

    try:
        for statement in (
            "ALTER TABLE ai_usage_logs ADD COLUMN note TEXT DEFAULT 'none'",
            "CREATE INDEX host_index ON ai_usage_logs (model, created_at)",
            "ALTER TABLE ai_usage_logs ALTER COLUMN endpoint TYPE VARCHAR(300)",
            "VACUUM FULL ai_usage_logs",
            "ALTER TABLE ai_usage_logs DROP COLUMN note",
            "REINDEX TABLE ai_usage_logs",
            "CLUSTER ai_usage_logs USING ai_usage_logs_pkey",
        ):
            await database.execute(statement, timeout=60)
            await asyncio.sleep(chance.uniform(0, 0.8))
        await rename_until_missed()
    finally:
        await database.close()


@fault("Postgres schema upgraded under load", mixes=False, soaks=False)
async def upgrade(stage: Stage, chance: random.Random) -> None:
    """A worker waits for the newest migration, which `migrate`, killed and run twice at once, applies beside others."""
    newest = find_migrations()[-1]
    assert newest.version == NEWEST, f"write here how {newest.name} is taken back"
    lacks = f"lacks {newest.name}"
    said = stage.fleet.times_said(lacks)
    database = await _connected(stage)
    try:
        await database.execute(_TAKE_BACK, timeout=60)
    finally:
        database.terminate()
    await (await stage.fleet.pick(chance)).kill()
    await stage.fleet.until_said(lacks, said)
    await command.run_killed(stage, chance.uniform(0.2, 1.5), "migrate")
    await asyncio.gather(*(command.run(stage, "migrate") for _ in range(2)))
    assert await stage.value("SELECT max(version) FROM ai_usage_migrations") == NEWEST
    await stage.fleet.until_up()


@fault("Postgres crash restart")
async def panic(stage: Stage, chance: random.Random) -> None:
    """SIGKILL to one backend of a worker: the server ends all sessions and recovers."""
    if not isinstance(stage.postgres._host, LocalProcess):
        raise NotHereError("its processes are another machine's")
    killed = 0
    for _ in range(3):
        pid = await stage.value(f"SELECT pid FROM pg_stat_activity WHERE {WORKERS} LIMIT 1")
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        await asyncio.sleep(chance.uniform(0.5, 2))
        await asyncio.to_thread(stage.postgres.wait_until_ready)
    if not killed:
        raise NotFeltError("there was no session of a worker")


async def _connected(stage: Stage) -> asyncpg.Connection:
    return await asyncpg.connect(stage.dsn, timeout=30)


async def hold(stage: Stage, statement: str, seconds: float) -> None:
    """A transaction with this statement stays open for so long, and until a worker waits for it."""
    database = await _connected(stage)
    try:
        await database.execute(f"BEGIN; {statement}", timeout=60)
        await asyncio.sleep(seconds)
        # On another connection: within one transaction Postgres shows the same picture of its sessions each time.
        await stage.until_felt(lambda: stage.value(A_WORKER_WAITS), "a worker waits for the lock")
    finally:
        database.terminate()


async def _configure(stage: Stage, change: str) -> None:
    database = await _connected(stage)
    try:
        await database.execute(f"ALTER SYSTEM {change}")
        await database.execute("SELECT pg_reload_conf()")
    finally:
        await database.close()
