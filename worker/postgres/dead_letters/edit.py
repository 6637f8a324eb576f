"""Edit letters: each set in one transaction that saves the bodies and adds to the history, or does nothing.

The original body stays. An edit starts from the edited body where there is one.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import asyncpg
from usage_events.rules import Window

from worker.dead_letters.mending import Change, Mended, Outcome, identity_after, mend
from worker.dead_letters.text import difference
from worker.postgres.dead_letters.picked import LOT_LETTERS_MAX, lots, only, pick
from worker.postgres.dead_letters.rights import Right
from worker.postgres.dead_letters.table import (
    HAS_BODY,
    Action,
    Filter,
    StoredLetter,
    lock_letters,
    note_actions,
    read_letters,
    skipped_letters,
)

LETTERS = "ai_usage_dead_letters"
COLUMNS = ("edited_body", "event_id", "user_id", "organization_id", "model")
RIGHTS = (*(Right("UPDATE", LETTERS, column) for column in COLUMNS), Right("INSERT", "ai_usage_dead_letter_actions"))
_OPEN = "l.status = 'open'"
ACTION = "edit"
ACTION_FORCED = "edit_forced"  # saved although the contract refuses it


@dataclass(slots=True, frozen=True)
class EditOptions:
    """The change, how its results are judged, and who makes it. The ages are in seconds, as in the contract."""

    change: Change
    who: str
    max_age_seconds: int
    max_ahead_seconds: int
    is_forced: bool = False
    chosen: Filter | None = None  # as it stands in the history


class Mending(NamedTuple):
    """A letter, and what the edit made of it."""

    letter: StoredLetter
    mended: Mended


class EditedSet(NamedTuple):
    """What one transaction looked at, and the letters that it left since somebody else works on them."""

    mendings: list[Mending]
    busy: list[UUID]


def judge(letter: StoredLetter, options: EditOptions) -> Mending:
    """What the edit makes of a letter, judged at the time when it was first seen; nothing is saved."""
    window = Window.around(
        round(letter.first_seen.timestamp() * 1e6),
        max_age_seconds=options.max_age_seconds,
        max_ahead_seconds=options.max_ahead_seconds,
    )
    return Mending(letter, mend(letter.body, letter.content_type, options.change, window, is_forced=options.is_forced))


async def pick_for_edit(connection: asyncpg.Connection, chosen: Filter) -> int:
    """Note the open letters that a filter chooses now, for `edit_all`; how many there are."""
    return (await pick(connection, chosen, f"{_OPEN} AND {HAS_BODY}")).letters


async def edit_set(connection: asyncpg.Connection, chosen: Filter, options: EditOptions) -> list[Mending]:
    """Edit the open letters that a filter chooses and nobody else works on, at most one transaction's, and commit."""
    async with connection.transaction():
        letters = await lock_letters(connection, chosen, LOT_LETTERS_MAX, also=_OPEN)
        mendings = [judge(letter, options) for letter in letters]
        await _save([one for one in mendings if one.mended.outcome is Outcome.EDITED], connection, options)
    return mendings


async def edit_all(connection: asyncpg.Connection, chosen: Filter, options: EditOptions) -> AsyncIterator[EditedSet]:
    """Edit the letters that were picked; each set is committed when it is handed over.

    What is in other hands is tried once more at the end: whoever worked on it may have finished, or gone.
    """
    left: list[UUID] = []
    async for ids in lots(connection):
        mendings = await edit_set(connection, only(chosen, ids), options)
        left += _others(ids, mendings)
        yield EditedSet(mendings, [])
    for start in range(0, len(left), LOT_LETTERS_MAX):
        ids = left[start : start + LOT_LETTERS_MAX]
        mendings = await edit_set(connection, only(chosen, ids), options)
        busy = _others(ids, mendings)
        if busy:  # but for those that the filter does not choose any more
            busy = await skipped_letters(connection, only(chosen, busy), after=None, locked=[], also=_OPEN)
        yield EditedSet(mendings, busy)


def _others(ids: Sequence[UUID], mendings: Sequence[Mending]) -> list[UUID]:
    done = {mending.letter.id for mending in mendings}
    return [letter_id for letter_id in ids if letter_id not in done]


async def preview_all(connection: asyncpg.Connection, chosen: Filter, options: EditOptions) -> AsyncGenerator[Mending]:
    """What `edit_all` would do, letter by letter; nothing is locked or changed."""
    async with aclosing(read_letters(connection, chosen)) as letters:
        async for letter in letters:
            yield judge(letter, options)


async def _save(mendings: Sequence[Mending], connection: asyncpg.Connection, options: EditOptions) -> None:
    rows = []
    actions = []
    for letter, mended in mendings:
        now_is = identity_after(mended, letter.content_type)
        rows.append((letter.id, mended.after, now_is.event_id, now_is.user_id, now_is.organization_id, now_is.model))
        action = ACTION_FORCED if mended.is_forced else ACTION
        actions.append(Action(letter.id, action, note=difference(mended.before, mended.after)))
    # An event's id, once read, stays the letter's: the books go by it.
    await connection.executemany(
        "UPDATE ai_usage_dead_letters SET edited_body = $2, event_id = coalesce(event_id, $3), user_id = $4,"
        " organization_id = $5, model = $6 WHERE id = $1",
        rows,
    )
    await note_actions(connection, actions, who=options.who, chosen=options.chosen)
