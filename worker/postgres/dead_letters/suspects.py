"""Suspects: letters that killed their consumers may kill a replay, so a mark is committed before each is carried."""

from collections.abc import Sequence
from uuid import UUID

from worker.postgres.dead_letters.table import Action, Filter, StoredLetter, note_actions
from worker.postgres.session import translated
from worker.postgres.writer_session import WriterSession

BEGUN = "replay_begun"

OTHERS = "l.reason <> 'delivery_limit'"
SUSPECTS = "l.reason = 'delivery_limit'"
# What others note about a letter says nothing about whether a replay survives it.
_IS_BEGUN = f"""coalesce((
    SELECT a.action FROM ai_usage_dead_letter_actions a
    WHERE a.letter_id = l.id AND a.action NOT IN ('note', 'refused_again')
    ORDER BY a.at DESC LIMIT 1), '') = '{BEGUN}'"""  # noqa: S608 - texts of this file
FRESH_SUSPECTS = f"{SUSPECTS} AND NOT {_IS_BEGUN}"


class Suspects:
    """Marks suspects on a session of its own, while the one that carries them holds their locks.

    Args:
        session: closed by the caller.
        who: who carries them.
        chosen: how they were chosen.
    """

    def __init__(self, session: WriterSession, *, who: str, chosen: Filter) -> None:
        self._session = session
        self._who = who
        self._chosen = chosen

    async def mark(self, letters: Sequence[StoredLetter]) -> None:
        """Note that these are about to be carried; committed at once."""
        if not letters:
            return
        with translated():
            actions = [Action(letter.id, BEGUN) for letter in letters]
            await note_actions(await self._session.connection(), actions, who=self._who, chosen=self._chosen)

    async def left_out(self) -> list[UUID]:
        """The suspects that were marked, never settled, and are in nobody's hands: a replay ended with each."""
        condition, arguments = self._chosen.where()
        with translated():
            rows = await (await self._session.connection()).fetch(
                f"SELECT l.id FROM ai_usage_dead_letters l WHERE {condition} AND {SUSPECTS} AND {_IS_BEGUN}"  # noqa: S608
                " ORDER BY l.first_seen, l.id FOR UPDATE OF l SKIP LOCKED",
                *arguments,
            )
        return [row["id"] for row in rows]
