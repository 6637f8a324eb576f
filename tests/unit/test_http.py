"""HTTP for those who watch: alive, ready or why not, metrics; and a port that is taken."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from worker.errors import ConfigurationError
from worker.http import serve
from worker.metrics import Metrics


class Readiness:
    """What `/readyz` is told."""

    why: str | None = None

    def __call__(self) -> str | None:
        """What is missing."""
        return self.why


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """A client of HTTP."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


async def get(client: aiohttp.ClientSession, port: int, path: str) -> tuple[int, str]:
    """Status and text of a page."""
    async with client.get(f"http://127.0.0.1:{port}{path}") as response:
        return response.status, await response.text()


async def test_ready_or_why_not(client: aiohttp.ClientSession) -> None:
    """/readyz follows the worker's state; /livez does not: a restart would not bring a database back."""
    readiness = Readiness()
    async with serve("127.0.0.1", 0, registry=Metrics().registry, why_not_ready=readiness) as port:
        assert await get(client, port, "/readyz") == (200, "ok\n")
        readiness.why = "waiting for the database"
        assert await get(client, port, "/readyz") == (503, "waiting for the database\n")
        assert await get(client, port, "/livez") == (200, "ok\n")
        assert (await get(client, port, "/nothing"))[0] == 404


async def test_metrics(client: aiohttp.ClientSession) -> None:
    """/metrics shows every promised name, in Prometheus's own format, at zero from the start."""
    metrics = Metrics()
    metrics.held_events.inc(3)
    async with serve("127.0.0.1", 0, registry=metrics.registry, why_not_ready=Readiness()) as port:
        status, text = await get(client, port, "/metrics")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert status == 200
    assert {name for name in families if not name.startswith("process_") and not name.endswith("_created")} == {
        f"usage_worker_{name}"
        for name in (
            "events",
            "dead_letters",
            "refused",
            "batch_events",
            "batches",
            "commit_seconds",
            "event_age_seconds",
            "held_events",
            "redeliveries",
            "reconnects",
            "database_up",
            "dead_letters_open",
            "dead_letters_oldest_open_seconds",
            "dead_letters_bytes",
            "partition_months_ahead",
            "dead_letter_bodies_given_up",
            "newest_event_timestamp_seconds",
            "give_backs",
            "writers",
            "tasks",
            "database_clock_ahead_seconds",
            "ready",
        )
    }
    assert [sample.value for sample in families["usage_worker_held_events"].samples] == [3.0]
    outcomes = {
        sample.labels["outcome"] for sample in families["usage_worker_events"].samples if "outcome" in sample.labels
    }
    assert outcomes == {"stored", "duplicate", "dead"}


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /livez HTTP/1.1\r\nHost: worker\r\nContent-Length: 9\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nHost: worker\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost",
    ],
)
async def test_a_client_that_does_not_end(request_bytes: bytes) -> None:
    """A client that announces more than it sends does not hold up the worker's end, as it did for ten seconds."""
    with ExitStack() as stack:
        async with (
            asyncio.timeout(8),
            serve("127.0.0.1", 0, registry=Metrics().registry, why_not_ready=Readiness()) as port,
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request_bytes)
            stack.callback(writer.close)
            if request_bytes.endswith(b"\r\n"):
                assert (await reader.readline()).startswith(b"HTTP/1.1 ")


async def test_a_taken_port_is_named(client: aiohttp.ClientSession) -> None:
    """A port that someone listens on is a wrong setting, named with both variables; nothing stays behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError) as caught:
            async with serve("127.0.0.1", port, registry=Metrics().registry, why_not_ready=Readiness()):
                pytest.fail("it listens on a port that is taken")
    assert str(caught.value).startswith(
        f"USAGE_HTTP_HOST='127.0.0.1' with USAGE_HTTP_PORT={port} cannot be listened on"
    )
    assert str(caught.value).endswith("choose another port, or 0 for a free one")
    async with serve("127.0.0.1", port, registry=Metrics().registry, why_not_ready=Readiness()) as again:
        assert (again, (await get(client, port, "/livez"))[0]) == (port, 200)
