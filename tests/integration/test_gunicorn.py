"""gunicorn with pre-forked workers and the publisher for threads: all that was answered arrives, the end is clean."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from harness.waiting import until
from usage_queue import declare, ids_in, open_channel

APPLICATION = """
import os
from makers import ORGANIZATION, USER
from usage_events import BlockingUsagePublisher, UsageEvent

publisher = BlockingUsagePublisher(os.environ["AMQP"], exchange=os.environ["EXCHANGE"], exit_timeout_seconds=20)
publisher.start()  # before the fork: the workers must not use the parent's thread and connection

def application(environ, start_response):
    event = UsageEvent(user_id=USER, organization_id=ORGANIZATION, input_tokens=1)
    publisher.record(event)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {event.id}".encode()]
"""


@pytest.mark.parametrize("workers", [["--preload"], []], ids=["preload", "each loads"])
async def test_all_arrive_from_two_workers(
    amqp_url: str, names: Any, tmp_path: Path, unused_tcp_port: int, workers: list[str]
) -> None:
    """Requests to both workers are recorded; gunicorn is told to stop, ends well, and every event is in the queue."""
    (tmp_path / "shop.py").write_text(APPLICATION)
    async with open_channel(amqp_url) as channel:
        queue = await declare(channel, names.exchange, names.queue)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gunicorn", "--workers", "2", "--bind", f"127.0.0.1:{unused_tcp_port}",
            "--worker-tmp-dir", str(tmp_path), *workers, "shop:application",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=os.environ
            | {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[1]}", "AMQP": amqp_url, "EXCHANGE": names.exchange},
        )  # fmt: skip
        answers: list[str] = []

        async def ask() -> bool:
            try:
                async with aiohttp.request("GET", f"http://127.0.0.1:{unused_tcp_port}/") as response:
                    answers.append(await response.text())
            except aiohttp.ClientConnectionError:
                return False  # not yet listening
            return len(answers) >= 200 and len({answer.split()[0] for answer in answers}) == 2

        await until(ask, "both workers have answered")
        process.send_signal(signal.SIGTERM)
        _, said = await asyncio.wait_for(process.communicate(), 25)
        assert process.returncode == 0, said.decode()
        assert "not confirmed" not in said.decode()
        assert sorted(await ids_in(queue, len(answers))) == sorted(answer.split()[1] for answer in answers)
