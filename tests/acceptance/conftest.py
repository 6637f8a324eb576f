"""Fixtures of the acceptance tests: the command from outside, against real servers."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from batches import host
from desk import Desk
from harness import System
from harness.worker import COMMAND

from worker.demo.postgres_server import PostgresServer


@pytest.fixture
def delivery_path() -> str:
    """How workers take deliveries; tests that run on both paths are parametrized with it."""
    return "fast"


@pytest.fixture
async def system(
    migrated_dsn: str, amqp_url: str, names: Any, tmp_path: Path, delivery_path: str
) -> AsyncIterator[System]:
    """A database and a queue of this test's own, and no worker yet; workers left over are killed at the end."""
    async with System(
        migrated_dsn,
        amqp_url,
        exchange=names.exchange,
        queue=names.queue,
        folder=tmp_path,
        delivery_path=delivery_path,
    ) as opened:
        yield opened


@pytest.fixture
async def system_with_own_postgres(
    own_postgres_server: PostgresServer, amqp_url: str, names: Any, tmp_path: Path
) -> AsyncIterator[System]:
    """The same on a database server that the test may freeze, kill and restart."""
    dsn = own_postgres_server.dsn
    await migrate(dsn)
    async with System(dsn, amqp_url, exchange=names.exchange, queue=names.queue, folder=tmp_path) as opened:
        yield opened


async def migrate(dsn: str) -> None:
    """Create the tables as an operator would."""
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        "migrate",
        env=os.environ | {"USAGE_POSTGRES_DSN": dsn},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


@pytest.fixture
async def desk(migrated_dsn: str) -> AsyncIterator[Desk]:
    """See `Desk`; the user and the organization of `event` exist."""
    async with host(migrated_dsn) as database:
        yield Desk(migrated_dsn, database)
