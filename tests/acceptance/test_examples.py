"""The example producers of `schema/examples`, each as a process, with real servers behind it."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import aio_pika
import pytest
from harness import ORGANIZATION, USER, System, event, until
from node import install

from worker.demo.rabbitmq_server import RabbitServer

EXAMPLES = Path(__file__).parents[2] / "schema" / "examples"
CALLS_BEFORE = 5_000  # the restart
CALLS_TOGETHER = 100  # what is fed and not confirmed must fit into the pipe, or it cannot be fed
CALLS_AFTER = 5_000
KEPT = "events kept, trying again"
CALL = {"user_id": str(USER), "organization_id": str(ORGANIZATION), "model": "m", "input_tokens": 3, "output_tokens": 4}


class Run(NamedTuple):
    """What a finished program has left behind."""

    status: int
    output: str
    errors: str


class Example:
    """A producer that runs. Both its pipes are read all the time: a full one would hold it up.

    `confirmed` are the ids that it has printed so far, and `said` the lines of its standard error.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.fed = 0
        self.confirmed: list[str] = []
        self.said: list[str] = []
        assert process.stdout is not None
        assert process.stderr is not None
        self._reading = [
            asyncio.create_task(_read(process.stdout, self.confirmed)),
            asyncio.create_task(_read(process.stderr, self.said)),
        ]

    @classmethod
    async def start(cls, command: Sequence[str], system: System) -> "Example":
        """Start it on this system."""
        return cls(await _start(command, system.environment()))

    async def feed(self, *lines: str) -> None:
        """Lines for its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{line}\n" for line in lines).encode())
        self.fed += len(lines)
        await self._process.stdin.drain()

    async def until_confirmed(self, count: int) -> None:
        """Until it has printed so many ids."""
        await self.until(lambda: len(self.confirmed) >= count, f"{count} events are confirmed")

    async def until_said(self, text: str) -> None:
        """Until its standard error says so."""
        await self.until(lambda: self.has_said(text), f"it has said {text!r}")

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Until this holds; a failure tells what it has said."""
        await until(condition, what, seconds_max=60, details=self._state)

    def has_said(self, text: str) -> bool:
        """Whether its standard error has said so."""
        return any(text in line for line in self.said)

    async def finish(self) -> tuple[int, list[str]]:
        """End its input; exit status and what it has said."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(60):
            await asyncio.gather(*self._reading)
            return await self._process.wait(), self.said

    async def kill(self) -> None:
        """SIGKILL, where it still runs."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def _state(self) -> str:
        return f"{self.fed} fed, {len(self.confirmed)} confirmed, exit status {self._process.returncode}\n" + "\n".join(
            self.said
        )


async def _read(pipe: asyncio.StreamReader, lines: list[str]) -> None:
    while line := await pipe.readline():
        lines.append(line.decode().strip())


async def _start(command: Sequence[str], environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    given = {name: value for name, value in os.environ.items() if not name.startswith("USAGE_")}
    return await asyncio.create_subprocess_exec(
        *command, env=given | dict(environment),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture(params=["node", "python"])
def producer(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The command of a producer that reads calls, with its packages beside it."""
    if request.param == "python":
        return [sys.executable, str(EXAMPLES / "python" / "producer.py")]
    install(EXAMPLES / "node", tmp_path / "node")
    return ["node", str(tmp_path / "node" / "producer.mjs")]


@pytest.fixture
async def own_system(migrated_dsn: str, own_rabbitmq_server: RabbitServer, tmp_path: Path) -> AsyncIterator[System]:
    """A system on a broker that the test may restart."""
    amqp_url = own_rabbitmq_server.amqp_url
    async with System(migrated_dsn, amqp_url, exchange="usage", queue="usage.events", folder=tmp_path) as opened:
        yield opened


async def stored_ids(system: System) -> list[str]:
    """The ids of all rows, sorted."""
    return [str(row["id"]) for row in await system.database.fetch("SELECT id FROM ai_usage_logs ORDER BY id")]


@pytest.mark.slow  # a quarter of a minute for each producer: the broker's stop, its start, and the longest pause after
async def test_confirmed_is_stored_through_a_restart_of_the_broker(
    own_system: System, own_rabbitmq_server: RabbitServer, producer: list[str]
) -> None:
    """The broker stops while calls come in, and comes back: each call is confirmed, and stored once."""
    await own_system.start_worker()
    example = await Example.start(producer, own_system)
    await example.feed(*[json.dumps(CALL)] * CALLS_BEFORE)
    await example.until_confirmed(CALLS_BEFORE // 5)
    stopping = asyncio.create_task(asyncio.to_thread(own_rabbitmq_server.stop))
    while not example.has_said(KEPT):  # however long the stop takes, there is work until then
        await example.until(
            lambda: example.has_said(KEPT) or len(example.confirmed) >= example.fed - CALLS_TOGETHER,
            "it goes on or has noticed",
        )
        await example.feed(*[json.dumps(CALL)] * CALLS_TOGETHER)
    await stopping
    feeding = asyncio.create_task(example.feed(*[json.dumps(CALL)] * CALLS_AFTER))  # while the broker is away
    await asyncio.to_thread(own_rabbitmq_server.start)
    await feeding
    await example.until_confirmed(example.fed)
    status, _ = await example.finish()
    await own_system.settle()
    assert status == 0
    assert len(example.confirmed) == example.fed
    assert await stored_ids(own_system) == sorted(example.confirmed)
    assert await own_system.value("SELECT sum(tokens_used) FROM ai_usage_logs") == 7 * example.fed
    assert await own_system.value("SELECT count(*) FROM ai_usage_dead_letters") == 0


async def test_what_comes_back_is_kept_and_said(system: System, producer: list[str]) -> None:
    """Without a queue nothing is confirmed and the reason is told; when a queue is there, the same events arrive."""
    async with await aio_pika.connect(system.amqp_url) as connection:
        channel = await connection.channel()
        await channel.queue_delete(system.queue)
    example = await Example.start(producer, system)
    await example.feed(json.dumps(CALL), json.dumps(CALL | {"id": str(UUID(int=1))}))
    if "node" not in producer[0]:
        await example.feed(*[json.dumps(CALL)] * 48)  # pika's example sends when a message is full
    await example.until_said("returned by broker" if "node" not in producer[0] else "the events came back")
    assert example.confirmed == []
    await system.declare()
    status, _ = await example.finish()
    assert (status, str(UUID(int=1)) in example.confirmed) == (0, True)
    await system.start_worker()
    await system.settle()
    assert await stored_ids(system) == sorted(example.confirmed)


async def test_a_line_that_is_no_call_is_left_out(system: System, producer: list[str]) -> None:
    """It is told, the others go, and the exit status says that it was a part; app_id names the producer."""
    example = await Example.start(producer, system)
    wrong = json.dumps(CALL | {"input_token": 3})
    await example.feed("not json", json.dumps(CALL), wrong)
    status, said = await example.finish()
    assert status == 3
    assert [line for line in said if "is left out" in line]
    assert len(example.confirmed) == 2
    await system.start_worker()
    await system.settle()
    assert await system.stored() == 1
    assert await system.value("SELECT app_id FROM ai_usage_dead_letters") in {"node-example", "pika-example"}


async def test_the_sample_of_calls_is_right(system: System, producer: list[str]) -> None:
    """The file that the README feeds to the producers is accepted whole."""
    lines = (EXAMPLES / "calls.ndjson").read_text(encoding="utf-8").splitlines()
    example = await Example.start(producer, system)
    await example.feed(*lines)
    assert await example.finish() == (0, [])
    await system.start_worker()
    await system.settle()
    assert await stored_ids(system) == sorted(example.confirmed)
    assert len(example.confirmed) == len(lines)


async def curl(system: System, management_url: str | None, body: bytes, **environment: str) -> Run:
    """The shell script with this on its standard input."""
    if management_url is None:
        pytest.skip("the given broker's management API is not known: unset USAGE_AMQP_URL")
    if shutil.which("curl") is None:
        pytest.skip("curl is not in the PATH")
    settings = {
        "USAGE_MANAGEMENT_URL": management_url.replace("guest:guest@", ""),
        "USAGE_EXCHANGE": system.exchange,
    }
    process = await _start(["sh", str(EXAMPLES / "curl" / "publish.sh")], settings | environment)
    output, errors = await process.communicate(body)
    return Run(await process.wait(), output.decode(), errors.decode())


async def test_curl_publishes_what_the_worker_stores(system: System, rabbitmq_server: RabbitServer) -> None:
    """One event, an array with text of every kind, and the sample: each is confirmed and stored."""
    url = rabbitmq_server.management_url
    one, many = event(), [event(model="naïve \"quoted\" 'x' $HOME \\ 😀"), event()]
    sample = json.loads((EXAMPLES / "event.json").read_bytes()) | {"created_at": one["created_at"]}
    for body in (one, many, sample):
        assert await curl(system, url, json.dumps(body, ensure_ascii=False, indent=1).encode()) == Run(0, "", "")
    assert await curl(system, url, json.dumps(one).encode()) == Run(0, "", "")  # again: a duplicate
    await system.start_worker()
    await system.settle()
    assert await stored_ids(system) == sorted(item["id"] for item in (one, *many, sample))
    assert many[0]["model"] in [row["model"] for row in await system.database.fetch("SELECT model FROM ai_usage_logs")]


async def test_curl_sends_the_largest_message(system: System, rabbitmq_server: RabbitServer) -> None:
    """1,000 events of nearly 1 MiB pass the HTTP API."""
    events = [event(request_metadata={"filler": "x" * 650}) for _ in range(1_000)]
    body = json.dumps(events, separators=(",", ":")).encode()
    assert 900_000 < len(body) < 2**20
    assert await curl(system, rabbitmq_server.management_url, body) == Run(0, "", "")
    await system.start_worker()
    await system.settle()
    assert await system.stored() == 1_000


async def test_curl_says_what_did_not_arrive(
    system: System, rabbitmq_server: RabbitServer, unused_tcp_port: int
) -> None:
    """No queue, no exchange, a wrong password, no broker, nothing to send: each its own text, and a status not 0."""
    url = rabbitmq_server.management_url
    body = json.dumps(event()).encode()
    async with await aio_pika.connect(system.amqp_url) as connection:
        channel = await connection.channel()
        await channel.queue_delete(system.queue)
    unroutable = await curl(system, url, body)
    assert unroutable == Run(
        1, "", f"usage: not sent: no queue is bound to exchange {system.exchange}; start a worker\n"
    )
    missing, stranger, absent, nothing = (
        await curl(system, url, body, USAGE_EXCHANGE="none"),
        await curl(system, url, body, USAGE_MANAGEMENT_PASSWORD='wro"ng\\'),
        await curl(system, url, body, USAGE_MANAGEMENT_URL=f"http://127.0.0.1:{unused_tcp_port}"),
        await curl(system, url, b""),
    )
    assert (missing.status, "404" in missing.errors, "usage: not confirmed: " in missing.errors) == (1, True, True)
    assert (stranger.status, "401" in stranger.errors, "wro" in stranger.errors) == (1, True, False)
    assert (absent.status, "Failed to connect" in absent.errors) == (1, True)
    assert nothing == Run(2, "", "usage: nothing on standard input: give it an event\n")


@pytest.mark.parametrize("path", [EXAMPLES / "node" / "producer.mjs", EXAMPLES / "python" / "producer.py"])
def test_examples_are_short(path: Path) -> None:
    """An example is read before it is copied."""
    assert len(path.read_text(encoding="utf-8").splitlines()) < 130
