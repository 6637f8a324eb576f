"""The README's session with dead letters is run as it stands there, and says what it says there.

`UPDATE_README=1` writes what it says now into the README instead.
"""

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import pytest
from harness import System, event
from harness.worker import COMMAND

from worker import app, heal
from worker.settings import load_settings

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"(?<=```console\n).*?(?=```)", re.DOTALL)
NAMES = UUID("5e5510a0-0000-4000-8000-000000000000")
CUSTOMER = UUID("0198c0de-0000-7000-8000-0000000000c5")
GOOD, RENAMED, EARLY = 10_000, 3_000, 2_000
LATE = "# meanwhile the customer has been created; within a minute the workers have seen it"
# What is another each time: ids of letters, moments.
VARYING = (
    re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"),
    re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)"),
)


@pytest.mark.timeout(180)
async def test_the_session_in_the_readme(system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three thousand events with a renamed field, two thousand of a customer who comes late, one piece of garbage."""
    monkeypatch.setattr(heal.Healer.__init__, "__kwdefaults__", {"interval_seconds": 0.5})
    monkeypatch.setattr(app, "worker_name", lambda: "worker-1:7")
    ids = _write_files(tmp_path)
    text = README.read_text(encoding="utf-8")
    section = text[text.index("### A session") : text.index("## Guarantees")]
    async with _worker(system):
        for name in ("good", "chat", "batch"):
            await _run(f"usage-worker publish --no-validate --app-id {name} {name}.ndjson", system, tmp_path)
        await _run("usage-worker publish --no-validate --app-id probe garbage.ndjson", system, tmp_path)
        await system.until(lambda: _has(system, "ai_usage_dead_letters", RENAMED + EARLY + 1), "all are refused")
        await system.until_stored(GOOD)
        parts = BLOCK.split(section)
        blocks = [await _replay(block, system, tmp_path) for block in BLOCK.findall(section)]
        said = "".join(part for pair in zip_longest(parts, blocks, fillvalue="") for part in pair)
    assert await system.stored() == len(ids) - 1
    if os.environ.get("UPDATE_README"):
        README.write_text(text.replace(section, said), encoding="utf-8")
    else:
        assert _steady(said) == _steady(section)


def _write_files(folder: Path) -> list[str]:
    """The producers' events, and the ledger of all their ids."""

    def write(name: str, count: int, **fields: Any) -> list[str]:
        events = [event(id=str(uuid5(NAMES, f"{name} {number}")), **fields) for number in range(count)]
        bodies = [json.dumps(each) for each in events]
        if name == "chat":
            bodies = [body.replace('"input_tokens"', '"input_token"') for body in bodies]
        if name == "garbage":
            bodies = [body[: len(body) // 2] for body in bodies]
        (folder / f"{name}.ndjson").write_text("\n".join(bodies) + "\n", encoding="utf-8")
        return [each["id"] for each in events]

    ids = [*write("good", GOOD), *write("chat", RENAMED), *write("batch", EARLY, user_id=str(CUSTOMER))]
    ids += write("garbage", 1)
    (folder / "ids.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
    return ids


@asynccontextmanager
async def _worker(system: System) -> AsyncIterator[None]:
    """A worker in this process, whose healer does not wait a minute."""
    settings = load_settings(
        amqp_url=system.amqp_url, postgres_dsn=system.dsn, exchange=system.exchange, queue=system.queue, http_port=0
    )
    running: asyncio.Future[int] = asyncio.ensure_future(app.run(settings))
    try:
        yield
    finally:
        signal.raise_signal(signal.SIGTERM)
        assert await asyncio.wait_for(running, 20) == 0


async def _replay(block: str, system: System, folder: Path) -> str:
    """What a block of the session says when it is run again."""
    said = ""
    for line in block.splitlines():
        if line.startswith("# "):
            assert line == LATE
            await system.value("INSERT INTO users VALUES ($1) RETURNING id", CUSTOMER)
            await system.until(lambda: _has(system, "ai_usage_logs", GOOD + RENAMED + EARLY), "they have healed")
            said += f"{line}\n"
        elif line.startswith("$ "):
            said += f"{line}\n{await _run(line.removeprefix('$ '), system, folder)}"
    return said


async def _run(command: str, system: System, folder: Path) -> str:
    """What a command says, on either stream."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("USAGE_")}
    process = await asyncio.create_subprocess_shell(
        command,
        cwd=folder,
        env=inherited | system.environment() | {"PATH": f"{COMMAND.parent}:{os.environ['PATH']}"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    text = output.decode().replace(system.queue, "usage.events").replace(system.exchange, "usage")
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


async def _has(system: System, table: str, rows: int) -> bool:
    return bool(await system.value(f"SELECT count(*) = $1 FROM {table}", rows))


def _steady(text: str) -> str:
    for pattern in VARYING:
        text = pattern.sub(lambda found: "·" * len(found[0]), text)
    return text
