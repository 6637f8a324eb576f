"""The books on the real tables: each id of a ledger in exactly one place, whatever letters and messages it has."""

import json
import re
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import pytest
from harness import ORGANIZATION, USER

from worker.postgres.books import BODIES_AT_ONCE_BYTES_MAX, Books, Ledger, LetterCount
from worker.postgres.session import connect
from worker.postgres.whereabouts import Answer, look_up

WHOLE = json.dumps([{"field": "", "message": "is no JSON", "input": None}])
ONE_FIELD = json.dumps([{"field": "id", "message": "is no UUID", "input": "x"}])


class Tables:
    """Rows and letters as a worker would have left them."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection

    async def store(self, *ids: UUID) -> None:
        """Events that are stored."""
        await self.connection.executemany(
            "INSERT INTO ai_usage_logs (id, user_id, organization_id) VALUES ($1, $2, $3)",
            [(each, USER, ORGANIZATION) for each in ids],
        )

    async def refuse(
        self,
        event_id: UUID | None,
        reason: str = "invalid",
        status: str = "open",
        *,
        body: bytes = b"{}",
        errors: str = ONE_FIELD,
        age_seconds: int = 0,
    ) -> UUID:
        """A letter; its id."""
        letter_id = await self.connection.fetchval(
            "INSERT INTO ai_usage_dead_letters"
            " (fingerprint, event_id, reason, status, body, errors, first_seen, last_seen)"
            " VALUES (sha256(gen_random_uuid()::text::bytea), $1, $2, $3, $4, $5,"
            " now() - $6::float8 * interval '1 s', now() - $6::float8 * interval '1 s') RETURNING id",
            event_id, reason, status, body, errors, age_seconds,
        )  # fmt: skip
        assert isinstance(letter_id, UUID)
        return letter_id


@pytest.fixture
async def tables(migrated_dsn: str) -> AsyncIterator[Tables]:
    """A database of the test's own, reached as the command reaches it."""
    connection = await connect(migrated_dsn, "public", name="tests")
    await connection.execute("INSERT INTO users VALUES ($1)", USER)
    await connection.execute("INSERT INTO organizations VALUES ($1)", ORGANIZATION)
    yield Tables(connection)
    await connection.close()


async def balance(tables: Tables, *ids: UUID) -> tuple[Books, list[UUID]]:
    """The books of these ids, and the missing ones; each id is added on its own."""
    ledger = Ledger(tables.connection)
    await ledger.open()
    for each in ids:
        await ledger.add([str(each).upper().encode()])
    return await ledger.balance(), [each async for each in ledger.missing()]


async def test_each_id_is_counted_in_one_place(tables: Tables) -> None:
    """Given twice counts once; stored beside a letter is stored; of several letters the open one stands."""
    stored, both, twice_refused, settled, missing = (uuid4() for _ in range(5))
    await tables.store(stored, both)
    await tables.refuse(both, "id_conflict")
    await tables.refuse(twice_refused, "too_old", age_seconds=60)
    await tables.refuse(twice_refused, "invalid", "discarded")
    await tables.refuse(settled, "invalid", "discarded", age_seconds=60)
    await tables.refuse(settled, "unknown_user", "recovered")
    books, nowhere = await balance(tables, stored, stored, both, twice_refused, settled, missing)
    assert (books.distinct, books.stored, books.missing, nowhere) == (5, 2, 1, [missing])
    assert set(books.letters) == {
        LetterCount("too_old", "open", 1, whole=False),
        LetterCount("unknown_user", "recovered", 1, whole=False),
    }


async def test_a_letter_of_a_whole_message_stands_for_the_ids_in_it(tables: Tables) -> None:
    """An id in either case inside such a body is not missing; what stands in a single event's body proves nothing."""
    lower, upper, elsewhere = (uuid4() for _ in range(3))
    body = f'[{{"id": "{lower}"}}, {{"id": "{str(upper).upper()}"}}, {{'.encode()
    await tables.refuse(None, "bad_json", body=body, errors=WHOLE)
    await tables.refuse(None, "bad_json", body=body + b" ", errors=WHOLE)  # a second one adds nothing
    await tables.refuse(None, "delivery_limit", body=b"\xff\x00", errors=WHOLE)
    await tables.refuse(None, "invalid", body=f'{{"id": "x", "user_id": "{elsewhere}"}}'.encode())
    books, nowhere = await balance(tables, lower, upper, elsewhere)
    assert books.letters == (LetterCount("bad_json", "open", 2, whole=True),)
    assert (books.missing, nowhere) == (1, [elsewhere])
    assert books.whole_open == {"bad_json": 2, "delivery_limit": 1}


async def test_bodies_larger_than_one_reading_are_all_searched(tables: Tables) -> None:
    """Bodies are read a few at a time by their size, and none is skipped at the seams."""
    ids = [uuid4() for _ in range(5)]
    padding = b" " * (BODIES_AT_ONCE_BYTES_MAX // 2)
    for each in ids:
        await tables.refuse(None, "too_large", body=padding + str(each).encode() + padding, errors=WHOLE)
    books, nowhere = await balance(tables, *ids)
    assert (books.letters, nowhere) == ((LetterCount("too_large", "open", 5, whole=True),), [])


async def test_the_time_of_a_ledger_does_not_hang_on_the_tables(tables: Tables) -> None:
    """The ids are looked up by the tables' indexes, one by one: neither big table is read whole."""
    await balance(tables, uuid4())
    for table, condition in (("ai_usage_logs", "e.id = g.id"), ("ai_usage_dead_letters", "e.event_id = g.id")):
        query = f"EXPLAIN SELECT FROM ledger_distinct g WHERE EXISTS (SELECT FROM {table} e WHERE {condition})"
        plan = "\n".join([row[0] for row in await tables.connection.fetch(query)])
        assert re.search(rf"Index (Only )?Scan using \w+ on {table}", plan), plan


async def test_single_events_are_found_with_their_history(tables: Tables) -> None:
    """Stored, both, only refused, inside a whole message, never seen: each answer with its letters and actions."""
    stored, both, refused, inside, unknown = (uuid4() for _ in range(5))
    await tables.store(stored, both)
    await tables.refuse(both, "id_conflict")
    letter_id = await tables.refuse(refused)
    await tables.refuse(None, "bad_json", body=f"[{inside}".encode(), errors=WHOLE)
    await tables.connection.execute(
        "INSERT INTO ai_usage_dead_letter_actions (who, letter_id, action, note) VALUES ('ada@desk', $1, 'note', 'x')",
        letter_id,
    )
    found = await look_up(tables.connection, [unknown, inside, refused, both, stored])
    assert [each.answer for each in found] == [
        Answer.NEVER_SEEN,
        Answer.DEAD_LETTER,
        Answer.DEAD_LETTER,
        Answer.BOTH,
        Answer.STORED,
    ]
    assert [[letter.whole for letter in each.letters] for each in found] == [[], [True], [False], [False], []]
    assert [action["who"] for action in found[2].letters[0].history] == ["ada@desk"]
