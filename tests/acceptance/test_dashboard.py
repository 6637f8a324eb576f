"""The dashboard at work: a real Prometheus scrapes workers under load, a broker and a producer; each panel has data."""

import asyncio
import json
import math
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from dashboard import Query, queries
from harness import System, event, message
from harness.events import ORGANIZATION, USER
from harness.waiting import until
from usage_events import UsageEvent, UsagePublisher

from worker.demo.hosts import free_ports
from worker.demo.rabbitmq_server import RabbitServer, find_script, local_rabbitmq

PROMETHEUS = shutil.which("prometheus")
RULES = Path(__file__).parents[2] / "deploy" / "prometheus"
QUEUE = "usage.events"  # as the rules name it
SECONDS_MAX = 120.0

pytestmark = [
    pytest.mark.slow,  # the gauges of the dead letters are counted every quarter of a minute
    pytest.mark.skipif(
        PROMETHEUS is None, reason="prometheus is not installed: Debian has it in the package prometheus"
    ),
    pytest.mark.skipif(find_script() is None, reason="rabbitmq-server is not installed: its metrics need a local one"),
]


@pytest.fixture
def broker_ports() -> tuple[int]:
    """Where the broker shows its metrics."""
    (port,) = free_ports(1)
    return (port,)


@pytest.fixture
def broker(broker_ports: tuple[int]) -> Iterator[RabbitServer]:
    """A broker of the test's own that shows its metrics."""
    (port,) = broker_ports
    settings = {"prometheus.tcp.ip": "127.0.0.1", "prometheus.tcp.port": str(port)}
    with local_rabbitmq(["rabbitmq_prometheus"], settings) as server:
        yield server


@asynccontextmanager
async def books_served(publisher: UsagePublisher) -> AsyncIterator[int]:
    """A producer as its operator would build it: its books are at /metrics; gives the port."""

    async def metrics(_: web.Request) -> web.Response:
        text = publisher.books.openmetrics("chat")
        return web.Response(text=text, headers={"Content-Type": "application/openmetrics-text; version=1.0.0"})

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def load(system: System, publisher: UsagePublisher) -> AsyncIterator[None]:
    """Good events and refused ones, all the time."""

    async def publish() -> None:
        while True:
            for _ in range(200):
                publisher.record(
                    UsageEvent(user_id=USER, organization_id=ORGANIZATION, input_tokens=1, output_tokens=2)
                )
            await publisher.flush(60)
            await system.publish(*[message(event(input_tokens=-1)) for _ in range(5)])

    publishing = asyncio.create_task(publish())
    try:
        yield
    finally:
        publishing.cancel()
        with suppress(asyncio.CancelledError):
            await publishing


@asynccontextmanager
async def prometheus(folder: Path, targets: dict[str, tuple[list[int], str]]) -> AsyncIterator[str]:
    """A Prometheus that scrapes these ports and paths, by job, with the alerts; gives its URL."""
    (port,) = free_ports(1)
    jobs = []
    for job, (ports, address) in targets.items():
        path, _, family = address.partition("?family=")
        jobs.append(
            {
                "job_name": job,
                "metrics_path": path,
                "params": {"family": family.split(",")} if family else {},
                "static_configs": [{"targets": [f"127.0.0.1:{one}" for one in ports]}],
            }
        )
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(path) for path in sorted(RULES.glob("*.rules.yml"))],
        "scrape_configs": jobs,
    }
    (folder / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - it is started at once
            [
                str(PROMETHEUS),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 60)


class Asking:
    """Asks a Prometheus until it has an answer."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer; `None` while it is not ready."""
        try:
            async with self._session.get(f"{self._url}/api/v1/{path}", params=parameters) as response:
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, json.JSONDecodeError):
            return None
        assert answer["status"] == "success", answer
        return answer["data"]

    async def values(self, query: str) -> dict[str, float]:
        """The query's numbers by their labels, without those that are none."""
        data = await self.get("query", query=query)
        found = {json.dumps(one["metric"]): float(one["value"][1]) for one in (data or {"result": []})["result"]}
        return {labels: value for labels, value in found.items() if not math.isnan(value)}

    async def until_all_have_data(self, wanted: list[Query]) -> dict[Query, dict[str, float]]:
        """What each query answers, once all of them have answered something."""
        missing = list(wanted)

        async def all_found() -> bool:
            missing[:] = [query for query in missing if not await self.values(query.text)]
            return not missing

        def told() -> str:
            return "\n".join(f"{query.panel}: {query.text}" for query in missing)

        await until(all_found, "every query has data", seconds_max=SECONDS_MAX, details=told)
        return {query: await self.values(query.text) for query in wanted}

    async def until_all_rules_are_well(self) -> None:
        """Each rule has been evaluated, and without an error."""
        rules: list[dict[str, Any]] = []

        async def all_well() -> bool:
            data = await self.get("rules")
            rules[:] = [rule for group in (data or {"groups": []})["groups"] for rule in group["rules"]]
            return bool(rules) and all(rule["health"] == "ok" for rule in rules)

        def ill() -> str:
            return "\n".join(f"{rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] != "ok")

        await until(all_well, "every rule is evaluated", seconds_max=SECONDS_MAX, details=ill)


async def test_every_panel_has_data(
    broker: RabbitServer, broker_ports: tuple[int], migrated_dsn: str, tmp_path: Path
) -> None:
    """Two workers under load: no query of the dashboard is empty, and no rule of the alerts fails."""
    (broker_port,) = broker_ports
    async with (
        System(migrated_dsn, broker.amqp_url, exchange="usage", queue=QUEUE, folder=tmp_path) as system,
        UsagePublisher(broker.amqp_url, app_id="chat") as publisher,
        books_served(publisher) as books_port,
        load(system, publisher),
    ):
        workers = [await system.start_worker() for _ in range(2)]
        worker_ports = [int((await worker.url()).rpartition(":")[2]) for worker in workers]
        targets = {
            "usage-worker": (worker_ports, "/metrics"),
            "rabbitmq": ([broker_port], "/metrics"),
            "rabbitmq-queues": ([broker_port], "/metrics/detailed?family=queue_coarse_metrics,queue_consumer_count"),
            "chat": ([books_port], "/metrics"),
        }
        async with prometheus(tmp_path, targets) as url, aiohttp.ClientSession() as session:
            asking = Asking(session, url)
            found = await asking.until_all_have_data(queries(queue=QUEUE, window="15s"))
            await asking.until_all_rules_are_well()
            recorded = await asking.values("usage_queue:messages_ready")
            ready = await asking.values("usage_worker_ready")
        assert {json.loads(labels)["queue"] for labels in recorded} == {QUEUE, f"{QUEUE}.dead"}
    assert list(ready.values()) == [1, 1]
    for query, values in found.items():
        numbers = ", ".join(f"{value:g}" for value in list(values.values())[:4])
        print(f"{query.row} | {query.panel} {query.ref} | {len(values)} series: {numbers}")  # noqa: T201 - the list
