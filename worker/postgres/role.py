"""What `usage-worker check` says of the role that the worker logs in as: what it lacks, and what it has too much."""

import asyncpg

from worker.findings import Finding, not_checked, ok, warning, wrong
from worker.settings import Settings

_TOPIC = "Postgres"

# What a worker changes of a dead letter.
MARKS = ("status", "reason", "errors", "occurrences", "last_seen", "worker", "body", "event_id", "user_id",
         "organization_id", "model")  # fmt: skip
# (table, right, columns): without columns it has to be a right on the whole table.
WORKER_RIGHTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("users", "SELECT", ("id",)),
    ("organizations", "SELECT", ("id",)),
    ("ai_usage_logs", "SELECT", ()),
    ("ai_usage_logs", "INSERT", ()),
    ("ai_usage_dead_letters", "SELECT", ()),
    ("ai_usage_dead_letters", "INSERT", ()),
    ("ai_usage_dead_letters", "UPDATE", MARKS),
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
# What a worker never does: whoever has its password could.
_TOO_MUCH = """
    SELECT CASE
        WHEN (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN 'is a superuser'
        WHEN EXISTS (SELECT FROM usage_tables WHERE pg_has_role(relowner, 'USAGE')) THEN 'owns usage tables'
        WHEN EXISTS (SELECT FROM usage_tables WHERE has_table_privilege(oid, 'DELETE, TRUNCATE'))
            THEN 'may delete from usage tables'
        WHEN EXISTS (SELECT FROM usage_tables
                     WHERE relname = 'ai_usage_logs' AND has_any_column_privilege(oid, 'UPDATE'))
            THEN 'may change stored events'
    END
"""
_WITH_TABLES = """
    WITH usage_tables AS (
        SELECT pg_class.oid, relname, relowner FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname = $1
          AND relname IN ('ai_usage_logs', 'ai_usage_dead_letters', 'ai_usage_dead_letter_actions')
    )
"""


async def inspect_rights(connection: asyncpg.Connection, settings: Settings) -> list[Finding]:
    """What this role lacks for the worker's work, each with the grant; else, whether it may do far more than that."""
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
    for table, right, columns in WORKER_RIGHTS:
        is_lacking = await connection.fetchval(_LACKS_RIGHT, schema, table, right, columns)
        tables += is_lacking is not None
        if is_lacking:
            named = f" ({', '.join(columns)})" if columns else ""
            missing.append((f"{right}{named}", f'"{schema}".{table}'))
    findings = [
        wrong(_TOPIC, f"{user} lacks {right} on {what}", f"GRANT {right} ON {what} TO {user}")
        for right, what in missing
    ]
    if not tables:
        return [*findings, not_checked(_TOPIC, "rights on tables: there are none yet")]
    too_much = await connection.fetchval(_WITH_TABLES + _TOO_MUCH, schema)
    if too_much:
        remedy = "let the worker log in as usage_worker, which usage-worker migrate --roles makes"
        findings.append(warning(_TOPIC, f"{user} {too_much}, and the worker needs far less", remedy))
    return findings or [ok(_TOPIC, f"{user} has the rights that the worker needs, and not many more")]
