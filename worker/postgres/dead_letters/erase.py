"""Erase: somebody is removed from the project's tables, in small transactions; those of the host are not touched."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

import asyncpg
from usage_events.envelope import CONTENT_TYPE_JSON

from worker.dead_letters.erasing import Fate, Field, Subject, Verdict
from worker.dead_letters.letters import fingerprint
from worker.errors import ConfigurationError
from worker.postgres.dead_letters.erase_scan import LETTER_JSONS, LETTER_TEXTS, ROW_TEXTS
from worker.postgres.dead_letters.picked import LOT_LETTERS_MAX, lots
from worker.postgres.dead_letters.rights import Right
from worker.postgres.dead_letters.table import Action, note_actions

NO_LETTER = UUID(int=0)  # the letter of an action that is about none
DELETES = ("SELECT", "UPDATE", "DELETE")
RIGHTS = (
    *(Right(privilege, table) for table in ("ai_usage_logs", "ai_usage_dead_letters") for privilege in DELETES),
    *(Right(privilege, "ai_usage_dead_letter_actions") for privilege in ("SELECT", "INSERT", "UPDATE")),
)

_TEXTS = (*LETTER_TEXTS, *LETTER_JSONS)
_LETTERS = f"""
SELECT id, fingerprint, user_id, organization_id, body, edited_body, status, {", ".join(_TEXTS)}
FROM ai_usage_dead_letters l WHERE id = ANY($1)
"""  # noqa: S608 - names of columns
_LOCK = " FOR UPDATE SKIP LOCKED"
_UPDATE_LETTER = f"""
UPDATE ai_usage_dead_letters SET body = $2, edited_body = $3, fingerprint = $4,
    {", ".join(f"{name} = ${number}" for number, name in enumerate(_TEXTS, 5))} WHERE id = $1
"""  # noqa: S608 - as above
_DELETE_ROWS = """
DELETE FROM ai_usage_logs l USING (SELECT id FROM ai_usage_logs WHERE {0} = $1 LIMIT $2 FOR UPDATE SKIP LOCKED) doomed
WHERE l.id = doomed.id RETURNING l.id
"""
# The rows stay and count for another; what may say more than how much was used goes, as does a text that names them.
_ANONYMISE_ROWS = f"""
UPDATE ai_usage_logs l SET {{0}} = $3, request_metadata = NULL,
    {", ".join(f"{name} = CASE WHEN l.{name} ~* $4 THEN NULL ELSE l.{name} END" for name in ROW_TEXTS)}
FROM (SELECT id FROM ai_usage_logs WHERE {{0}} = $1 LIMIT $2 FOR UPDATE SKIP LOCKED) chosen
WHERE l.id = chosen.id RETURNING l.id
"""  # noqa: S608 - as above
_ROWS = f"SELECT id, {', '.join(ROW_TEXTS)}, request_metadata FROM ai_usage_logs WHERE id = ANY($1)"  # noqa: S608
_UPDATE_ROW = f"""
UPDATE ai_usage_logs SET {", ".join(f"{name} = ${number}" for number, name in enumerate(ROW_TEXTS, 2))},
    request_metadata = ${len(ROW_TEXTS) + 2} WHERE id = $1
"""  # noqa: S608 - as above
_ACTIONS = "SELECT id, who, note, filter FROM ai_usage_dead_letter_actions WHERE id = ANY($1)"
_UPDATE_ACTION = "UPDATE ai_usage_dead_letter_actions SET who = $2, note = $3, filter = $4 WHERE id = $1"
_BLANK_NOTES = "UPDATE ai_usage_dead_letter_actions SET note = NULL WHERE letter_id = ANY($1) AND note IS NOT NULL"


@dataclass(slots=True)
class Erasure:
    """What was erased, or would be."""

    rows_deleted: int = 0
    rows_anonymised: int = 0
    rows_masked: int = 0
    letters: dict[Fate, int] = field(default_factory=lambda: dict.fromkeys(Fate, 0))
    actions_masked: int = 0
    unsure: list[UUID] = field(default_factory=list)
    busy: int = 0

    @property
    def total(self) -> int:
        """How many rows of all tables."""
        letters = sum(self.letters[fate] for fate in (Fate.DELETED, Fate.CUT, Fate.MASKED))
        return self.rows_deleted + self.rows_anonymised + self.rows_masked + letters + self.actions_masked

    def facts(self) -> dict[str, object]:
        """As JSON says it."""
        return {
            "rows_deleted": self.rows_deleted,
            "rows_anonymised": self.rows_anonymised,
            "rows_masked": self.rows_masked,
            "letters_deleted": self.letters[Fate.DELETED],
            "letters_cut": self.letters[Fate.CUT],
            "letters_masked": self.letters[Fate.MASKED],
            "actions_masked": self.actions_masked,
            "unsure": [str(letter_id) for letter_id in self.unsure],
            "busy": self.busy,
        }


class Order(NamedTuple):
    """Who shall be forgotten, who does it, and whether letters go that may hold other people's events, too.

    Rows of usage stay where they are given to `rows_to`.
    """

    subject: Subject
    who: str
    whole_letters: bool
    rows_to: UUID | None = None


class Eraser:
    """Erases what the scans have noted; or counts it, where `is_trial`.

    Args:
        connection: the scans' own session.
        order: what is wanted.
        is_trial: change nothing.
    """

    def __init__(self, connection: asyncpg.Connection, order: Order, *, is_trial: bool) -> None:
        self._connection = connection
        self._subject, self._who, self._whole_letters, self._rows_to = order
        self._is_trial = is_trial
        self.erasure = Erasure()

    async def steps(self) -> AsyncIterator[int]:
        """Work; how many rows each transaction took. Letters first: a replay could store one's event again."""
        async for ids in lots(self._connection):
            yield await self._apply(self._letters, ids)
        async for ids in _pages(self._connection, "picked_actions"):
            yield await self._apply(self._actions, ids)
        while done := await self._own_rows():
            yield done
        async for ids in _pages(self._connection, "picked_rows"):
            yield await self._apply(self._rows, ids)

    async def record(self) -> None:
        """Note in the history what was done, without a word of whom it was done to."""
        if not self.erasure.total:
            return
        done = ", ".join(f"{name} {count}" for name, count in self.erasure.facts().items() if isinstance(count, int))
        await note_actions(self._connection, [Action(NO_LETTER, "erased", note=done)], who=self._who)

    async def _apply(self, work: Callable[[list[UUID]], Awaitable[None]], ids: list[UUID]) -> int:
        async with self._connection.transaction():
            await work(ids)
        return len(ids)

    async def _locked(self, query: str, ids: list[UUID]) -> list[asyncpg.Record]:
        rows = await self._connection.fetch(query if self._is_trial else query + _LOCK, ids)
        if len(rows) < len(ids):
            left = await self._connection.fetch(query, ids)
            self.erasure.busy += len(left) - len(rows)
        return list(rows)

    async def _letters(self, ids: list[UUID]) -> None:
        verdicts = [(row, self._judge(row)) for row in await self._locked(_LETTERS, ids)]
        for row, verdict in verdicts:
            self.erasure.letters[verdict.fate] += 1
            if verdict.fate is Fate.UNSURE:
                self.erasure.unsure.append(row["id"])
        if self._is_trial:
            return
        doomed = [row["id"] for row, verdict in verdicts if verdict.fate is Fate.DELETED]
        await self._connection.execute("DELETE FROM ai_usage_dead_letters WHERE id = ANY($1)", doomed)
        for row, verdict in verdicts:
            if verdict.fate in (Fate.CUT, Fate.MASKED):
                await self._update_letter(row, verdict)
        # A note on what was theirs may say anything about them.
        cut = [row["id"] for row, verdict in verdicts if verdict.fate is Fate.CUT]
        await self._connection.execute(_BLANK_NOTES, doomed + cut)
        actions = [
            Action(row["id"], "erase", from_status=row["status"], note=verdict.fate.value)
            for row, verdict in verdicts
            if verdict.fate in (Fate.DELETED, Fate.CUT, Fate.MASKED)
        ]
        await note_actions(self._connection, actions, who=self._who)

    def _judge(self, row: asyncpg.Record) -> Verdict:
        others = [row[name] for name in _TEXTS]
        verdict = self._subject.judge(row["body"], row["edited_body"], others, row[self._subject.field.value])
        return Verdict(Fate.DELETED) if verdict.fate is Fate.UNSURE and self._whole_letters else verdict

    async def _update_letter(self, row: asyncpg.Record, verdict: Verdict) -> None:
        texts = [self._subject.masked_text(row[name]) for name in LETTER_TEXTS]
        jsons = [self._subject.masked_text(row["errors"], "[]"), self._subject.masked_text(row["headers"], "{}")]
        print_of = await self._fingerprint(row, texts[0] or CONTENT_TYPE_JSON, verdict.body)
        await self._connection.execute(
            _UPDATE_LETTER, row["id"], verdict.body, verdict.edited_body, print_of, *texts, *jsons
        )

    async def _fingerprint(self, row: asyncpg.Record, content_type: str, body: bytes | None) -> bytes:
        if body is None or body == row["body"]:
            return bytes(row["fingerprint"])
        found = fingerprint(content_type, body)
        taken = "SELECT EXISTS (SELECT FROM ai_usage_dead_letters WHERE fingerprint = $1 AND id <> $2)"
        if await self._connection.fetchval(taken, found, row["id"]):  # two that differed in what is erased
            return fingerprint(f"{content_type} {row['id']}", body)
        return found

    async def _actions(self, ids: list[UUID]) -> None:
        rows = await self._locked(_ACTIONS, ids)
        self.erasure.actions_masked += len(rows)
        if not self._is_trial:
            mask = self._subject.masked_text
            changed = [(row["id"], mask(row["who"]), mask(row["note"]), mask(row["filter"], "{}")) for row in rows]
            await self._connection.executemany(_UPDATE_ACTION, changed)

    async def _rows(self, ids: list[UUID]) -> None:
        rows = await self._locked(_ROWS, ids)
        self.erasure.rows_masked += len(rows)
        if not self._is_trial:
            mask = self._subject.masked_text
            changed = [
                (row["id"], *(mask(row[name]) for name in ROW_TEXTS), mask(row["request_metadata"], "{}"))
                for row in rows
            ]
            await self._connection.executemany(_UPDATE_ROW, changed)

    async def _own_rows(self) -> int:
        column = self._subject.field.value
        count = f"SELECT count(*) FROM ai_usage_logs WHERE {column} = $1"  # noqa: S608 - a name
        if self._is_trial:
            self._count_own(await self._connection.fetchval(count, self._subject.id))
            return 0
        given: list[object] = [self._subject.id, LOT_LETTERS_MAX]
        statement = _DELETE_ROWS
        if self._rows_to is not None:
            statement = _ANONYMISE_ROWS
            given += [self._rows_to, self._subject.pattern]
        done = len(await self._connection.fetch(statement.format(column), *given))
        self._count_own(done)
        if not done:
            self.erasure.busy += await self._connection.fetchval(count, self._subject.id)
        return done

    def _count_own(self, rows: int) -> None:
        if self._rows_to is None:
            self.erasure.rows_deleted += rows
        else:
            self.erasure.rows_anonymised += rows


async def require_heir(connection: asyncpg.Connection, order: Order) -> None:
    """Make sure that the rows can be given to whom they shall go.

    Raises:
        ConfigurationError: it does not exist, or is who shall be forgotten.
    """
    if order.rows_to is None:
        return
    table = {Field.USER: "users", Field.ORGANIZATION: "organizations"}[order.subject.field]
    exists = f"SELECT EXISTS (SELECT FROM {table} WHERE id = $1)"  # noqa: S608 - a name
    if order.rows_to == order.subject.id or not await connection.fetchval(exists, order.rows_to):
        raise ConfigurationError(
            f"--anonymise {order.rows_to}: it has to be another id that is in {table}: add one there that stands for"
            " all who were erased, and name it"
        )


async def _pages(connection: asyncpg.Connection, table: str) -> AsyncIterator[list[UUID]]:
    last = 0
    query = f"SELECT ordinal, id FROM {table} WHERE ordinal > $1 ORDER BY ordinal LIMIT {LOT_LETTERS_MAX}"  # noqa: S608
    while rows := await connection.fetch(query, last):
        last = rows[-1]["ordinal"]
        yield [row["id"] for row in rows]
