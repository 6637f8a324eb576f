"""What `usage-worker check` looks at in Postgres: the server, the schema, this role's rights, the clock."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import asyncpg

from worker.errors import SystemUnavailableError, UsageWorkerError
from worker.findings import Finding, judge_clock, not_checked, ok, wrong
from worker.postgres.differences import differences
from worker.postgres.migrations import migrate, schema_version
from worker.postgres.session import address, connect, translated
from worker.settings import Settings

VERSION_MIN, VERSION_MAX = 15, 18
CLOCK_READINGS = 3
CLOSE_SECONDS_MAX = 2.0
_TOPIC = "Postgres"

# (table, right, columns): without columns it has to be a right on the whole table.
_RIGHTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("users", "SELECT", ("id",)),
    ("organizations", "SELECT", ("id",)),
    ("ai_usage_logs", "SELECT", ()),
    ("ai_usage_logs", "INSERT", ()),
    ("ai_usage_dead_letters", "SELECT", ()),
    ("ai_usage_dead_letters", "INSERT", ()),
    (
        "ai_usage_dead_letters",
        "UPDATE",
        (
            "status",
            "reason",
            "errors",
            "occurrences",
            "last_seen",
            "worker",
            "event_id",
            "user_id",
            "organization_id",
            "model",
        ),
    ),
    ("ai_usage_dead_letter_actions", "INSERT", ()),
    ("ai_usage_migrations", "SELECT", ()),
)
# No row where there is no such table: then it is the schema that is wrong, not the rights.
_LACKS_RIGHT = """
    SELECT CASE WHEN $4::text[] = '{}' THEN NOT has_table_privilege(pg_class.oid, $3)
           ELSE EXISTS (SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = ANY ($4)
                        AND NOT has_column_privilege(pg_class.oid, attnum, $3)) END
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = $1 AND relname = $2
"""
_REMEDIES: tuple[tuple[type[BaseException], str], ...] = (
    (asyncpg.InvalidAuthorizationSpecificationError, "set user and password in USAGE_POSTGRES_DSN"),
    (asyncpg.InvalidCatalogNameError, "create the database, or name another in USAGE_POSTGRES_DSN"),
    (asyncpg.TargetServerAttributeNotMatched, "no host takes writes; name the primary in USAGE_POSTGRES_DSN"),
)


async def inspect_postgres(settings: Settings, report: Callable[[Finding], None]) -> None:
    """Looks at everything, whatever fails, and reports each finding at once."""
    dsn = settings.postgres_dsn.get_secret_value()
    try:
        connection = await connect(dsn, settings.postgres_schema, name="usage-worker check")
    except SystemUnavailableError as error:
        report(wrong(_TOPIC, str(error).removeprefix("Postgres at "), _remedy(error.__cause__)))
        return
    try:
        for look in (_server, _version, _differences, _rights, _clock):
            try:
                with translated():
                    findings = await look(connection, settings)
            except UsageWorkerError as error:
                findings = [wrong(_TOPIC, str(error))]
            for finding in findings:
                report(finding)
    finally:
        with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):  # all is told already
            await connection.close(timeout=CLOSE_SECONDS_MAX)


def _remedy(cause: BaseException | None) -> str:
    for kind, remedy in _REMEDIES:
        if isinstance(cause, kind):
            return remedy
    return "start Postgres, or set USAGE_POSTGRES_DSN"


async def _server(connection: asyncpg.Connection, settings: Settings) -> list[Finding]:
    user = await connection.fetchval("SELECT current_user")
    version = connection.get_server_version()
    where = address(settings.postgres_dsn.get_secret_value())
    shown = await connection.fetchval("SHOW server_version")
    findings = [ok(_TOPIC, f"connected to {where} as {user}, version {shown}")]
    if not VERSION_MIN <= version.major <= VERSION_MAX:
        findings = [
            wrong(
                _TOPIC,
                f"version {version.major} at {where} is not among {VERSION_MIN} to {VERSION_MAX}",
                "use one that usage-worker is tested with",
            )
        ]
    if await connection.fetchval("SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool"):
        return [*findings, wrong(_TOPIC, f"{where} takes no writes", "name the primary in USAGE_POSTGRES_DSN")]
    return [*findings, ok(_TOPIC, "takes writes")]


async def _version(connection: asyncpg.Connection, settings: Settings) -> list[Finding]:
    schema = settings.postgres_schema
    missing = await migrate(connection, schema, dry_run=True)
    if missing:
        names = ", ".join(migration.name for migration in missing)
        return [wrong(_TOPIC, f"schema {schema} lacks {names}", "run usage-worker migrate")]
    return [ok(_TOPIC, f"schema {schema} is at {await schema_version(connection, schema):04}, the newest")]


async def _differences(connection: asyncpg.Connection, settings: Settings) -> list[Finding]:
    schema = settings.postgres_schema
    return [wrong(_TOPIC, line) for line in await differences(connection, schema)] or [
        ok(_TOPIC, f"{schema}.ai_usage_logs, ai_usage_daily and log_ai_usage are as this version makes them")
    ]


async def _rights(connection: asyncpg.Connection, settings: Settings) -> list[Finding]:
    schema = settings.postgres_schema
    user = await connection.fetchval("SELECT quote_ident(current_user)")
    database = await connection.fetchval("SELECT quote_ident(current_database())")
    missing = []
    if not await connection.fetchval("SELECT has_database_privilege(current_database(), 'TEMPORARY')"):
        missing.append(("TEMPORARY", f"DATABASE {database}"))
    if await connection.fetchval(
        "SELECT NOT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = $1", schema
    ):
        missing.append(("USAGE", f'SCHEMA "{schema}"'))
    tables = 0
    for table, right, columns in _RIGHTS:
        is_lacking = await connection.fetchval(_LACKS_RIGHT, schema, table, right, columns)
        tables += is_lacking is not None
        if is_lacking:
            missing.append((right, f'"{schema}".{table}'))
    findings = [
        wrong(_TOPIC, f"{user} lacks {right} on {what}", f"GRANT {right} ON {what} TO {user}")
        for right, what in missing
    ]
    if not tables:
        return [*findings, not_checked(_TOPIC, "rights on tables: there are none yet")]
    return findings or [ok(_TOPIC, f"{user} has the rights that the worker needs")]


async def _clock(connection: asyncpg.Connection, _: Settings) -> list[Finding]:
    readings = [await _read_clock(connection) for _ in range(CLOCK_READINGS)]
    narrowest = min(readings, key=lambda reading: reading[1] - reading[0])
    return [judge_clock(_TOPIC, "the server's", *narrowest)]


async def _read_clock(connection: asyncpg.Connection) -> tuple[float, float]:
    """Between which limits the server's clock is ahead of ours, in seconds: it was read some time in the round trip."""
    begun_at = datetime.now(UTC)
    theirs: datetime = await connection.fetchval("SELECT clock_timestamp()")
    return (theirs - datetime.now(UTC)).total_seconds(), (theirs - begun_at).total_seconds()
