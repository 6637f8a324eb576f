"""A database of the fuzzer's own, the worker's store on it, and an observer who compares it with the books."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Self
from uuid import UUID

import asyncpg
from usage_events.contract import Reason

from chaos.fuzz.books import Books, Expected, Letter
from chaos.fuzz.check import Checked, WrongError, is_same_metadata
from chaos.fuzz.grow import REFUSED_ENDPOINT, REFUSED_INPUT_TOKENS, REFUSED_TOKENS_MIN, REFUSED_TYPE
from chaos.fuzz.reference import UNKNOWN_ID, Row
from worker.batch import Batch
from worker.postgres.store import PostgresStore
from worker.store import Written

# What a host application may put on the table: exceptions of a trigger's own and by accident, a limit, a late refusal.
_DROP_HOST_RULES = """
DROP TRIGGER IF EXISTS host_refuses ON ai_usage_logs;
DROP TRIGGER IF EXISTS host_refuses_late ON ai_usage_logs;
ALTER TABLE ai_usage_logs DROP CONSTRAINT IF EXISTS host_limit;
"""
_HOST_RULES = f"""
CREATE OR REPLACE FUNCTION host_refuses() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.endpoint = '{REFUSED_ENDPOINT}' THEN RAISE EXCEPTION 'no such endpoint here'; END IF;
    PERFORM 1 / (NEW.input_tokens - {REFUSED_INPUT_TOKENS});
    RETURN NEW;
END $$;
CREATE OR REPLACE FUNCTION host_refuses_late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'refused at the commit'; END $$;
CREATE TRIGGER host_refuses BEFORE INSERT ON ai_usage_logs FOR EACH ROW EXECUTE FUNCTION host_refuses();
CREATE CONSTRAINT TRIGGER host_refuses_late AFTER INSERT ON ai_usage_logs DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (NEW.request_type = '{REFUSED_TYPE}') EXECUTE FUNCTION host_refuses_late();
ALTER TABLE ai_usage_logs ADD CONSTRAINT host_limit CHECK (tokens_used < {REFUSED_TOKENS_MIN});
"""
_ROWS = """
SELECT uuid_send(id), uuid_send(user_id), uuid_send(organization_id), tokens_used, input_tokens, output_tokens,
       endpoint, model, request_type, request_metadata::text, (estimated_cost_usd * 1000000)::bigint,
       (extract(epoch FROM created_at) * 1000000)::bigint
FROM ai_usage_logs WHERE id = ANY($1::uuid[])
"""
_LETTERS = """
SELECT fingerprint, body, content_type, reason, occurrences, status, encode(uuid_send(event_id), 'hex') AS event_id
FROM ai_usage_dead_letters WHERE fingerprint = ANY($1::bytea[])
"""


class Bench:
    """Plays batches and compares.

    Args:
        dsn: a migrated database that nobody else writes to.
        users: ids as text, which are made; the same of `organizations`.
    """

    def __init__(self, dsn: str, users: Sequence[str], organizations: Sequence[str]) -> None:
        self._dsn = dsn
        self._users = [UUID(user) for user in users]
        self._organizations = [UUID(organization) for organization in organizations]
        self._store = PostgresStore(dsn, "public", worker="fuzz")
        self._observer: asyncpg.Connection
        self._stack = AsyncExitStack()
        self.books: Books

    async def __aenter__(self) -> Self:
        self._observer = await asyncpg.connect(self._dsn)
        self._stack.push_async_callback(self._observer.close)
        self._stack.push_async_callback(self._store.close)
        for table, ids in (("users", self._users), ("organizations", self._organizations)):
            insert = f"INSERT INTO {table} VALUES ($1) ON CONFLICT DO NOTHING"
            await self._observer.executemany(insert, [(one,) for one in ids])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def begin(self, *, has_host_rules: bool) -> None:
        """Empty both tables, and begin new books."""
        await self._observer.execute("TRUNCATE ai_usage_logs, ai_usage_dead_letters, ai_usage_dead_letter_actions")
        await self._observer.execute(_DROP_HOST_RULES + (_HOST_RULES if has_host_rules else ""))
        users, organizations = ([one.bytes for one in ids] for ids in (self._users, self._organizations))
        self.books = Books(users, organizations, has_host_rules=has_host_rules)

    async def play(self, checked: Sequence[Checked]) -> Written:
        """Write a batch, and compare all that it has touched.

        Raises:
            WrongError: the store fails, or the tables hold something else than they have to.
        """
        batch = Batch(0.0)
        for one in checked:
            batch.add(one.entry)
        expected = self.books.expect(checked)
        try:
            written = await self._store.write(batch)
        except Exception as error:
            raise WrongError(f"the store raises {error!r}") from error
        _check_written(written, expected)
        await self._check_rows(expected)
        await self._check_letters(expected)
        return written

    async def check_all(self) -> None:
        """Nothing else stands in the tables.

        Raises:
            WrongError: something does.
        """
        rows = await self._observer.fetchval("SELECT count(*) FROM ai_usage_logs")
        letters = await self._observer.fetchval("SELECT count(*) FROM ai_usage_dead_letters")
        books = self.books
        if rows != len(books.rows):
            raise WrongError(f"{rows} rows, and {len(books.rows)} are due")
        letters_min = sum(1 for letter in books.letters.values() if letter.occurrences_min)
        if not letters_min <= letters <= len(books.letters):
            raise WrongError(f"{letters} letters, and {letters_min} to {len(books.letters)} are due")

    async def _check_rows(self, expected: Expected) -> None:
        due = {key: self.books.rows[key] for key in expected.ids if key in self.books.rows}
        found = {row[0]: row for row in await self._observer.fetch(_ROWS, [UUID(bytes=key) for key in expected.ids])}
        if found.keys() != due.keys():
            raise WrongError(
                f"lost rows: {_hex(due.keys() - found.keys())}; made up: {_hex(found.keys() - due.keys())}"
            )
        for key, row in due.items():
            if not _is_row(found[key], row):
                raise WrongError(f"the row is {tuple(found[key])}, and was sent as {row}")

    async def _check_letters(self, expected: Expected) -> None:
        found = {
            letter["fingerprint"]: letter for letter in await self._observer.fetch(_LETTERS, [*expected.fingerprints])
        }
        for key in expected.fingerprints:
            due, letter = self.books.letters[key], found.get(key)
            if letter is None and due.occurrences_min:
                raise WrongError(f"a letter is lost: {due}")
            if letter is not None and not _is_letter(letter, due):
                raise WrongError(f"the letter is {dict(letter)}, and {due} was due")


def _check_written(written: Written, expected: Expected) -> None:
    dead = written.dead
    if (
        written.stored != expected.stored
        or not expected.duplicates_min <= written.duplicates <= expected.duplicates_max
        or written.stored + written.duplicates + dead.total() != expected.events
        or dead[Reason.REJECTED_BY_DATABASE] > expected.refused_by_host_max
    ):
        counts = expected._replace(ids=set(), fingerprints=set())
        raise WrongError(f"the store counts {written}, and {counts} were due")


def _is_row(found: Any, row: Row) -> bool:
    return (
        tuple(found[:9]) == row[:9]
        and is_same_metadata(row.metadata, found[9])
        and found[10] == row.cost_micro_usd
        and found[11] == row.created_at_us
    )


def _is_letter(found: Any, due: Letter) -> bool:
    return (
        found["body"] == due.body
        and found["content_type"] == due.content_type
        and Reason(found["reason"]) in due.reasons
        and due.occurrences_min <= found["occurrences"] <= due.occurrences_max
        and found["status"] == "open"
        and (UNKNOWN_ID in due.event_ids or found["event_id"] in due.event_ids)
    )


def _hex(keys: set[bytes]) -> list[str]:
    return sorted(key.hex() for key in keys)[:3]
