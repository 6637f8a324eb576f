"""The image: what is in it, what it says about itself, and how a worker in it lives and ends."""

import asyncio
import json
import socket

from engine import REVISION, ROOT, VERSION, Start, docker, inspect
from harness import System, event, message, until

INSTALLED = """
import json
from importlib.metadata import distributions
print(json.dumps({one.name.lower().replace("_", "-"): one.version for one in distributions()}))
"""
STARTED_SECONDS_MAX = 90.0
# Makes a backlog last: each batch takes half a second, as on a database that has much to do.
SLOW = """
CREATE FUNCTION dawdle() RETURNS TRIGGER LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END';
CREATE TRIGGER slow AFTER INSERT ON ai_usage_logs EXECUTE FUNCTION dawdle();
"""


def free_port() -> int:
    """A port of this machine that nobody has at the moment."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def inside(image: str, *command: str) -> str:
    """What a command prints in a container that can write nowhere and reach nobody."""
    return docker("run", "--rm", "--read-only", "--network", "none", "--entrypoint", command[0], image, *command[1:])


def test_it_says_what_it_is(image: str) -> None:
    """Who finds the image somewhere can tell which version of what it holds, and under which licence."""
    labels = inspect(image)["Config"]["Labels"]
    prefix = "org.opencontainers.image."
    found = {name.removeprefix(prefix): text for name, text in labels.items() if name.startswith(prefix)}
    assert found["title"] == "usage-worker"
    assert (found["version"], found["revision"], found["licenses"]) == (VERSION, REVISION, "MIT")
    assert found["source"].startswith("https://")


def test_it_runs_as_nobody_and_stops_at_sigterm(image: str) -> None:
    """Not root, told by number; the signal of `docker stop` is the one that the worker takes for it."""
    config = inspect(image)["Config"]
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] == "SIGTERM"
    assert (config["Entrypoint"], config["Cmd"]) == (["usage-worker"], ["run"])
    assert inside(image, "id", "-u").strip() == "10001"


def test_every_command_starts_on_a_read_only_file_system(image: str) -> None:
    """Help, version and module form need no place to write."""
    assert inside(image, "usage-worker", "--version").startswith("usage-worker, version ")
    assert "USAGE_POSTGRES_DSN_FILE" in inside(image, "usage-worker", "run", "--help")
    assert "dead-letters" in inside(image, "python", "-m", "worker", "--help")


def test_only_what_runs_is_in_it(image: str) -> None:
    """No compiler, no installer, no sources of tests, no cache of packages."""
    tools = "for name in cc gcc make uv cyclonedx-py git curl; do command -v $name && exit 1; done; exit 0"
    assert inside(image, "sh", "-c", tools) == ""
    names = " -o ".join(f"-name {name}" for name in (".cache", "test_image.py", "pytest", "cyclonedx*"))
    search = f"ls /build; find /home /opt /root /tmp /usr/local {names}"
    found = docker("run", "--rm", "--user", "0", "--entrypoint", "sh", image, "-c", search)
    assert found == "ls: cannot access '/build': No such file or directory\n"


def test_the_list_of_parts_is_the_truth(image: str) -> None:
    """The CycloneDX list names each installed distribution with its version, and no other; the lock is beside it."""
    listed = json.loads(inside(image, "cat", "/usr/share/usage-worker/sbom.cdx.json"))
    assert listed["bomFormat"] == "CycloneDX"
    assert listed["metadata"]["component"]["name"] == "usage-worker"
    parts = {one["name"].lower().replace("_", "-"): one["version"] for one in listed["components"]}
    itself = listed["metadata"]["component"]
    installed = json.loads(inside(image, "python", "-c", INSTALLED))
    assert parts | {itself["name"]: itself["version"]} == installed
    assert {"asyncpg", "aio-pika", "usage-events"} <= parts.keys()
    assert inside(image, "cat", "/usr/share/usage-worker/uv.lock") == (ROOT / "uv.lock").read_text(encoding="utf-8")


async def test_a_worker_without_servers_is_alive_and_stops_at_once(start: Start) -> None:
    """It waits for servers that are not there: healthy, since a restart would not help, and clean to stop."""
    port = str(free_port())
    worker = start(
        USAGE_HTTP_PORT=port,
        USAGE_HTTP_HOST="127.0.0.1",
        USAGE_AMQP_URL="amqp://nobody@127.0.0.1:1/",
        USAGE_POSTGRES_DSN="postgresql://nobody@127.0.0.1:1/nothing",
    )
    await until(
        lambda: worker.health == "healthy",
        "the health check passes",
        seconds_max=STARTED_SECONDS_MAX,
        details=lambda: worker.log,
    )
    answer = docker("exec", worker.name, "python", "-m", "worker.probe", "/readyz", status=1)
    assert answer == "waiting for the database\n"
    assert worker.stop() == 0, worker.log


async def test_a_busy_worker_stops_in_time_and_loses_nothing(system: System, start: Start) -> None:
    """`docker stop` in the middle of a backlog: exit status 0 and not 137, the rest is the next worker's, once each."""
    events = [event() for _ in range(20_000)]
    await system.publish(*(message(*events[at : at + 5]) for at in range(0, len(events), 5)))
    await system.database.execute(SLOW)
    settings = system.environment() | {"USAGE_HTTP_PORT": "0", "USAGE_BATCH_MAX_EVENTS": "500"}
    worker = start(**settings)
    await system.until(lambda: has_begun(system), "it has begun", seconds_max=STARTED_SECONDS_MAX)
    assert await asyncio.to_thread(worker.stop) == 0, worker.log
    before = await system.stored()
    assert before < len(events), "it had nothing left to do: the test shows nothing"

    await system.database.execute("DROP TRIGGER slow ON ai_usage_logs")
    start(**settings)
    await system.until_stored(len(events), seconds_max=STARTED_SECONDS_MAX)
    assert await system.stored() == len(events)
    (await system.books()).check()


async def has_begun(system: System) -> bool:
    """Whether something is stored."""
    return await system.stored() > 0
