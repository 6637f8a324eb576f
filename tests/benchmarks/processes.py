"""What is measured runs as a process of its own, as it would in a service; the kernel keeps its accounts."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

STOP_SECONDS_MAX = 20.0
RUN_SECONDS_MAX = 300.0
TESTS = Path(__file__).parents[1]


class Contender:
    """A running process."""

    def __init__(self, process: asyncio.subprocess.Process, log: IO[bytes]) -> None:
        self._process = process
        self._log = log

    def cpu_seconds(self) -> float:
        """CPU time so far, its children's included."""
        return sum(_cpu_seconds(pid) for pid in self._pids())

    def peak_memory_bytes(self) -> int:
        """The peak of resident memory; of all its processes together where it has several."""
        return sum(_peak_memory_bytes(pid) for pid in self._pids())

    async def wait(self) -> None:
        """Wait for its end, which means that it has failed: it was not told to.

        Raises:
            RuntimeError: always, with the end of its log.
        """
        status = await self._process.wait()
        self._log.seek(0)
        said = self._log.read().decode(errors="replace")[-4000:]
        raise RuntimeError(f"a process that is measured ended with {status}:\n{said}")

    async def stop(self) -> None:
        """SIGTERM; what does not end then is killed."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def _pids(self) -> list[int]:
        own = self._process.pid
        children = Path(f"/proc/{own}/task/{own}/children").read_text(encoding="ascii")
        return [own, *map(int, children.split())]


@asynccontextmanager
async def running(command: Sequence[str], environment: Mapping[str, str]) -> AsyncIterator[Contender]:
    """A process for as long as the block runs; `environment` is added to this process's own, without its USAGE_…."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("USAGE_")}
    with TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *command,
            env=inherited | {"PYTHONPATH": str(TESTS)} | dict(environment),
            stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        contender = Contender(process, log)
        try:
            yield contender
        finally:
            await contender.stop()


async def run_to_end(command: Sequence[str]) -> dict[str, float]:
    """Run a program that measures itself; the JSON object that it prints.

    Raises:
        RuntimeError: it failed.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), RUN_SECONDS_MAX)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: see its text above")
    report: dict[str, float] = json.loads(output)
    return report


def _cpu_seconds(pid: int) -> float:
    times = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def _peak_memory_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
