"""An operator beside a running system: commands of `dead-letters` as processes, while everything else goes on."""

import asyncio
import os
from typing import NamedTuple

from harness import System
from harness import worker as harness_worker

COMMAND_SECONDS_MAX = 60


class Done(NamedTuple):
    """What a command has left: exit status (negative: the signal that killed it), standard output and error."""

    status: int
    output: str
    errors: str


async def dead_letters(system: System, *arguments: str) -> Done:
    """Run a command to its end: the one that `use_crashing_worker` has put there, if it has."""
    process = await asyncio.create_subprocess_exec(
        harness_worker.COMMAND,
        "dead-letters",
        *arguments,
        env=os.environ | system.environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), COMMAND_SECONDS_MAX)
    assert process.returncode is not None
    return Done(process.returncode, output.decode(), errors.decode())
