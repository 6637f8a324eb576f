"""`usage-worker run` as a process of its own, seen from outside: signals, exit status, log, HTTP."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from harness.waiting import until

COMMAND = Path(sys.executable).with_name("usage-worker")
LOG_CHARACTERS_MAX = 6000  # of a log, in a failure's text


class WorkerProcess:
    """A worker that runs until it is told or killed. `status` is its exit status once it has ended."""

    def __init__(self, process: asyncio.subprocess.Process, log_path: Path) -> None:
        self._process = process
        self._log_path = log_path
        self._port: int | None = None

    @classmethod
    async def start(
        cls, environment: Mapping[str, str], log_path: Path, *, command: Sequence[str] | None = None
    ) -> Self:
        """Start one; it is not ready yet. `environment` is added to this process's own, without its USAGE_….

        `command` is run in place of the product's own.
        """
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("USAGE_")}
        with log_path.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(command or (COMMAND, "run")),
                env=inherited | {"USAGE_HTTP_PORT": "0", "USAGE_LOG_FORMAT": "json"} | dict(environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return cls(process, log_path)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status; negative for a signal that killed it; `None` while it runs."""
        return self._process.returncode

    # Signals.

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, such as `SIGTERM`, `SIGSTOP` or `SIGCONT`."""
        self._process.send_signal(number)

    async def wait(self, seconds_max: float = 30.0) -> int:
        """The exit status, once it has ended.

        Raises:
            TimeoutError: it still runs.
        """
        try:
            async with asyncio.timeout(seconds_max):
                return await self._process.wait()
        except TimeoutError:
            raise TimeoutError(f"worker {self.pid} still runs after {seconds_max:g} s\n{self.log_tail()}") from None

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to stop; the exit status."""
        if self.status is None:
            self.send_signal(number)
        return await self.wait()

    async def kill(self) -> None:
        """SIGKILL, also of one that is stopped; returns when it is gone."""
        if self.status is None:
            self._process.kill()
        await self.wait()

    # Its log.

    def log(self) -> str:
        """All that it has written so far."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def log_tail(self) -> str:
        """The end of its log, for the text of a failure."""
        return f"--- log of worker {self.pid}, exit status {self.status}\n{self.log()[-LOG_CHARACTERS_MAX:]}"

    def log_lines(self) -> list[dict[str, Any]]:
        """Its log's lines; the last one may not be complete yet, and is left out then."""
        lines = self.log().split("\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def has_logged(self, event: str) -> bool:
        """Whether a line's `event` begins so."""
        return any(str(line["event"]).startswith(event) for line in self.log_lines())

    # HTTP.

    async def url(self) -> str:
        """Where it listens; waits until it has said so."""
        if self._port is None:
            await until(
                lambda: self.status is not None or self.has_logged("listening"),
                "the worker has logged its port",
                details=self.log_tail,
            )
            ports = [line["port"] for line in self.log_lines() if line["event"] == "listening"]
            if not ports:
                raise AssertionError(f"the worker has ended before it listened\n{self.log_tail()}")
            self._port = int(ports[0])
        return f"http://127.0.0.1:{self._port}"

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of a GET."""
        async with aiohttp.ClientSession() as session, session.get(f"{await self.url()}{path}") as response:
            return response.status, await response.text()

    async def is_ready(self) -> bool:
        """Whether /readyz says 200.

        Raises:
            AssertionError: it has ended.
        """
        if self.status is not None:
            raise AssertionError(f"the worker has ended before it was ready\n{self.log_tail()}")
        return (await self.get("/readyz"))[0] == 200

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels; `name` without `usage_worker_`. 0 where there is none."""
        _, text = await self.get("/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == f"usage_worker_{name}" and labels.items() <= sample.labels.items()
        )
