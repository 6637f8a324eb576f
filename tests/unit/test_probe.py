"""The image's health check says what the worker answers, and what is wrong where it does not."""

import asyncio
import io
import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry

from worker.http import serve
from worker.probe import probe

NOT_READY = "Postgres does not answer"


async def probed(host: str, port: int, *arguments: str) -> tuple[int | None, str]:
    """Exit status and output of the probe, as a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "worker.probe",
        *arguments,
        env={"USAGE_HTTP_HOST": host, "USAGE_HTTP_PORT": str(port)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_alive_and_ready_are_two_questions(host: str) -> None:
    """A worker that waits for its database is alive, and not ready; the probe passes both answers on."""
    async with serve(host, 0, registry=CollectorRegistry(), why_not_ready=lambda: NOT_READY) as port:
        assert await probed(host, port) == (0, "ok\n")
        assert await probed(host, port, "/readyz") == (1, f"{NOT_READY}\n")
        assert (await probed(host, port, "/nothing"))[0] == 1


async def test_nobody_answers() -> None:
    """A worker that is not there is unhealthy, and the address is named."""
    async with serve("127.0.0.1", 0, registry=CollectorRegistry(), why_not_ready=lambda: None) as port:
        pass
    status, said = await probed("127.0.0.1", port)
    assert status == 1
    assert said.startswith(f"http://127.0.0.1:{port}/livez does not answer: ")


@pytest.mark.parametrize("port", ["0", "", "metrics"])
def test_a_port_that_nobody_can_know(port: str) -> None:
    """With a port that the system picks there is nothing to ask; the message says what to set."""
    out = io.StringIO()
    assert probe([], {"USAGE_HTTP_PORT": port}, out) == 1
    assert out.getvalue() == f"USAGE_HTTP_PORT={port!r}: the port is not known in advance; give one from 1 to 65535\n"


def test_it_brings_little_with_it() -> None:
    """It runs every few seconds in each container: none of the worker's libraries is imported for it."""
    program = "import sys, worker.probe; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"aiohttp", "asyncio", "asyncpg", "click", "pydantic", "structlog"} & {*done.stdout.split()}
