"""The command line from outside: help, versions, wrong usage, wrong settings, servers that are away."""

import importlib
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
from harness import System, WorkerProcess, until
from harness.worker import COMMAND

from worker.cli import COMMANDS, EXAMPLE
from worker.settings import Settings

HEAVY = ("aio_pika", "aiohttp", "aiormq", "asyncpg", "pydantic", "rich", "structlog", "uvloop", "worker.settings")
MODULE = (sys.executable, "-m", "worker")
SECONDS_MAX = 60


def run(
    *arguments: str, command: Sequence[str] = (str(COMMAND),), **environment: str
) -> subprocess.CompletedProcess[str]:
    """The command, run to its end, with nothing but these settings in its environment."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("USAGE_")}
    return subprocess.run(
        [*command, *arguments],
        env=given | environment,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address where nothing answers: bound, but not listened on."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{reserved.getsockname()[1]}"


class Dropper:
    """A server that hangs up on everyone, and counts them."""

    def __init__(self, listener: socket.socket) -> None:
        self.address = f"127.0.0.1:{listener.getsockname()[1]}"
        self.callers = 0
        self._listener = listener
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """Stop; returns when the thread has ended."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _serve(self) -> None:
        with suppress(OSError):  # the listener was shut down
            while True:
                self._listener.accept()[0].close()
                self.callers += 1


@pytest.fixture
def dropper() -> Iterator[Dropper]:
    """See `Dropper`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Dropper(listener)
        yield server
        server.close()


# Help.


def _example(name: str) -> str:
    example = importlib.import_module(f"worker.commands.{name.replace('-', '_')}").EXAMPLE
    assert isinstance(example, str)
    return example


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_every_help_has_an_example_as_it_was_written(name: str, columns: int) -> None:
    """Each help fits the terminal, and its example is not wrapped anew: it can be pasted."""
    done = run(*name.split(), "--help", COLUMNS=str(columns))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"Usage: usage-worker {name}".strip())
    assert [line for line in lines if len(line) > columns] == []
    written = [line for line in (_example(name) if name else EXAMPLE).splitlines() if line not in {"", "\b"}]
    assert written[0] == "Example:"
    assert any(line.startswith(f"$ usage-worker {name}".strip()) for line in written)
    shown = [line.strip() for line in lines]
    assert [line for line in written if line.strip() not in shown] == []


def test_the_group_lists_every_command() -> None:
    """Each command stands in the help with what it does."""
    shown = run("--help").stdout
    for name, text in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", shown, re.MULTILINE)


def test_every_setting_stands_in_the_help_of_run() -> None:
    """Name, description and default of each; of a secret no default, but the file's variable."""
    shown = " ".join(run("run", "--help").stdout.split())
    for name, field in Settings.model_fields.items():
        assert f" USAGE_{name.upper()} {field.description}" in shown
    assert "bound to" not in shown
    assert "USAGE_AMQP_URL_FILE instead: the file that holds it" in shown
    assert "USAGE_POSTGRES_DSN_FILE instead: the file that holds it" in shown
    assert "events that fill a batch [default: 5000]" in shown
    assert "exchanges and queues" not in shown
    assert "[default: declare]" in shown
    assert "guest" not in shown.partition("Example:")[0]


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ()])
def test_help_is_quick(arguments: Sequence[str]) -> None:
    """What it takes to list the commands loads none of the libraries that they need."""
    done = run(*arguments, command=(sys.executable, "-X", "importtime", "-m", "worker"))
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert {"click", "worker.cli"} <= loaded
    assert [name for name in HEAVY if name in loaded] == []


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), (), ("nope",), ("run", "--help"), ("check", "--nope")]
)
def test_the_module_is_the_command(arguments: Sequence[str]) -> None:
    """`python -m worker` says the same in the same words."""
    by_name, by_module = run(*arguments), run(*arguments, command=MODULE)
    assert by_module.returncode == by_name.returncode
    assert by_module.stdout == by_name.stdout
    assert by_module.stderr == by_name.stderr


def test_version() -> None:
    """The version is the distribution's."""
    assert re.fullmatch(r"usage-worker, version \d+\.\d+\.\d+\n", run("--version").stdout)


# Wrong usage, wrong settings.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nope",), "No such command 'nope'"),
        (("--nope",), "No such option"),
        (("run", "--nope"), "No such option"),
        (("check", "extra"), "Got unexpected extra argument (extra)"),
        (("publish",), "Missing argument 'FILE...'"),
        (("publish", "--rate", "0", "-"), "0 is not in the range x>=1"),
    ],
)
def test_wrong_usage(arguments: Sequence[str], message: str) -> None:
    """Exit status 2, the reason and the way to the help on standard error, nothing on standard output."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "--help' for help" in done.stderr


def test_no_command() -> None:
    """Without a command the help is shown, as an error."""
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == run("--help").stdout


@pytest.mark.parametrize("arguments", [("run",), ("migrate",), ("check",), ("publish", os.devnull)])
def test_wrong_settings(arguments: Sequence[str]) -> None:
    """Every wrong one at once, with variable, value and limit; of a secret not the value."""
    done = run(
        *arguments,
        USAGE_PREFETCH="70000",
        USAGE_WRITERS="many",
        USAGE_TOPOLOGY="guess",
        USAGE_HTTP_PORT="-1",
        USAGE_BATCH_MAX_AGE="0",
        USAGE_POSTGRES_SCHEMA="my schema",
        USAGE_AMQP_URL="http://ada:geheim@host/",
        USAGE_POSTGRES_DSN="mysql://ada:geheim@host/",
    )
    assert (done.returncode, done.stdout) == (2, "")
    for said in (
        "USAGE_PREFETCH='70000': input should be less than or equal to 65535",
        "USAGE_WRITERS='many': input should be a valid integer",
        "USAGE_TOPOLOGY='guess': input should be 'declare' or 'passive'",
        "USAGE_HTTP_PORT='-1': input should be greater than or equal to 0",
        "USAGE_BATCH_MAX_AGE='0': input should be greater than 0",
        "USAGE_POSTGRES_SCHEMA='my schema': ",
        "USAGE_AMQP_URL: must begin with amqp:// or amqps://",
        "USAGE_POSTGRES_DSN: must begin with postgres:// or postgresql://",
    ):
        assert said in done.stderr
    assert len(done.stderr.splitlines()) == 8
    assert "geheim" not in done.stderr


@pytest.mark.parametrize("password", ["gehe/im", "gehe?im", "gehe#im"])
@pytest.mark.parametrize("command", ["run", "migrate", "check"])
def test_a_password_that_breaks_the_url(command: str, password: str) -> None:
    """What stands before the sign would pass for host and port: how to write it, and nothing of the password."""
    done = run(
        command,
        USAGE_AMQP_URL=f"amqp://ada:{password}@host:5672/",
        USAGE_POSTGRES_DSN=f"postgresql://ada:{password}@host,[::1]:5432/usage",
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("host and port cannot be read; in user and password write %2F for /") == 2
    assert "gehe" not in done.stderr


def test_a_secret_that_is_given_twice(tmp_path: Path) -> None:
    """Variable and file at once: neither is guessed, neither is shown."""
    path = tmp_path / "dsn"
    path.write_text("postgresql://ada:geheim@host/", encoding="utf-8")
    done = run("check", USAGE_POSTGRES_DSN="postgresql://ada:geheim@other/", USAGE_POSTGRES_DSN_FILE=str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "USAGE_POSTGRES_DSN and USAGE_POSTGRES_DSN_FILE are both set: unset one of them" in done.stderr
    assert "geheim" not in done.stderr


def test_a_secret_file_that_is_not_there(tmp_path: Path) -> None:
    """The variable and the path are named."""
    done = run("run", USAGE_AMQP_URL_FILE=str(tmp_path / "nope"))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"USAGE_AMQP_URL_FILE='{tmp_path / 'nope'}' cannot be read: " in done.stderr


def test_a_port_that_is_taken(nowhere: str) -> None:
    """`run` does not start half: it names address and port, and the way out."""
    port = nowhere.rpartition(":")[2]
    done = run("run", USAGE_HTTP_PORT=port, USAGE_POSTGRES_DSN=f"postgresql://ada:geheim@{nowhere}/")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"USAGE_HTTP_HOST='127.0.0.1' with USAGE_HTTP_PORT={port} cannot be listened on: " in done.stderr
    assert "choose another port, or 0 for a free one" in done.stderr
    assert "Traceback" not in done.stderr


# Servers that are away.


async def test_run_waits_for_postgres(dropper: Dropper, nowhere: str, tmp_path: Path) -> None:
    """It tries again and again, says so once a queue, is alive but not ready, and stops cleanly while it waits."""
    worker = await WorkerProcess.start(
        {
            "USAGE_POSTGRES_DSN": f"postgresql://ada:geheim@{dropper.address}/usage?sslmode=disable",
            "USAGE_AMQP_URL": f"amqp://ada:geheim@{nowhere}/",
        },
        tmp_path / "log",
    )
    try:
        await until(lambda: dropper.callers >= 6, "both queues have tried three times", details=worker.log_tail)
        assert await worker.get("/livez") == (200, "ok\n")
        status, why = await worker.get("/readyz")
        assert (status, why) == (503, "waiting for the database\n")
    finally:
        status = await worker.stop()
    assert status == 0, worker.log_tail()
    said = [line for line in worker.log_lines() if line["event"].startswith("the database is away")]
    assert 1 <= len(said) <= 2
    assert all(line["why"].startswith(f"Postgres at {dropper.address}/usage does not answer: ") for line in said)
    assert "geheim" not in worker.log()
    assert "Traceback" not in worker.log()


async def test_run_waits_for_rabbitmq(system: System, nowhere: str) -> None:
    """The same with the database up: it names the broker, without the password."""
    worker = await system.start_worker(wait_ready=False, USAGE_AMQP_URL=f"amqp://ada:geheim@{nowhere}/")
    await until(lambda: worker.has_logged("waiting for the broker"), "it says what it waits for")

    async def is_connecting() -> bool:  # the line above may be the dead queue's
        return await worker.get("/readyz") == (503, "connecting to the broker\n")

    await until(is_connecting, "the queue of events waits for the broker too", details=worker.log_tail)
    assert await worker.get("/livez") == (200, "ok\n")
    assert await worker.stop() == 0, worker.log_tail()
    said = [line["why"] for line in worker.log_lines() if line["event"] == "waiting for the broker"]
    assert all(why.startswith(f"RabbitMQ at {nowhere}/ does not answer: ") for why in said)
    assert "geheim" not in worker.log()
    assert "Traceback" not in worker.log()


async def test_a_broker_that_hangs_up(system: System, dropper: Dropper) -> None:
    """A peer that accepts and closes is no broker: the worker tries again, and says so once a queue and cause."""
    worker = await system.start_worker(wait_ready=False, USAGE_AMQP_URL=f"amqp://ada:geheim@{dropper.address}/")
    await until(lambda: dropper.callers >= 8, "both queues have tried again and again", details=worker.log_tail)
    assert await worker.get("/readyz") == (503, "connecting to the broker\n"), worker.log_tail()
    assert await worker.stop() == 0, worker.log_tail()
    said = [line for line in worker.log_lines() if line["event"] == "waiting for the broker"]
    for queue in {line["queue"] for line in said}:
        causes = [line["why"] for line in said if line["queue"] == queue]
        assert all(before != after for before, after in pairwise(causes))


def test_check_with_everything_away(nowhere: str) -> None:
    """Exit status 1, both servers named on standard output, nothing beside, no secret."""
    done = run(
        "check",
        USAGE_POSTGRES_DSN=f"postgresql://ada:geheim@{nowhere}/usage",
        USAGE_AMQP_URL=f"amqp://ada:geheim@{nowhere}/",
    )
    assert (done.returncode, done.stderr) == (1, "")
    wrong = [line for line in done.stdout.splitlines() if not line.startswith("ok  ")]
    assert [line[: line.index(nowhere)] for line in wrong] == ["--  Postgres: ", "--  RabbitMQ: "]
    assert "geheim" not in done.stdout


async def test_a_probe_becomes_no_letter(system: System) -> None:
    """What `check` sends the way of dead letters is taken by the worker's drain, and leaves nothing behind."""
    done = run("check", **system.environment())
    assert done.returncode == 0, done.stdout
    assert await system.ready_messages(f"{system.queue}.dead") == 1
    await system.start_worker()
    await system.settle()
    assert await system.value("SELECT count(*) FROM ai_usage_dead_letters") == 0
