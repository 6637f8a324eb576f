"""Where single events are: the row, the dead letters, or nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

import asyncpg

from worker.postgres.books import ids_in_bodies

_ROWS = """
SELECT id, created_at, user_id, organization_id, tokens_used, input_tokens, output_tokens, endpoint, model,
       request_type, estimated_cost_usd
FROM ai_usage_logs WHERE id = ANY($1)
"""
_LETTER_COLUMNS = "l.id, l.event_id, l.reason, l.status, l.first_seen, l.last_seen, l.occurrences, l.app_id AS producer"
_LETTERS = f"""
SELECT {_LETTER_COLUMNS} FROM ai_usage_dead_letters l WHERE l.event_id = ANY($1) ORDER BY l.first_seen, l.id
"""  # noqa: S608 - names of this module only
_LETTERS_BY_ID = f"SELECT {_LETTER_COLUMNS} FROM ai_usage_dead_letters l WHERE l.id = ANY($1)"  # noqa: S608 - as above
_HISTORY = """
SELECT letter_id, at, who, action, from_reason, to_reason, from_status, to_status, note
FROM ai_usage_dead_letter_actions WHERE letter_id = ANY($1) ORDER BY at
"""


class Answer(StrEnum):
    """Where an event is."""

    STORED = "stored"
    DEAD_LETTER = "dead letter"
    BOTH = "both"
    NEVER_SEEN = "never seen"


@dataclass(slots=True)
class Letter:
    """A letter of the event, or of the whole message that holds it, with what was done to it."""

    facts: dict[str, Any]
    whole: bool
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Whereabouts:
    """What is known of one event."""

    id: UUID
    row: dict[str, Any] | None = None
    letters: list[Letter] = field(default_factory=list)

    @property
    def answer(self) -> Answer:
        """In a word."""
        if self.row is not None:
            return Answer.BOTH if self.letters else Answer.STORED
        return Answer.DEAD_LETTER if self.letters else Answer.NEVER_SEEN


async def look_up(connection: asyncpg.Connection, ids: Sequence[UUID]) -> list[Whereabouts]:
    """Where each of a few events is, in the order asked for and at one instant."""
    found = {each: Whereabouts(each) for each in ids}
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        for row in await connection.fetch(_ROWS, list(found)):
            found[row["id"]].row = dict(row)
        for row in await connection.fetch(_LETTERS, list(found)):
            found[row["event_id"]].letters.append(Letter(_facts(row), whole=False))
        if nowhere := [each for each in found.values() if each.answer is Answer.NEVER_SEEN]:
            await _look_in_bodies(connection, {each.id: each for each in nowhere})
        await _add_history(connection, [letter for each in found.values() for letter in each.letters])
    return list(found.values())


async def _look_in_bodies(connection: asyncpg.Connection, wanted: dict[UUID, Whereabouts]) -> None:
    holders: list[tuple[UUID, UUID]] = []
    async for holder, texts in ids_in_bodies(connection):
        ids = {UUID(text.decode()) for text in texts}
        holders += [(event_id, UUID(holder.decode())) for event_id in ids & wanted.keys()]
    rows = await connection.fetch(_LETTERS_BY_ID, list({letter_id for _, letter_id in holders}))
    letters = {row["id"]: row for row in rows}
    for event_id, letter_id in holders:
        wanted[event_id].letters.append(Letter(_facts(letters[letter_id]), whole=True))


async def _add_history(connection: asyncpg.Connection, letters: Sequence[Letter]) -> None:
    by_id: dict[UUID, list[Letter]] = {}
    for letter in letters:
        by_id.setdefault(letter.facts["id"], []).append(letter)
    for row in await connection.fetch(_HISTORY, list(by_id)):
        facts = dict(row)
        for letter in by_id[facts.pop("letter_id")]:
            letter.history.append(facts)


def _facts(row: asyncpg.Record) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "event_id"}
