"""The migrate command, run in this process against a real server."""

import asyncio
import json
import re
import socket

import asyncpg
import pytest
from click.testing import CliRunner, Result

from worker.commands.migrate import command
from worker.errors import SchemaError, SystemUnavailableError
from worker.postgres.migrations import find_migrations

ALL = [migration.name for migration in find_migrations()]


@pytest.fixture
def environment(database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The command's settings name a fresh database; its DSN."""
    monkeypatch.setenv("USAGE_POSTGRES_DSN", database_dsn)
    return database_dsn


async def run(*arguments: str) -> Result:
    """Runs the command in a thread: it has an event loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, command, arguments)


@pytest.mark.usefixtures("environment")
async def test_it_says_what_it_did() -> None:
    """A dry run names what comes, the run names what it did, the next one that nothing is left to do."""
    dry = await run("--dry-run")
    assert (dry.exit_code, dry.stdout) == (0, "".join(f"would apply {name}\n" for name in ALL))
    first = await run()
    assert first.exit_code == 0
    assert re.sub(r"in \d+\.\d\d s", "in T s", first.stdout) == "".join(f"applied {name} in T s\n" for name in ALL)
    again = await run()
    assert (again.exit_code, again.stdout) == (0, f"nothing to do: the schema is at {len(ALL):04}\n")


@pytest.mark.usefixtures("environment")
async def test_it_says_so_to_programs_too() -> None:
    """With --json each line is an object that names the outcome."""
    lines = [json.loads(line) for line in (await run("--dry-run", "--json")).stdout.splitlines()]
    assert lines == [{"outcome": "would apply", "migration": name} for name in ALL]
    lines = [json.loads(line) for line in (await run("--json")).stdout.splitlines()]
    assert [(line["outcome"], line["migration"], line["notices"]) for line in lines] == [
        ("applied", name, []) for name in ALL
    ]
    again = json.loads((await run("--json")).stdout)
    assert again == {"outcome": "nothing to do", "version": len(ALL)}


async def test_it_names_what_it_left_alone(environment: str) -> None:
    """Tables that were there are listed below the migration that met them."""
    host = await asyncpg.connect(environment)
    await host.execute("CREATE TABLE users (id UUID PRIMARY KEY)")
    await host.close()
    result = await run()
    assert result.stdout.splitlines()[1] == '  relation "users" already exists, skipping'


async def test_what_cannot_be_migrated_is_an_error(environment: str) -> None:
    """A host's table that cannot be referred to: the migration, the reason, and no output that claims success."""
    host = await asyncpg.connect(environment)
    await host.execute("CREATE TABLE users (id INTEGER PRIMARY KEY)")
    await host.close()
    result = await run()
    assert isinstance(result.exception, SchemaError)
    assert re.match(r"0001_\w+\.sql failed and changed nothing: .*cannot be implemented", str(result.exception))
    assert result.stdout == ""


async def test_a_database_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is named, the password is not."""
    with socket.socket() as reserved:  # bound but not listening: nothing answers there
        reserved.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{reserved.getsockname()[1]}/usage"
        monkeypatch.setenv("USAGE_POSTGRES_DSN", f"postgresql://ada:geheim@{address}")
        result = await run()
    assert isinstance(result.exception, SystemUnavailableError)
    assert str(result.exception).startswith(f"Postgres at {address} does not answer: ")
    assert "geheim" not in str(result.exception)
