"""An operator's desk: a database with letters, and the commands of `dead-letters` on it."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
from harness import until
from harness.worker import COMMAND
from usage_events.rules import Window

from worker.batch import Batch, Entry
from worker.decode import decode
from worker.delivery import Delivery, PlainProperties
from worker.postgres.store import PostgresStore

ANY_TIME = Window(-(2**62), 2**62)


def run_command(dsn: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`usage-worker` with these arguments on this database, run to its end; standard input is no terminal."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("USAGE_")}
    return subprocess.run(
        [COMMAND, *arguments],
        env=given | {"USAGE_POSTGRES_DSN": dsn} | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class Desk:
    """A database with letters, and the commands on it."""

    def __init__(self, dsn: str, database: asyncpg.Connection) -> None:
        self.dsn = dsn
        self.database = database

    async def refuse(self, *bodies: Mapping[str, Any] | bytes, producer: str = "billing") -> None:
        """The worker gets these, each in a message of this producer's; what it refuses becomes a letter."""
        batch = Batch(0.0)
        properties = PlainProperties(content_type=None, app_id=producer, user_id=None, headers={"try": 1})
        for tag, body in enumerate(bodies):
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            batch.add(Entry(Delivery(tag, 1, raw, properties=properties), decode(raw, None, None, ANY_TIME)))
        store = PostgresStore(self.dsn, "public", worker="refuser")
        try:
            await store.write(batch)
        finally:
            await store.close()

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command of `dead-letters`, run to its end."""
        return run_command(self.dsn, "dead-letters", *arguments, **environment)

    def json(self, *arguments: str, **environment: str) -> list[dict[str, Any]]:
        """What a command that ends well prints, a line each."""
        done = self.run(*arguments, "--json", **environment)
        assert (done.returncode, done.stderr) == (0, "")
        return [json.loads(line) for line in done.stdout.splitlines()]

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """A command as a process; standard input is no terminal."""
        return await asyncio.create_subprocess_exec(
            COMMAND,
            "dead-letters",
            *arguments,
            env=os.environ | {"USAGE_POSTGRES_DSN": self.dsn},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    @asynccontextmanager
    async def other(self) -> AsyncIterator[asyncpg.Connection]:
        """Somebody else's connection."""
        connection = await asyncpg.connect(self.dsn)
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def role(self, *grants: str) -> AsyncIterator[str]:
        """The DSN of a role that may do this much with the tables of dead letters, and read the others."""
        name = f"role_{uuid4().hex[:12]}"
        await self.database.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
        await self.database.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
        for grant in grants:
            table = "ai_usage_dead_letter_actions" if grant == "INSERT" else "ai_usage_dead_letters"
            await self.database.execute(f"GRANT {grant} ON {table} TO {name}")
        try:
            yield (
                urlsplit(self.dsn)._replace(netloc=f"{name}:x@{urlsplit(self.dsn).netloc.rpartition('@')[2]}").geturl()
            )
        finally:
            await self.database.execute(f"DROP OWNED BY {name}")
            await self.database.execute(f"DROP ROLE {name}")

    async def hold(self, rows: int) -> None:
        """From so many actions on, whoever adds one waits inside its transaction; see `until_held` and `release`."""
        await self.database.execute(
            "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" IF (SELECT count(*) FROM ai_usage_dead_letter_actions) >= {rows} THEN"
            " PERFORM pg_advisory_xact_lock_shared(4711); END IF; RETURN NULL; END $$"
        )
        await self.database.execute(
            "CREATE TRIGGER hold BEFORE INSERT ON ai_usage_dead_letter_actions"
            " FOR EACH STATEMENT EXECUTE FUNCTION hold()"
        )
        await self.database.execute("SELECT pg_advisory_lock(4711)")

    async def until_held(self) -> None:
        """Return once somebody waits."""

        async def is_held() -> bool:
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted"
            return bool(await self.database.fetchval(waiting))

        await until(is_held, "the command waits in the middle of its work")

    async def release(self) -> None:
        """Let it go on, and nobody wait any more."""
        await self.database.execute("SELECT pg_advisory_unlock(4711)")

    async def contents(self) -> list[Any]:
        """All that stands in the tables."""
        tables = ("ai_usage_logs", "ai_usage_dead_letters", "ai_usage_dead_letter_actions")
        return [await self.database.fetch(f"SELECT t::text FROM {table} t ORDER BY 1") for table in tables]
