"""`usage-worker` run beside the workers, as an operator does: on the run's database, past every proxy."""

import asyncio
import os
from contextlib import suppress

from harness.worker import COMMAND

from chaos.stage import Stage

SECONDS_MAX = 120.0


async def begin(stage: Stage, *arguments: str) -> asyncio.subprocess.Process:
    """Start it."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("USAGE_")}
    return await asyncio.create_subprocess_exec(
        COMMAND,
        *arguments,
        env=given | {"USAGE_POSTGRES_DSN": stage.dsn},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def run_killed(stage: Stage, seconds: float, *arguments: str) -> None:
    """Run it, and SIGKILL after so long unless it has ended."""
    process = await begin(stage, *arguments)
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await process.wait()
    if process.returncode is None:
        process.kill()
    await process.communicate()


async def run(stage: Stage, *arguments: str) -> str:
    """Run it to its end; what it says.

    Raises:
        AssertionError: it has failed.
    """
    process = await begin(stage, *arguments)
    async with asyncio.timeout(SECONDS_MAX):
        said, _ = await process.communicate()
    assert process.returncode == 0, f"usage-worker {' '.join(arguments)} exited with {process.returncode}:\n{said!r}"
    return said.decode()
