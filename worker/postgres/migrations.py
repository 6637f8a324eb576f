"""Brings a database to this version's schema: plain SQL files, applied in order, each in one transaction."""

import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import asyncpg
import stamina

from worker.errors import SchemaError, SystemUnavailableError
from worker.postgres.session import describe, translated

LOCK_TIMEOUT_MS = 2000  # a migration that waits for a table makes all who come after it wait as well
PATIENCE_SECONDS = 120.0  # how long locks are tried for, again and again
MIGRATION_SECONDS_MAX = 3600.0

# The server or the connection fails: it may work later, unlike everything else that a migration can run into.
_SYSTEM_CLASSES = ("08", "53", "57", "58")
_READ_ONLY = "25006"
T = TypeVar("T")
_BUSY = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)

_FILE_NAME = re.compile(r"(?P<version>\d{4})_[a-z0-9_]+\.sql")
_TABLE = "ai_usage_migrations"
_CREATE_TABLE = f"""
    CREATE TABLE {_TABLE} (
        version INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        checksum TEXT NOT NULL,
        applied_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
        applied_by TEXT NOT NULL DEFAULT session_user
    );
    COMMENT ON TABLE {_TABLE} IS 'The migrations that this schema holds; checksum is the SHA-256 of the file';
"""
_ADD_ROW = f"INSERT INTO {_TABLE} (version, name, checksum) VALUES ($1, $2, $3)"  # noqa: S608 - a constant name


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, its name, its SQL."""

    version: int
    name: str
    sql: str = field(repr=False)

    @property
    def checksum(self) -> str:
        """The SHA-256 of the SQL, in hexadecimal digits."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Applied:
    """A migration that was applied just now, and what the server said meanwhile (such as what it skipped)."""

    migration: Migration
    seconds: float
    notices: tuple[str, ...]


class _LockHeldError(Exception):
    """Another session holds the advisory lock."""


def find_migrations() -> list[Migration]:
    """The migrations of this version in order: from the installed package, or from the checkout it runs in.

    Raises:
        SchemaError: there are none, or their names do not number them.
    """
    packaged = files("worker") / "_schema" / "migrations"
    folder = packaged if packaged.is_dir() else Path(__file__).parents[2] / "schema" / "migrations"
    paths = [path for path in folder.iterdir() if path.name.endswith(".sql")] if folder.is_dir() else []
    if not paths:
        raise SchemaError(f"there are no migrations in {folder}: install usage-worker again")
    # read_text makes every line end the same, so that a checkout on another system has the same checksum
    return number_migrations({path.name: path.read_text(encoding="utf-8") for path in paths})


def number_migrations(texts: dict[str, str]) -> list[Migration]:
    """Migrations from file names and their SQL, in order.

    Raises:
        SchemaError: a name does not begin with four digits, or two begin with the same.
    """
    found: dict[int, Migration] = {}
    for name in sorted(texts):
        match = _FILE_NAME.fullmatch(name)
        if match is None:
            raise SchemaError(f"migration {name!r} is not named like 0001_what_it_does.sql: rename it")
        version = int(match["version"])
        if version in found:
            raise SchemaError(f"migrations {found[version].name} and {name} have one number: renumber the newer")
        found[version] = Migration(version, name, texts[name])
    return list(found.values())


def pending_migrations(known: Sequence[Migration], checksums: dict[int, str]) -> list[Migration]:
    """Those of `known` that are not applied yet, given version and checksum of the applied ones.

    Raises:
        SchemaError: the database is newer than `known`, or an applied file has changed since.
    """
    latest = max((migration.version for migration in known), default=0)
    newest = max(checksums, default=0)
    if newest > latest:
        raise SchemaError(
            f"the database is at migration {newest:04}, this version knows up to {latest:04}: upgrade usage-worker"
        )
    for migration in known:
        applied = checksums.get(migration.version, migration.checksum)
        if applied != migration.checksum:
            raise SchemaError(
                f"{migration.name} has changed since it was applied (SHA-256 {applied} then, {migration.checksum} now):"
                " restore the file, and put the change into a new migration"
            )
    return [migration for migration in known if migration.version not in checksums]


async def migrate(
    connection: asyncpg.Connection,
    schema: str,
    *,
    dry_run: bool = False,
    known: Sequence[Migration] | None = None,
    on_applied: Callable[[Applied], object] = lambda _: None,
) -> list[Migration]:
    """Applies what is missing in `schema`, one migration a transaction; tells `on_applied` after each commit.

    Several hosts may call it at once: one works, the others wait for it. A dry run takes no lock and changes nothing.

    Returns:
        The migrations that were applied; in a dry run those that would be.

    Raises:
        SchemaError: the database cannot be migrated, and why; the failing migration has changed nothing.
        SystemUnavailableError: a lock was not to be had within `PATIENCE_SECONDS`, or the connection failed.
    """
    known = find_migrations() if known is None else known
    if dry_run:
        return pending_migrations(known, await _checksums(connection, schema))
    async with alone(connection, schema):
        pending = pending_migrations(known, await _checksums(connection, schema))
        for migration in pending:
            on_applied(await patiently(migration.name, partial(_apply, connection, schema, migration)))
    return pending


async def missing_migrations(connection: asyncpg.Connection, schema: str) -> list[Migration]:
    """The migrations that this version needs and `schema` does not hold; reads only.

    A newer database is no reason to complain: migrations only add, and workers of the old version run on while the new
    one is rolled out.
    """
    checksums = await _checksums(connection, schema)
    return [migration for migration in find_migrations() if migration.version not in checksums]


async def schema_version(connection: asyncpg.Connection, schema: str) -> int:
    """The number of the newest migration that `schema` holds, 0 where it holds none; reads only."""
    return max(await _checksums(connection, schema), default=0)


async def _checksums(connection: asyncpg.Connection, schema: str) -> dict[int, str]:
    with explained(f"{schema}.{_TABLE} cannot be read"):
        if not await _has_table(connection, schema):
            return {}
        rows = await connection.fetch(f"SELECT version, checksum FROM {quoted(schema)}.{_TABLE}")  # noqa: S608 - quoted
    return {row["version"]: row["checksum"] for row in rows}


async def _has_table(connection: asyncpg.Connection, schema: str) -> bool:
    # the catalogue, and not to_regclass, which fails for a role without rights on the schema
    return await connection.fetchval(  # type: ignore[no-any-return] # EXISTS is a bool
        "SELECT EXISTS (SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
        " WHERE nspname = $1 AND relname = $2)",
        schema,
        _TABLE,
    )


async def patiently(what: str, work: Callable[[], Awaitable[T]]) -> T:
    """What `work`, a transaction, returns; begun again while others hold a lock that it needs.

    Raises:
        SchemaError: it cannot work in this database; `what` stands in front.
        SystemUnavailableError: a lock was not to be had within `PATIENCE_SECONDS`, or the connection failed.
    """
    again = stamina.AsyncRetryingCaller(attempts=None, timeout=PATIENCE_SECONDS)
    with explained(f"{what} failed and changed nothing"):
        try:
            return await again.on(_BUSY)(work)
        except _BUSY as error:
            raise SystemUnavailableError(
                f"{what} changed nothing: for {PATIENCE_SECONDS:g} s others held a lock that it needs"
                f" ({describe(error)}): end long transactions on users, organizations and the usage tables"
                " (pg_stat_activity shows them), then run it again"
            ) from error


async def _apply(connection: asyncpg.Connection, schema: str, migration: Migration) -> Applied:
    start = perf_counter()
    with _notices(connection) as notices:
        async with connection.transaction(isolation="read_committed"):
            await _prepare(connection, schema)
            await connection.execute(migration.sql, timeout=MIGRATION_SECONDS_MAX)
            await connection.execute(_ADD_ROW, migration.version, migration.name, migration.checksum)
    return Applied(migration, perf_counter() - start, tuple(notices))


async def _prepare(connection: asyncpg.Connection, schema: str) -> None:
    # IF NOT EXISTS would ask for the right to create the schema also where it is there
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", schema):
        await connection.execute(f"CREATE SCHEMA {quoted(schema)}")
    await connection.execute(
        # temporary tables last: none of them may stand for a table of the schema
        f"SET LOCAL search_path = {quoted(schema)}, pg_temp;"
        f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS};"
        f"SET LOCAL statement_timeout = {round(MIGRATION_SECONDS_MAX * 1000)};"
        "SET LOCAL client_min_messages = notice"
    )
    if not await _has_table(connection, schema):
        await connection.execute(_CREATE_TABLE)


@contextmanager
def _notices(connection: asyncpg.Connection) -> Iterator[list[str]]:
    """Collects what the server says meanwhile."""
    said: list[str] = []

    def listen(_connection: object, message: asyncpg.PostgresLogMessage) -> None:
        said.append(message.message or "")

    connection.add_log_listener(listen)
    try:
        yield said
    finally:
        connection.remove_log_listener(listen)


@asynccontextmanager
async def alone(connection: asyncpg.Connection, schema: str) -> AsyncIterator[None]:
    """Holds the schema's advisory lock. Asks for it again and again: a statement that waits would hold a snapshot."""
    key = int.from_bytes(hashlib.sha256(f"usage-worker migrate {schema}".encode()).digest()[:8], signed=True)
    patiently = stamina.AsyncRetryingCaller(attempts=None, timeout=PATIENCE_SECONDS, wait_max=1.0, wait_jitter=0.5)
    try:
        with translated():
            await patiently.on(_LockHeldError)(_lock, connection, key)
    except _LockHeldError:
        raise SystemUnavailableError(
            f"another migrate has been at work on schema {schema} for {PATIENCE_SECONDS:g} s:"
            " wait for it to end, then run this again"
        ) from None
    try:
        yield
    finally:
        if not connection.is_closed():  # a lost connection has lost its locks, too
            with translated():
                await connection.execute("SELECT pg_advisory_unlock($1)", key)


async def _lock(connection: asyncpg.Connection, key: int) -> None:
    if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", key):
        raise _LockHeldError("another migrate holds the advisory lock of this schema")


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns the library's errors into the project's own.

    Raises:
        SystemUnavailableError: the server or the connection to it fails.
        SchemaError: the statement cannot work in this database; `what` stands in front.
    """
    with translated():
        try:
            yield
        except asyncpg.PostgresError as error:
            state = error.sqlstate or ""
            if state[:2] in _SYSTEM_CLASSES or state == _READ_ONLY:
                raise
            raise SchemaError(f"{what}: {describe(error)} (SQLSTATE {state})") from error


def quoted(name: str) -> str:
    """An identifier for a statement's text."""
    return '"' + name.replace('"', '""') + '"'
