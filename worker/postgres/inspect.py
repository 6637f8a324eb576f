"""What `usage-worker check` looks at in Postgres: the server, the schema, this role's rights, the clock."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import asyncpg
from usage_events.tls import POSTGRES, advice

from worker.errors import SystemUnavailableError, UsageWorkerError
from worker.findings import Finding, judge_clock, ok, wrong
from worker.postgres.differences import differences
from worker.postgres.migrations import migrate, schema_version
from worker.postgres.partitions.inspect import inspect_partitions
from worker.postgres.role import inspect_rights
from worker.postgres.session import address, connect, translated
from worker.settings import Settings

VERSION_MIN, VERSION_MAX = 15, 18
CLOCK_READINGS = 3
CLOSE_SECONDS_MAX = 2.0
_TOPIC = "Postgres"

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
        report(wrong(_TOPIC, str(error).removeprefix("Postgres at "), _remedy(error.__cause__, dsn)))
        return
    try:
        for look in (_server, _version, _differences, inspect_partitions, inspect_rights, _clock):
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


def _remedy(cause: BaseException | None, dsn: str) -> str:
    for kind, remedy in _REMEDIES:
        if isinstance(cause, kind):
            return remedy
    if "sslmode" in dsn and cause is not None and advice(cause, POSTGRES):
        return ""  # the error has it already
    return "start Postgres, or set USAGE_POSTGRES_DSN"


async def _server(connection: asyncpg.Connection, settings: Settings) -> list[Finding]:
    user = await connection.fetchval("SELECT current_user")
    version = connection.get_server_version()
    where = address(settings.postgres_dsn.get_secret_value())
    shown = await connection.fetchval("SHOW server_version")
    is_encrypted = await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    security = "with TLS" if is_encrypted else "without TLS"
    findings = [ok(_TOPIC, f"connected to {where} as {user} {security}, version {shown}")]
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


async def _clock(connection: asyncpg.Connection, _: Settings) -> list[Finding]:
    readings = [await _read_clock(connection) for _ in range(CLOCK_READINGS)]
    narrowest = min(readings, key=lambda reading: reading[1] - reading[0])
    return [judge_clock(_TOPIC, "the server's", *narrowest)]


async def _read_clock(connection: asyncpg.Connection) -> tuple[float, float]:
    """Between which limits the server's clock is ahead of ours, in seconds: it was read some time in the round trip."""
    begun_at = datetime.now(UTC)
    theirs: datetime = await connection.fetchval("SELECT clock_timestamp()")
    return (theirs - datetime.now(UTC)).total_seconds(), (theirs - begun_at).total_seconds()
