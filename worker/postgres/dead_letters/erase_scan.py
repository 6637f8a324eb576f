"""Where somebody who shall be forgotten is named: each table is read once, what names them noted in a temporary one."""

from collections.abc import Callable
from typing import NamedTuple

import asyncpg

from worker.dead_letters.erasing import Subject
from worker.postgres.dead_letters.picked import BODY_BYTES, CREATE, SCAN_SECONDS_MAX, scanning

SCAN_ROWS = 2000

# Bytes as text that a pattern can be looked for in, whatever they are: NUL bytes, which UTF-16 is full of, left out.
# An id may hide in JSON's escapes of digits and letters; whether it does is for `Subject` to say.
_IN_BYTES = r"""
(replace(encode({0}, 'escape'), '\000', '') ~* $1 OR replace(encode({0}, 'escape'), '\000', '') ~* '\\u00[2346]')
"""
LETTER_TEXTS = ("content_type", "app_id", "amqp_user", "exchange", "routing_key", "queue", "model", "worker")
LETTER_JSONS = ("errors", "headers")
ROW_TEXTS = ("endpoint", "model", "request_type")

_CREATE_MORE = """
CREATE TEMPORARY TABLE IF NOT EXISTS picked_rows (ordinal BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id UUID);
CREATE TEMPORARY TABLE IF NOT EXISTS picked_actions (ordinal BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id UUID)
"""
_ESTIMATE = "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = to_regclass($1)"


class Scan(NamedTuple):
    """How one table is read: which rows name them, what is noted of each, and where."""

    table: str
    is_named: str
    noted: tuple[str, ...]
    into: str


def scans(subject: Subject) -> tuple[Scan, ...]:
    """One for each table. `$1` is the pattern of the id, `$2` the id."""
    column = subject.field.value
    letter_texts = ", ".join(f"l.{name}" for name in (*LETTER_TEXTS, *LETTER_JSONS))
    row_texts = ", ".join(f"l.{name}" for name in (*ROW_TEXTS, "request_metadata"))
    return (
        Scan(
            "ai_usage_dead_letters",
            f"(l.{column} = $2 OR concat_ws(' ', {letter_texts}) ~* $1 OR coalesce({_IN_BYTES.format('l.body')}, false)"
            f" OR coalesce({_IN_BYTES.format('l.edited_body')}, false))",
            ("l.id", BODY_BYTES),
            "picked_letters (id, body_bytes)",
        ),
        Scan(
            "ai_usage_dead_letter_actions",
            "(concat_ws(' ', l.who, l.note, l.filter) ~* $1 AND $2::uuid IS NOT NULL)",
            ("l.id",),
            "picked_actions (id)",
        ),
        Scan(
            "ai_usage_logs",
            f"(l.{column} <> $2 AND concat_ws(' ', {row_texts}) ~* $1)",
            ("l.id",),
            "picked_rows (id)",
        ),
    )


async def estimate(connection: asyncpg.Connection, scan: Scan) -> int:
    """About how many rows a table has."""
    return int(await connection.fetchval(_ESTIMATE, scan.table))


async def look(connection: asyncpg.Connection, scan: Scan, subject: Subject, on_rows: Callable[[int], None]) -> None:
    """Read a table once, by a cursor; `on_rows` hears how many rows have been looked at."""
    places = ", ".join(f"${number}" for number in range(1, len(scan.noted) + 1))
    noted = ", ".join(scan.noted)
    async with connection.transaction():
        await scanning(connection)
        await connection.execute(f"{CREATE}; {_CREATE_MORE}")
        cursor = await connection.cursor(
            f"SELECT {scan.is_named} AS is_named, {noted} FROM {scan.table} l",  # noqa: S608 - the code's own texts
            subject.pattern,
            subject.id,
            timeout=SCAN_SECONDS_MAX,
        )
        while rows := await cursor.fetch(SCAN_ROWS, timeout=SCAN_SECONDS_MAX):
            found = [tuple(row)[1:] for row in rows if row["is_named"]]
            await connection.executemany(f"INSERT INTO {scan.into} VALUES ({places})", found)  # noqa: S608 - as above
            on_rows(len(rows))
