"""`usage-worker publish` from outside: files and standard input in, messages out, and an exit status that tells."""

import asyncio
import json
import os
import pty
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from aio_pika.abc import AbstractIncomingMessage
from usage_queue import declare, open_channel, receive


class Run(NamedTuple):
    """What a finished command has left behind."""

    status: int
    output: str
    errors: str


def event(**changes: object) -> bytes:
    """A line that is right, but for the changes."""
    fields: dict[str, object] = {
        "id": str(uuid4()),
        "user_id": str(uuid4()),
        "organization_id": str(uuid4()),
        "input_tokens": 3,
        "output_tokens": 4,
        "created_at": datetime.now(UTC).isoformat(),
    }
    return json.dumps(fields | changes).encode()


async def start(
    arguments: Sequence[str], environment: Mapping[str, str], stderr: int = asyncio.subprocess.PIPE
) -> asyncio.subprocess.Process:
    """The command, with nothing but these settings in its environment."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("USAGE_")}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", "publish", *arguments, env=given | dict(environment),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=stderr,
    )  # fmt: skip


async def publish(*arguments: str, stdin: bytes = b"", **environment: str) -> Run:
    """Runs the command to its end."""
    process = await start(arguments, environment)
    output, errors = await process.communicate(stdin)
    assert process.returncode is not None
    return Run(process.returncode, output.decode(), errors.decode())


def events_of(messages: Sequence[AbstractIncomingMessage]) -> list[Any]:
    """The events in the messages."""
    values = [json.loads(message.body) for message in messages]
    return [event for value in values for event in (value if isinstance(value, list) else [value])]


async def test_a_file_is_published(amqp_url: str, names: Any, tmp_path: Path) -> None:
    """1,050 events arrive in 11 messages, byte for byte and under the given name; the counts go to standard output."""
    lines = [event() for _ in range(1_050)]
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"\n".join(lines) + b"\n")
    async with open_channel(amqp_url) as channel:
        queue = await declare(channel, names.exchange, names.queue)
        run = await publish(str(path), "--app-id", "loader", USAGE_AMQP_URL=amqp_url, USAGE_EXCHANGE=names.exchange)
        messages = await receive(queue, 11)
    assert run == Run(0, "published: 1,050 events confirmed in 11 messages\n", "")
    assert {message.app_id for message in messages} == {"loader"}
    groups = [lines[start : start + 100] for start in range(0, 1_050, 100)]
    assert sorted(message.body for message in messages) == sorted(b"[" + b",".join(group) + b"]" for group in groups)


async def test_bad_lines_are_refused_and_the_others_sent(amqp_url: str, names: Any, tmp_path: Path) -> None:
    """Bad lines are told with file, line and field, good ones arrive, and the exit status says that it was a part."""
    good = [event() for _ in range(3)]
    bad = [event(input_token=1), b'{"id":', event(tokens_used=8)]
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"\n".join([good[0], bad[0], b"", good[1], bad[1], bad[2], good[2]]))
    async with open_channel(amqp_url) as channel:
        queue = await declare(channel, names.exchange, names.queue)
        run = await publish(str(path), USAGE_AMQP_URL=amqp_url, USAGE_EXCHANGE=names.exchange)
        messages = await receive(queue, 1)
    assert run.status == 3
    assert run.output == "published: 3 events confirmed in 1 message, 3 lines refused\n"
    assert run.errors.splitlines() == [
        f"{path}:2: input_token: unknown field; did you mean input_tokens?",
        f"{path}:5: the text ends where a value is expected, at byte 6",
        f"{path}:6: tokens_used: 8 is not input_tokens + output_tokens = 3 + 4 = 7",
    ]
    assert events_of(messages) == [json.loads(line) for line in good]


async def test_standard_input_and_json_counts(amqp_url: str, names: Any) -> None:
    """`-` reads standard input, and --json leaves one object and nothing else on standard output."""
    lines = [event(), event(), b"[]", event()]
    async with open_channel(amqp_url) as channel:
        queue = await declare(channel, names.exchange, names.queue)
        run = await publish(
            "-", "--json", "--events-per-message", "2", "--rate", "10000",
            stdin=b"\n".join(lines), USAGE_AMQP_URL=amqp_url, USAGE_EXCHANGE=names.exchange,
        )  # fmt: skip
        messages = await receive(queue, 2)
    assert run.status == 3
    assert json.loads(run.output) == {"confirmed": 3, "messages": 2, "refused": 1, "returned": 0, "unconfirmed": 0}
    assert run.output.count("\n") == 1
    assert run.errors == "<stdin>:3: an array; write one event a line\n"
    assert len(events_of(messages)) == 3


async def test_without_validation_lines_go_as_they_are(amqp_url: str, names: Any) -> None:
    """--no-validate sends what the rules would refuse: to feed the dead letters, for one."""
    async with open_channel(amqp_url) as channel:
        queue = await declare(channel, names.exchange, names.queue)
        run = await publish(
            "-", "--no-validate", "--events-per-message", "1",
            stdin=b"not json\n", USAGE_AMQP_URL=amqp_url, USAGE_EXCHANGE=names.exchange,
        )  # fmt: skip
        messages = await receive(queue, 1)
    assert run == Run(0, "published: 1 event confirmed in 1 message\n", "")
    assert messages[0].body == b"not json"


async def test_needs_no_database(amqp_url: str, names: Any) -> None:
    """An empty input is done at once, with a Postgres that nobody can reach."""
    async with open_channel(amqp_url) as channel:
        await declare(channel, names.exchange, names.queue)
        dsn = "postgresql://nobody@127.0.0.1:1/none"
        run = await publish("-", USAGE_AMQP_URL=amqp_url, USAGE_EXCHANGE=names.exchange, USAGE_POSTGRES_DSN=dsn)
    assert run == Run(0, "published: 0 events confirmed in 0 messages\n", "")


async def test_a_missing_exchange_says_what_to_do(amqp_url: str, names: Any) -> None:
    """Nothing is sent and the next step is named."""
    run = await publish("-", stdin=event(), USAGE_AMQP_URL=amqp_url, USAGE_EXCHANGE=names.exchange)
    assert (run.status, run.output) == (1, "stopped: 0 events confirmed in 0 messages\n")
    assert run.errors.startswith(f"usage-worker: exchange '{names.exchange}' at amqp://")
    assert run.errors.endswith(" does not exist; start a worker or run `usage-worker check`\n")


async def test_an_exchange_without_a_queue_says_what_to_do(amqp_url: str, names: Any) -> None:
    """Events that come back are counted as such, and the command does not claim them."""
    async with open_channel(amqp_url) as channel:
        await channel.declare_exchange(names.exchange, "topic", durable=True)
        run = await publish("-", stdin=event(), USAGE_AMQP_URL=amqp_url, USAGE_EXCHANGE=names.exchange)
    assert (run.status, run.output) == (1, "stopped: 0 events confirmed in 0 messages, 1 event came back\n")
    assert run.errors.endswith("came back; start a worker or run `usage-worker check`\n")


async def test_no_broker_says_what_to_do(unused_tcp_port: int) -> None:
    """A broker that is not there ends the command with its address, without the password and without a traceback."""
    run = await publish("-", USAGE_AMQP_URL=f"amqp://guest:s3cret@127.0.0.1:{unused_tcp_port}/")
    assert run.status == 1
    assert run.errors.startswith(f"usage-worker: RabbitMQ at amqp://127.0.0.1:{unused_tcp_port}/ cannot be reached: ")
    assert run.errors.endswith("; start RabbitMQ, or set USAGE_AMQP_URL\n")
    assert (run.errors.count("\n"), "s3cret" in run.errors) == (1, False)


async def test_wrong_usage(tmp_path: Path) -> None:
    """A file that is not there, a number past its limit and a URL that is none each end with status 2 and the value."""
    path = tmp_path / "events.ndjson"
    path.touch()
    absent, too_many, no_url = await asyncio.gather(
        publish(str(tmp_path / "absent")),
        publish(str(path), "--events-per-message", "1001"),
        publish(str(path), USAGE_AMQP_URL="amqp://guest:s3cret@127.0.0.1:999999/"),
    )
    assert (absent.status, too_many.status, no_url.status) == (2, 2, 2)
    assert f"File '{tmp_path / 'absent'}' does not exist." in absent.errors
    assert "1001 is not in the range 1<=x<=1000." in too_many.errors
    assert no_url.errors.startswith("usage-worker: USAGE_AMQP_URL: host and port cannot be read")
    assert "s3cret" not in no_url.errors


async def test_a_terminal_sees_how_far_it_is(amqp_url: str, names: Any, tmp_path: Path) -> None:
    """On a terminal a bar stands on standard error, full at the end; standard output is the same as ever."""
    path = tmp_path / "events.ndjson"
    path.write_bytes(event())
    terminal, its_other_end = pty.openpty()
    async with open_channel(amqp_url) as channel:
        await declare(channel, names.exchange, names.queue)
        settings = {"TERM": "xterm", "USAGE_AMQP_URL": amqp_url, "USAGE_EXCHANGE": names.exchange}
        process = await start([str(path)], settings, its_other_end)
        os.close(its_other_end)
        output, _ = await process.communicate()
    shown = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert output == b"published: 1 event confirmed in 1 message\n"
    assert "100%" in shown
    assert "1 event confirmed, " in shown


async def test_interrupted_it_says_how_far_it_came(amqp_url: str, names: Any) -> None:
    """Ctrl-C while standard input is silent ends the command at once, with the count of what is confirmed."""
    async with open_channel(amqp_url) as channel:
        queue = await declare(channel, names.exchange, names.queue)
        settings = {"USAGE_AMQP_URL": amqp_url, "USAGE_EXCHANGE": names.exchange}
        process = await start(["-", "--json", "--events-per-message", "1"], settings)
        assert process.stdin is not None
        for _ in range(3):  # a message that has arrived tells that those before it are confirmed
            process.stdin.write(event() + b"\n")
            await receive(queue, 1)
        process.send_signal(signal.SIGINT)
        await process.wait()
        output, errors = await process.communicate()
    counts = json.loads(output)
    assert process.returncode == 1
    assert counts["confirmed"] >= 2
    assert counts["confirmed"] + counts["unconfirmed"] == 3
    # The AMQP library may say more of its own end.
    assert b"usage-worker: interrupted; publish the same files again: what has arrived counts once\n" in errors
