"""The books: where each event id of a producer's ledger has ended. Any number of ids, in constant memory.

The ids go to temporary tables of the session. They are looked up one by one, in the order of the index, which the
session's settings see to: a ledger's time grows with its own length, and not with that of the tables.
"""

import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg
from usage_events.contract import UUID_PATTERN

from worker.postgres.session import buffer

STATEMENT_SECONDS_MAX = 6 * 3600.0  # a ledger of a hundred million ids is one statement
BODIES_AT_ONCE = 500
BODIES_AT_ONCE_BYTES_MAX = 4 * 1024 * 1024
MISSING_AT_ONCE = 5000
_ID_IN_BODY = re.compile(UUID_PATTERN.strip("^$").encode())

# Its errors name no field: nothing in the message could be told apart, so its letter stands for every id in its body.
WHOLE_MESSAGE = """l.event_id IS NULL AND l.errors @> '[{"field": ""}]'"""

_GIVEN = "CREATE TEMPORARY TABLE ledger_given (id uuid NOT NULL)"
_DISTINCT = "CREATE TEMPORARY TABLE ledger_distinct AS SELECT DISTINCT id FROM ledger_given ORDER BY id"
_NOT_STORED = """
CREATE TEMPORARY TABLE ledger_not_stored AS
SELECT g.id FROM ledger_distinct g WHERE NOT EXISTS (SELECT FROM ai_usage_logs e WHERE e.id = g.id) ORDER BY g.id
"""
# An id that has several letters counts once: as an open one, if there is one, else as what was seen last.
_LETTERS = """
CREATE TEMPORARY TABLE ledger_letters AS
SELECT DISTINCT ON (g.id) g.id, l.reason, l.status, false AS whole
FROM ledger_not_stored g JOIN ai_usage_dead_letters l ON l.event_id = g.id
ORDER BY g.id, l.status = 'open' DESC, l.last_seen DESC
"""
_MISSING = """
CREATE TEMPORARY TABLE ledger_missing AS
SELECT id FROM ledger_not_stored EXCEPT SELECT id FROM ledger_letters ORDER BY id
"""
_IN_BODIES = "CREATE TEMPORARY TABLE ledger_in_bodies (id uuid NOT NULL, letter_id uuid NOT NULL)"
_LETTERS_OF_BODIES = """
INSERT INTO ledger_letters
SELECT DISTINCT ON (b.id) b.id, l.reason, l.status, true
FROM ledger_in_bodies b JOIN ledger_missing m ON m.id = b.id JOIN ai_usage_dead_letters l ON l.id = b.letter_id
ORDER BY b.id, l.status = 'open' DESC, l.last_seen DESC
"""
_COUNT_LETTERS = "SELECT whole, reason, status, count(*) AS ids FROM ledger_letters GROUP BY 1, 2, 3 ORDER BY 1, 4 DESC"
_WHOLE_OPEN = f"""
SELECT l.reason, count(*) AS letters FROM ai_usage_dead_letters l
WHERE l.status = 'open' AND {WHOLE_MESSAGE} GROUP BY 1 ORDER BY 1
"""  # noqa: S608 - names of this module only


@dataclass(slots=True, frozen=True)
class LetterCount:
    """Ids that have only a letter of this reason and status; `whole`: they stand in a whole message's body."""

    reason: str
    status: str
    ids: int
    whole: bool


@dataclass(slots=True, frozen=True)
class Books:
    """Where the distinct ids of a ledger have ended.

    `whole_open` counts open letters of whole messages by reason: of one that is cut off or encoded, nobody can tell
    which ids it holds.
    """

    distinct: int
    stored: int
    letters: tuple[LetterCount, ...]
    missing: int
    whole_open: dict[str, int]


class Ledger:
    """A producer's ids, in temporary tables of a session of `session.connect` that lasts as long as this.

    await ledger.open(); await ledger.add(ids), as often as there are more; await ledger.balance(); ledger.missing()
    """

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def open(self) -> None:
        """Make room for the ids."""
        await self._run("SET statement_timeout = 0")
        await self._run(_GIVEN)

    async def add(self, ids: Sequence[bytes]) -> None:
        """More ids, each the text of a UUID."""
        await self._copy("ledger_given", b"\n".join(ids) + b"\n")

    async def balance(self) -> Books:
        """Where each id has ended, at one instant: an event that is stored meanwhile is in one place or the other."""
        async with self._connection.transaction(isolation="repeatable_read"):
            distinct = _row_count(await self._run(_DISTINCT))
            not_stored = _row_count(await self._run(_NOT_STORED))
            await self._run(_LETTERS)
            missing = _row_count(await self._run(_MISSING))
            if missing:
                missing -= await self._find_in_bodies()
            counts = await self._connection.fetch(_COUNT_LETTERS, timeout=STATEMENT_SECONDS_MAX)
            whole_open = await self._connection.fetch(_WHOLE_OPEN, timeout=STATEMENT_SECONDS_MAX)
        return Books(
            distinct=distinct,
            stored=distinct - not_stored,
            letters=tuple(LetterCount(row["reason"], row["status"], row["ids"], row["whole"]) for row in counts),
            missing=missing,
            whole_open={row["reason"]: row["letters"] for row in whole_open},
        )

    async def missing(self) -> AsyncIterator[UUID]:
        """The ids that are nowhere, in their order; after `balance`."""
        query = "SELECT id FROM ledger_missing EXCEPT SELECT id FROM ledger_letters ORDER BY id"
        async with self._connection.transaction():
            async for row in self._connection.cursor(query, prefetch=MISSING_AT_ONCE, timeout=STATEMENT_SECONDS_MAX):
                yield row["id"]

    async def _find_in_bodies(self) -> int:
        """Look for the missing ids in the bodies of whole messages; how many were found."""
        await self._run(_IN_BODIES)
        async for letter_id, ids in ids_in_bodies(self._connection):
            await self._copy("ledger_in_bodies", b"".join(b"%b\t%b\n" % (each, letter_id) for each in ids))
        # All but the letters is temporary now, small or not, and has no index.
        await self._run("SET LOCAL enable_hashjoin = on")
        return _row_count(await self._run(_LETTERS_OF_BODIES))

    async def _run(self, statement: str) -> str:
        return str(await self._connection.execute(statement, timeout=STATEMENT_SECONDS_MAX))

    async def _copy(self, table: str, text: bytes) -> None:
        await self._connection.copy_to_table(table, source=buffer(text), format="text")


async def ids_in_bodies(connection: asyncpg.Connection) -> AsyncIterator[tuple[bytes, set[bytes]]]:
    """Each letter of a whole message, by its id's text, with what looks like an id in its body; in a transaction."""
    sizes = connection.cursor(
        f"SELECT l.id, octet_length(l.body) AS size_bytes FROM ai_usage_dead_letters l"  # noqa: S608 - a text of this file
        f" WHERE {WHOLE_MESSAGE} AND l.body IS NOT NULL",
        prefetch=BODIES_AT_ONCE,
        timeout=STATEMENT_SECONDS_MAX,
    )
    chosen: list[UUID] = []
    chosen_bytes = 0
    async for row in sizes:
        if chosen and (len(chosen) == BODIES_AT_ONCE or chosen_bytes + row["size_bytes"] > BODIES_AT_ONCE_BYTES_MAX):
            for found in await _read_bodies(connection, chosen):
                yield found
            chosen, chosen_bytes = [], 0
        chosen.append(row["id"])
        chosen_bytes += row["size_bytes"]
    for found in await _read_bodies(connection, chosen):
        yield found


async def _read_bodies(connection: asyncpg.Connection, letter_ids: list[UUID]) -> list[tuple[bytes, set[bytes]]]:
    rows = await connection.fetch("SELECT id, body FROM ai_usage_dead_letters WHERE id = ANY($1)", letter_ids)
    found = ((str(row["id"]).encode(), set(_ID_IN_BODY.findall(row["body"]))) for row in rows)
    return [(letter_id, ids) for letter_id, ids in found if ids]


def _row_count(status: str) -> int:
    return int(status.rpartition(" ")[2])
