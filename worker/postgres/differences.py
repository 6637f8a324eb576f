"""How the usage table, view and function of an existing database differ from those that the migrations make."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import asyncpg

from worker.postgres.session import translated


class Column(NamedTuple):
    """A column as the catalogue shows it."""

    type: str
    required: bool
    default: str | None


COLUMNS = {
    "id": Column("uuid", required=True, default="gen_random_uuid()"),
    "user_id": Column("uuid", required=True, default=None),
    "organization_id": Column("uuid", required=True, default=None),
    "tokens_used": Column("integer", required=True, default="0"),
    "input_tokens": Column("integer", required=True, default="0"),
    "output_tokens": Column("integer", required=True, default="0"),
    "endpoint": Column("character varying(255)", required=False, default=None),
    "model": Column("character varying(100)", required=False, default=None),
    "request_type": Column("character varying(50)", required=False, default=None),
    "request_metadata": Column("jsonb", required=False, default=None),
    "estimated_cost_usd": Column("numeric(10,6)", required=False, default=None),
    "created_at": Column("timestamp with time zone", required=True, default="now()"),
}
DIVIDED = {"id": Column("uuid", required=True, default="ai_usage_uuid7()")}  # by `partitions enable`
INDEXES = {
    "idx_ai_usage_user": "user_id",
    "idx_ai_usage_org": "organization_id",
    "idx_ai_usage_created": "created_at",
    "idx_ai_usage_endpoint": "endpoint",
    "idx_ai_usage_type": "request_type",
}
CONSTRAINTS = {
    "PRIMARY KEY (id)": "ids are not kept unique",
    "FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE": "rows of deleted users stay or stop the deletion",
    "FOREIGN KEY (organization_id) REFERENCES organizations(id) ON DELETE CASCADE": (
        "rows of deleted organizations stay or stop the deletion"
    ),
}
VIEW_COLUMNS = (
    "usage_date",
    "user_id",
    "organization_id",
    "request_type",
    "total_tokens",
    "total_input",
    "total_output",
    "request_count",
    "total_cost",
)
ARGUMENTS = "uuid, uuid, integer, integer, integer, character varying, character varying, character varying, jsonb"

_UTC_DAYS = re.compile(r"(AT TIME ZONE|timezone\()\s*'(UTC|Etc/UTC|GMT)'", re.IGNORECASE)

# A column that numbers itself needs no value, so it is not required.
_FIND_COLUMNS = """
    SELECT attname, format_type(atttypid, atttypmod), attnotnull AND attidentity = '', pg_get_expr(adbin, adrelid)
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
# Whole indexes that can be used for a search by their first column, whatever their name.
_FIND_INDEXED = """
    SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
    WHERE indrelid = $1 AND indisvalid AND indpred IS NULL
"""
_FIND_CONSTRAINTS = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = $1 AND convalidated"
_FIND_FUNCTIONS = """
    SELECT oidvectortypes(proargtypes) AS arguments, format_type(prorettype, NULL) AS result
    FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace
    WHERE nspname = $1 AND proname = 'log_ai_usage'
"""


async def differences(connection: asyncpg.Connection, schema: str) -> list[str]:
    """One line for each difference, with what follows from it; none where all is as the migrations make it.

    Reads the catalogue only, which any role may.
    """
    with translated():
        table = await _relation(connection, schema, "ai_usage_logs")
        view = await _relation(connection, schema, "ai_usage_daily")
        found = [
            *(await _table_differences(connection, table)),
            *(await _view_differences(connection, view)),
            *_function_differences(
                {row["arguments"]: row["result"] for row in await connection.fetch(_FIND_FUNCTIONS, schema)}
            ),
        ]
    return [f"{schema}.{line}" for line in found]


async def _relation(connection: asyncpg.Connection, schema: str, name: str) -> int | None:
    return await connection.fetchval(  # type: ignore[no-any-return] # an oid
        "SELECT pg_class.oid FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
        " WHERE nspname = $1 AND relname = $2",
        schema,
        name,
    )


async def _table_differences(connection: asyncpg.Connection, table: int | None) -> list[str]:
    if table is None:
        return ["ai_usage_logs is missing: run usage-worker migrate"]
    columns = {name: Column(*rest) for name, *rest in await connection.fetch(_FIND_COLUMNS, table)}
    indexed = {name for (name,) in await connection.fetch(_FIND_INDEXED, table)}
    constraints = {_unqualified(text) for (text,) in await connection.fetch(_FIND_CONSTRAINTS, table)}
    return [
        *_column_differences(columns),
        *(
            f"ai_usage_logs: no index begins with {column}, as {index} does: searches by it read the whole table"
            for index, column in INDEXES.items()
            if column in columns and column not in indexed
        ),
        *(
            f"ai_usage_logs: there is no {text}: {effect}"
            for text, effect in CONSTRAINTS.items()
            if text not in constraints
        ),
    ]


def _column_differences(columns: Mapping[str, Column]) -> Iterator[str]:
    for name, wanted in COLUMNS.items():
        if name not in columns:
            yield f"ai_usage_logs.{name} is missing: add it as {_column(wanted)}"
        elif columns[name] not in (wanted, DIVIDED.get(name)):
            yield f"ai_usage_logs.{name} is {_column(columns[name])}, not {_column(wanted)}"
    for name, column in columns.items():
        if name not in COLUMNS and column.required and column.default is None:
            yield f"ai_usage_logs.{name} is NOT NULL without a default: no event can be stored until it has one"


def _column(column: Column) -> str:
    default = "" if column.default is None else f" DEFAULT {column.default}"
    return f"{column.type}{' NOT NULL' if column.required else ''}{default}"


def _unqualified(definition: str) -> str:
    """The constraint without the schema of the table that it refers to, which depends on the session's search_path."""
    return re.sub(r'REFERENCES (?:"(?:[^"]|"")+"|\w+)\.', "REFERENCES ", definition)


async def _view_differences(connection: asyncpg.Connection, view: int | None) -> list[str]:
    if view is None:
        return ["ai_usage_daily is missing: run usage-worker migrate"]
    columns = tuple(name for name, *_ in await connection.fetch(_FIND_COLUMNS, view))
    definition = await connection.fetchval("SELECT pg_get_viewdef($1::oid)", view)
    lines = []
    if columns != VIEW_COLUMNS:
        lines.append(f"ai_usage_daily has the columns {', '.join(columns)}, not {', '.join(VIEW_COLUMNS)}")
    if not _UTC_DAYS.search(definition or ""):
        lines.append("ai_usage_daily: its days follow the session's TimeZone, not UTC: set TimeZone where it is read")
    return lines


def _function_differences(functions: Mapping[str, str]) -> list[str]:
    """Given the result's type by the arguments' types."""
    if functions.get(ARGUMENTS) == "uuid":
        return []
    if not functions:
        return ["log_ai_usage is missing: run usage-worker migrate"]
    there = "; ".join(f"({arguments}) returns {result}" for arguments, result in functions.items())
    return [f"log_ai_usage takes {there}; not ({ARGUMENTS}) returns uuid"]
