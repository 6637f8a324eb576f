"""The books: what producers had confirmed against what the database holds."""

import re
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

import asyncpg

from harness.publisher import Ledger

_IDS = re.compile(rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(slots=True)
class Books:
    """Ids by where they ended.

    `dead` are the ids that have a letter, be it beside a row; `letters` is how often each reason stands in the table.
    """

    ledger: Ledger
    stored: dict[UUID, int]  # the row's tokens
    dead: set[UUID]
    letters: dict[str, int]
    letter_bodies: set[bytes]

    @classmethod
    async def read(cls, database: asyncpg.Connection, ledger: Ledger) -> Self:
        """Read both tables."""
        rows = await database.fetch("SELECT id, tokens_used FROM ai_usage_logs")
        letters = await database.fetch("SELECT event_id, reason, body FROM ai_usage_dead_letters")
        dead = {UUID(str(letter["event_id"])) for letter in letters if letter["event_id"] is not None}
        reasons: dict[str, int] = {}
        for letter in letters:
            reasons[letter["reason"]] = reasons.get(letter["reason"], 0) + 1
            if letter["event_id"] is None:  # a whole message stands for the ids in it
                dead |= {UUID(text.decode()) for text in _IDS.findall(letter["body"])} & ledger.sent.keys()
        return cls(
            ledger,
            {UUID(str(row["id"])): row["tokens_used"] for row in rows},
            dead,
            reasons,
            {letter["body"] for letter in letters},
        )

    @property
    def dead_only(self) -> set[UUID]:
        """The ids that have only a letter."""
        return self.dead - self.stored.keys()

    def check(self) -> None:
        """Nothing lost, nothing made up, nothing altered.

        Raises:
            AssertionError: names some of the ids that are wrong.
        """
        ledger = self.ledger
        _none(ledger.confirmed - self.stored.keys() - self.dead, "confirmed, but neither stored nor a dead letter")
        _none((self.stored.keys() | self.dead) - ledger.sent.keys(), "stored or dead, but never sent")
        _none(
            {key for key, tokens in self.stored.items() if tokens not in ledger.tokens[key]},
            "stored with other tokens than were sent",
        )
        _none(ledger.unreadable - self.letter_bodies, "confirmed and unreadable, but no dead letter")


def _none(wrong: set[Any], what: str) -> None:
    assert not wrong, f"{len(wrong)} are {what}, such as {sorted(wrong)[:3]}"
