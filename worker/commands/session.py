"""A session with the database for one command: settings, connection, schema."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import asyncpg

from worker.errors import SchemaError
from worker.postgres.migrations import missing_migrations
from worker.postgres.session import address, connect, translated
from worker.settings import Settings, load_settings

CLOSE_SECONDS_MAX = 5.0


class Session(NamedTuple):
    """What a command works with."""

    connection: asyncpg.Connection
    settings: Settings


@asynccontextmanager
async def session(command: str) -> AsyncIterator[Session]:
    """Connect for a command, such as `dead-letters replay`, which the session is named after.

    What the library raises inside becomes the project's own error, any `OSError` included: a command that reads or
    writes files inside must raise its own.

    Raises:
        ConfigurationError: a setting is wrong.
        SchemaError: the tables are not there.
        SystemUnavailableError: the database is away, or goes away.
    """
    settings = load_settings()
    dsn, schema = settings.postgres_dsn.get_secret_value(), settings.postgres_schema
    connection = await connect(dsn, schema, name=f"usage-worker {command}")
    try:
        with translated():
            if missing := await missing_migrations(connection, schema):
                names = ", ".join(migration.name for migration in missing)
                raise SchemaError(f"the database at {address(dsn)} lacks {names}: run `usage-worker migrate`")
            yield Session(connection, settings)
    finally:
        await connection.close(timeout=CLOSE_SECONDS_MAX)
