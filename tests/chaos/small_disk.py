"""A small disk of its own, a tmpfs, for the table of usage or for Postgres's write-ahead log."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg

from chaos.registry import NotHereError
from chaos.stage import Stage
from worker.demo.postgres_server import PostgresServer
from worker.demo.processes import LocalProcess

TABLE_BYTES = 24 * 2**20
ROOM_BYTES = 40 * 2**20  # of a write-ahead log, beyond what it takes already
_SMALL_LOG = ("SET max_wal_size = '64MB'", "SET min_wal_size = '32MB'")
_USUAL_LOG = ("RESET max_wal_size", "RESET min_wal_size")


@asynccontextmanager
async def small_disk(size_bytes: int = TABLE_BYTES) -> AsyncIterator[Path]:
    """Where it is mounted; its folder `space` is for Postgres to write to.

    Raises:
        NotHereError: nothing can be mounted.
    """
    if os.geteuid() != 0:
        raise NotHereError("mounting a small disk takes root")
    mount = Path(tempfile.mkdtemp(prefix="usage-chaos-disk-", dir="/tmp"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0777", "tmpfs", str(mount)]
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


def fill(mount: Path) -> Path:
    """Leave no room there, until this file is deleted."""
    ballast = mount / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(65536))
    return ballast


@asynccontextmanager
async def table_on(stage: Stage, folder: Path) -> AsyncIterator[None]:
    """The table of usage in a tablespace there; back where it was afterwards, also where something failed."""
    space = f"small_{stage.folder.name.replace('-', '_')}"
    database = await asyncpg.connect(stage.dsn, timeout=30)
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
async def log_on_small_disk(server: PostgresServer) -> AsyncIterator[Path]:
    """The write-ahead log on a disk with little room; the server is restarted for it, and to put the log back.

    Raises:
        NotHereError: the server is no local process, or nothing can be mounted.
    """
    host = server._host
    if not isinstance(host, LocalProcess):
        raise NotHereError("its disk is another machine's")
    log = host._folder.path / "data" / "pg_wal"
    await _configure(server, _SMALL_LOG)
    try:
        await asyncio.to_thread(server.execute, "CHECKPOINT")
        await asyncio.to_thread(server.stop)
        taken_bytes = sum(file.stat().st_blocks * 512 for file in log.rglob("*"))
        async with small_disk(taken_bytes + ROOM_BYTES) as mount:
            place = mount / "space" / "pg_wal"
            await _move(log, place)
            log.symlink_to(place)
            try:
                await asyncio.to_thread(server.start)
                yield mount
            finally:
                if host.is_running():
                    await asyncio.to_thread(server.stop)
                log.unlink()
                await _move(place, log)
    finally:
        if not host.is_running():
            await asyncio.to_thread(server.start)
        await _configure(server, _USUAL_LOG)


async def _move(folder: Path, to: Path) -> None:
    """With its owner, from disk to disk."""
    await asyncio.to_thread(subprocess.run, ["mv", str(folder), str(to)], check=True)


async def _configure(server: PostgresServer, changes: tuple[str, ...]) -> None:
    for statement in (*(f"ALTER SYSTEM {change}" for change in changes), "SELECT pg_reload_conf()"):
        await asyncio.to_thread(server.execute, statement)
