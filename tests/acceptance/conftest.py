"""Fixtures of the acceptance tests: the command from outside, against real servers."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from harness import System


@pytest.fixture
async def system(migrated_dsn: str, amqp_url: str, names: Any, tmp_path: Path) -> AsyncIterator[System]:
    """A database and a queue of this test's own, and no worker yet; workers left over are killed at the end."""
    async with System(migrated_dsn, amqp_url, exchange=names.exchange, queue=names.queue, folder=tmp_path) as opened:
        yield opened
