"""The producers' ledgers, on disk, against the tables: lost, doubled, wrongly dead-lettered, misread, made up.

A ledger is a file of lines, one written before each event leaves and one after its confirmation, so that it is right
however its producer ends. An event is known by its id, a body that nobody can read by its digest. The id also stands
in the event's `endpoint`: a row is known by both.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Self

import asyncpg

ENDPOINT = "/chaos/"  # and the id
WRONG = ("lost", "doubled", "wrongly_dead", "misread", "made_up")
_IDS = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Kind(StrEnum):
    """What has to become of an event."""

    GOOD = "good"  # a row, and no letter
    BAD = "bad"  # a letter, and no row
    UNREADABLE = "unreadable"  # a letter with this body


class Line(NamedTuple):
    """An event, or a body that nobody can read. `tokens` is its total."""

    key: str
    kind: Kind
    tokens: int


class LedgerFile:
    """Where one producer writes."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def sent(self, lines: Iterable[Line]) -> None:
        """These leave now."""
        self._file.write("".join(f"sent {line.key} {line.kind} {line.tokens}\n" for line in lines).encode())

    def confirmed(self, lines: Iterable[Line]) -> None:
        """The broker has these."""
        self._file.write("".join(f"confirmed {line.key}\n" for line in lines).encode())


def digest(body: bytes) -> str:
    """The key of a body that nobody can read."""
    return sha256(body).hexdigest()


@dataclass(slots=True)
class Ledger:
    """What all producers together have sent, and what of it was confirmed."""

    sent: dict[str, Line] = field(default_factory=dict)
    confirmed: set[str] = field(default_factory=set)
    confirmations: int = 0

    @classmethod
    def read(cls, paths: Iterable[Path]) -> "Ledger":
        """Several files as one: an id may stand in more than one of them."""
        ledger = cls()
        for path in paths:
            for text in path.read_text(encoding="ascii").splitlines():
                word, key, *rest = text.split()
                if word == "sent":
                    ledger.sent[key] = Line(key, Kind(rest[0]), int(rest[1]))
                else:
                    ledger.confirmed.add(key)
                    ledger.confirmations += 1
        return ledger

    def of_kind(self, kind: Kind) -> set[str]:
        """The keys of what must become this."""
        return {key for key, line in self.sent.items() if line.kind is kind}


@dataclass(slots=True)
class Books:
    """What is wrong, by how; every set is of ids or digests. `events` are those that were confirmed."""

    events: int
    confirmations: int
    lost: set[str]
    doubled: set[str]
    wrongly_dead: set[str]
    misread: set[str]
    made_up: set[str]
    reasons: Counter[str]

    @property
    def counts(self) -> dict[str, int]:
        """How many are wrong, by how."""
        return {kind: len(getattr(self, kind)) for kind in WRONG}

    @property
    def wrong(self) -> dict[str, list[str]]:
        """Some ids by what is wrong with them."""
        return {kind: sorted(getattr(self, kind))[:3] for kind in WRONG if getattr(self, kind)}


async def balance(database: asyncpg.Connection, ledger: Ledger) -> Books:
    """Compare the ledger with the tables; nobody may be writing."""
    rows = await database.fetch("SELECT id::text, endpoint, tokens_used FROM ai_usage_logs")
    letters = await database.fetch("SELECT event_id::text, reason, body FROM ai_usage_dead_letters")
    stored = Counter(row["endpoint"].removeprefix(ENDPOINT) for row in rows)
    dead = {key for letter in letters for key in _keys(letter, ledger)}
    good = ledger.of_kind(Kind.GOOD)
    unrefused = (ledger.confirmed - good) - dead  # bad, and no letter says so
    return Books(
        events=len(ledger.confirmed),
        confirmations=ledger.confirmations,
        lost=((ledger.confirmed & good) - stored.keys() - dead) | unrefused,
        doubled={key for key, times in stored.items() if times > 1},
        wrongly_dead=dead & good,
        misread=_misread(rows, ledger) | (stored.keys() & ledger.of_kind(Kind.BAD)),
        made_up={row["id"] for row in rows if row["endpoint"] != f"{ENDPOINT}{row['id']}"}
        | ((stored.keys() | dead) - ledger.sent.keys()),
        reasons=Counter(letter["reason"] for letter in letters),
    )


def _keys(letter: Any, ledger: Ledger) -> set[str]:
    """What a letter stands for: its event, or all that its body holds."""
    if letter["event_id"] is not None:
        return {letter["event_id"]}
    whole = digest(letter["body"])
    if whole in ledger.sent:
        return {whole}
    return {found.decode() for found in _IDS.findall(letter["body"])} & ledger.sent.keys() or {whole}


def _misread(rows: Iterable[Any], ledger: Ledger) -> set[str]:
    return {
        row["id"] for row in rows if row["id"] in ledger.sent and row["tokens_used"] != ledger.sent[row["id"]].tokens
    }
