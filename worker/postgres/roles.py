"""The roles of least privilege: `schema/roles.sql`, run in the schema that holds the tables."""

from functools import partial
from importlib.resources import files
from pathlib import Path

import asyncpg

from worker.errors import SchemaError, UsageWorkerError
from worker.postgres import migrations
from worker.postgres.migrations import alone, patiently, quoted

OWNER, WORKER, READER, OPERATOR = ROLES = ("usage_owner", "usage_worker", "usage_reader", "usage_operator")
STATEMENT_SECONDS_MAX = 120


def roles_sql() -> str:
    """The text, from the installed package or from the checkout that it runs in.

    Raises:
        SchemaError: it is in neither.
    """
    packaged = files("worker") / "_schema" / "roles.sql"
    found = packaged if packaged.is_file() else Path(__file__).parents[2] / "schema" / "roles.sql"
    if not found.is_file():
        raise SchemaError(f"there is no {found}: install usage-worker again")
    return found.read_text(encoding="utf-8")


async def grant_roles(connection: asyncpg.Connection, schema: str) -> None:
    """Make the roles where they are missing, and give them their rights; in one transaction.

    Raises:
        UsageWorkerError: this user may not do so; says who may, and nothing is changed.
        SystemUnavailableError: a lock was not to be had, or the connection failed.
    """
    async with alone(connection, schema):
        await patiently("roles.sql", partial(_grant, connection, schema))


async def _grant(connection: asyncpg.Connection, schema: str) -> None:
    try:
        async with connection.transaction():
            await connection.execute(
                f"SET LOCAL search_path = {quoted(schema)}, pg_temp;"
                # Tables change their owner: who waits for one makes the workers wait, who may have what it lacks.
                f"SET LOCAL lock_timeout = {migrations.LOCK_TIMEOUT_MS};"
                f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS_MAX}s'"
            )
            await connection.execute(roles_sql(), timeout=STATEMENT_SECONDS_MAX)
    except asyncpg.InsufficientPrivilegeError as error:
        hint = error.hint or "run it as a superuser, or as a role with CREATEROLE that owns the schema"
        raise UsageWorkerError(f"{error.message}: {hint}") from error
