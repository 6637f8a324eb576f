"""Postgres stops, crashes, stands still, is full, locked, reconfigured and migrated."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg

from chaos.fleet import NotFeltError
from chaos.registry import NotHereError, fault
from chaos.stage import Stage
from worker.demo.processes import LocalProcess

TMPFS_BYTES = 24 * 2**20
WORKERS = "application_name LIKE 'usage-worker%' AND datname = current_database()"
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
    """Somebody has taken every connection, and the workers' own are ended."""
    taken: list[asyncpg.Connection] = []
    killer = await _connected(stage)
    try:
        for _ in range(5):  # workers may be quicker than we are
            await killer.fetchval(f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {WORKERS}")
            with suppress(asyncpg.TooManyConnectionsError):
                while True:
                    taken += [await _connected(stage)]
        assert taken, "every connection was a worker's"
        await asyncio.sleep(chance.uniform(2, 5))
    finally:
        for connection in (*taken, killer):
            connection.terminate()


@fault("Postgres disk full", soaks=False)
async def disk_full(stage: Stage, chance: random.Random) -> None:
    """The table's disk (a small tmpfs) is full until somebody makes room."""
    async with _tmpfs() as mount, _moved_to(stage, mount / "space"):
        ballast = mount / "ballast"
        try:
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(65536))
            await asyncio.sleep(chance.uniform(3, 6))
            await stage.fleet.until_said("No space left on device")
        finally:
            ballast.unlink()
        await asyncio.sleep(2)


@fault("Postgres read-only")
async def read_only(stage: Stage, chance: random.Random) -> None:
    """The server takes no writes, as after a failover to the wrong side."""
    await _configure(stage, "SET default_transaction_read_only = on")
    try:
        await asyncio.sleep(chance.uniform(2, 5))
        await stage.fleet.until_said("read-only transaction")
    finally:
        await _configure(stage, "RESET default_transaction_read_only")


@fault("Postgres table locked")
async def lock(stage: Stage, chance: random.Random) -> None:
    """Somebody holds the table for some seconds, three times."""
    for _ in range(3):
        await _hold(stage, "LOCK TABLE ai_usage_logs IN ACCESS EXCLUSIVE MODE", chance.uniform(0.5, 3))


@fault("Postgres table locked past the time-outs", recovery_seconds_max=60)
async def lock_for_long(stage: Stage, chance: random.Random) -> None:
    """Somebody holds the table for longer than the workers' lock time-out of 10 s."""
    await _hold(stage, "LOCK TABLE ai_usage_logs IN ACCESS EXCLUSIVE MODE", chance.uniform(12, 16))
    await stage.fleet.until_said("lock timeout")


@fault("Postgres statements time out")
async def slow(stage: Stage, chance: random.Random) -> None:
    """Every statement of the workers is cancelled as it runs, as a time-out does."""
    cancelling = f"SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE {WORKERS} AND state <> 'idle'"
    cancelled = 0
    for _ in range(100):
        cancelled += await stage.value(cancelling)
        await asyncio.sleep(chance.uniform(0, 0.05))
    if not cancelled:
        raise NotFeltError("no statement of a worker was met")


@fault("Postgres migrated under load", soaks=False)
async def migrate(stage: Stage, chance: random.Random) -> None:
    """The host adds a column and an index, renames the table away and back, rewrites it."""
    database = await _connected(stage)
    try:
        for statement in (
            "ALTER TABLE ai_usage_logs ADD COLUMN note TEXT DEFAULT 'none'",
            "CREATE INDEX host_index ON ai_usage_logs (model, created_at)",
            "ALTER TABLE ai_usage_logs RENAME TO elsewhere",
            "ALTER TABLE elsewhere RENAME TO ai_usage_logs",
            "ALTER TABLE ai_usage_logs ALTER COLUMN endpoint TYPE VARCHAR(300)",
            "VACUUM FULL ai_usage_logs",
            "ALTER TABLE ai_usage_logs DROP COLUMN note",
            "REINDEX TABLE ai_usage_logs",
            "CLUSTER ai_usage_logs USING ai_usage_logs_pkey",
        ):
            await database.execute(statement, timeout=60)
            await asyncio.sleep(chance.uniform(0, 0.8))
    finally:
        await database.close()


@fault("Postgres crash restart")
async def panic(stage: Stage, chance: random.Random) -> None:
    """SIGKILL to one backend of a worker: the server ends all sessions and recovers."""
    if not isinstance(stage.postgres._host, LocalProcess):
        raise NotHereError("its processes are another machine's")
    for _ in range(3):
        pid = await stage.value(f"SELECT pid FROM pg_stat_activity WHERE {WORKERS} LIMIT 1")
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(chance.uniform(0.5, 2))
        await asyncio.to_thread(stage.postgres.wait_until_ready)


async def _connected(stage: Stage) -> asyncpg.Connection:
    return await asyncpg.connect(stage.dsn, timeout=30)


async def _hold(stage: Stage, statement: str, seconds: float) -> None:
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


@asynccontextmanager
async def _moved_to(stage: Stage, folder: Path) -> AsyncIterator[None]:
    """The table of usage in a tablespace there; back where it was afterwards, also where something failed."""
    space = f"small_{stage.folder.name.replace('-', '_')}"
    database = await _connected(stage)
    try:
        await database.execute(f"CREATE TABLESPACE {space} LOCATION '{folder}'")
        try:
            await database.execute(f"ALTER TABLE ai_usage_logs SET TABLESPACE {space}")
            yield
        finally:
            await database.execute("ALTER TABLE ai_usage_logs SET TABLESPACE pg_default")
            await database.execute(f"DROP TABLESPACE {space}")
            # A server that is killed later would else not start again: its log names a folder that is gone by then.
            await database.execute("CHECKPOINT")
    finally:
        database.terminate()


@asynccontextmanager
async def _tmpfs() -> AsyncIterator[Path]:
    """A small disk of its own that Postgres may write to."""
    if os.geteuid() != 0:
        raise NotHereError("mounting a small disk takes root")
    mount = Path(tempfile.mkdtemp(prefix="usage-chaos-disk-", dir="/tmp"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES},mode=0777", "tmpfs", str(mount)]
    mounted = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    try:
        if mounted.returncode:
            raise NotHereError(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
        space = mount / "space"
        space.mkdir()
        shutil.chown(space, "nobody")
        yield mount
    finally:
        if not mounted.returncode:
            await asyncio.to_thread(subprocess.run, ["umount", "-l", str(mount)], check=True)
        await asyncio.to_thread(mount.rmdir)
