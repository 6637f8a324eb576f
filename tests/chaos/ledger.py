"""The producers' ledgers, on disk, against the tables: lost, doubled, wrongly dead-lettered, misread, made up.

A ledger is a file of lines, one written before each event leaves and one after its confirmation, so that it is right
however its producer ends. An event is known by its id, a body that nobody can read by its digest. The id also stands
in the event's `endpoint`: a row is known by both. All other columns of a row stand in the line as a digest, and so
does the body of an event that has to be refused, with the reason.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple, Self

import asyncpg

from chaos.billed import COLUMNS, Billed, short_digest

NO_REASON = "-"
ENDPOINT = "/chaos/"  # and the id
WRONG = ("lost", "doubled", "wrongly_dead", "misread", "wrong_reason", "made_up")
PARTS = "0123456789abcdef"  # what keys begin with
_ROWS = f"""
SELECT id::text, endpoint, {COLUMNS} FROM ai_usage_logs
WHERE starts_with(id::text, $1)
"""
_LETTERS = """
SELECT event_id::text, reason, body FROM ai_usage_dead_letters
WHERE event_id IS NULL OR starts_with(event_id::text, $1)
"""
_IDS = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Kind(StrEnum):
    """What has to become of an event."""

    GOOD = "good"  # a row, and no letter
    BAD = "bad"  # one letter, and no row
    UNREADABLE = "unreadable"  # one letter with this body


class Line(NamedTuple):
    """An event, or a body that nobody can read.

    `digest` is that of the row which a good event has to become (`chaos.billed`), or of a bad event's text. `reason` is
    the letter's.
    """

    key: str
    kind: Kind
    digest: str
    reason: str = NO_REASON


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
        self._file.write("".join(f"sent {' '.join(line)}\n" for line in lines).encode())

    def confirmed(self, lines: Iterable[Line]) -> None:
        """The broker has these."""
        self._file.write("".join(f"confirmed {line.key}\n" for line in lines).encode())


def digest(body: bytes) -> str:
    """The key of a body that nobody can read."""
    return sha256(body).hexdigest()


def unreadable(body: bytes, reason: str) -> Line:
    """A body that nobody can read, or survives to read, and its letter's reason."""
    return Line(digest(body), Kind.UNREADABLE, short_digest(body), reason)


@dataclass(slots=True)
class Ledger:
    """What all producers together have sent, and what of it was confirmed."""

    sent: dict[str, Line] = field(default_factory=dict)
    confirmed: set[str] = field(default_factory=set)
    confirmations: int = 0

    @classmethod
    def read(cls, paths: Iterable[Path], of: str = "") -> "Ledger":
        """Several files as one: an id may stand in more than one of them. Of the keys that begin with `of`, alone."""
        ledger = cls()
        wanted = tuple(f"{word} {of}" for word in ("sent", "confirmed"))
        for path in paths:
            with path.open(encoding="ascii") as lines:
                ledger._add(text for text in lines if text.startswith(wanted))
        return ledger

    def _add(self, texts: Iterable[str]) -> None:
        for text in texts:
            word, key, *rest = text.split()
            if word == "sent":
                kind, its_digest, reason = rest
                self.sent[key] = Line(key, Kind(kind), its_digest, intern(reason))
            else:
                self.confirmed.add(key)
                self.confirmations += 1

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
    wrong_reason: set[str]
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

    def __add__(self, other: "Books") -> "Books":
        """The books of both parts of the ledgers."""
        return Books(
            events=self.events + other.events,
            confirmations=self.confirmations + other.confirmations,
            reasons=self.reasons + other.reasons,
            **{kind: getattr(self, kind) | getattr(other, kind) for kind in WRONG},
        )


async def balance(database: asyncpg.Connection, ledger: Ledger, of: str = "") -> Books:
    """Compare the ledger with the tables, or that part of both whose keys begin with `of`; nobody may be writing."""
    rows = await database.fetch(_ROWS, of)
    letters = await database.fetch(_LETTERS, of)
    stored = Counter(row["endpoint"].removeprefix(ENDPOINT) for row in rows)
    found = [(key, letter) for letter in letters for key in _keys(letter, ledger) if key.startswith(of)]
    dead = Counter(key for key, _ in found)
    good = ledger.of_kind(Kind.GOOD)
    due = ledger.sent.keys() - good
    refused = [(ledger.sent[key], letter) for key, letter in found if key in due]
    unrefused = (ledger.confirmed - good) - dead.keys()  # bad, and no letter says so
    return Books(
        events=len(ledger.confirmed),
        confirmations=ledger.confirmations,
        lost=((ledger.confirmed & good) - stored.keys() - dead.keys()) | unrefused,
        doubled={key for key, times in stored.items() if times > 1}
        | {line.key for line, _ in refused if dead[line.key] > 1},
        wrongly_dead=dead.keys() & good,
        misread=_misread_rows(rows, ledger)
        | (stored.keys() & ledger.of_kind(Kind.BAD))
        | {line.key for line, letter in refused if _is_misread(line, letter)},
        wrong_reason={line.key for line, letter in refused if letter["reason"] != line.reason},
        made_up={row["id"] for row in rows if row["endpoint"] != f"{ENDPOINT}{row['id']}"}
        | ((stored.keys() | dead.keys()) - ledger.sent.keys()),
        reasons=Counter(letter["reason"] for letter in letters if letter["event_id"] or of in {"", PARTS[0]}),
    )


async def balance_in_parts(database: asyncpg.Connection, paths: Sequence[Path]) -> Books:
    """The same of ledgers that are too long to be held at once: keys are hexadecimal, and taken digit by digit."""
    books: Books | None = None
    for digit in PARTS:
        ledger = await asyncio.to_thread(Ledger.read, paths, digit)
        part = await balance(database, ledger, digit)
        books = part if books is None else books + part
    assert books is not None
    return books


def _keys(letter: Any, ledger: Ledger) -> set[str]:
    """What a letter stands for: its event, or all that its body holds."""
    if letter["event_id"] is not None:
        return {letter["event_id"]}
    whole = digest(letter["body"])
    if whole in ledger.sent:
        return {whole}
    return {found.decode() for found in _IDS.findall(letter["body"])} & ledger.sent.keys() or {whole}


def _misread_rows(rows: Iterable[Any], ledger: Ledger) -> set[str]:
    sent = ((row, ledger.sent[row["id"]]) for row in rows if row["id"] in ledger.sent)
    return {line.key for row, line in sent if line.digest != Billed.of_row(row).digest()}


def _is_misread(line: Line, letter: Any) -> bool:
    """Whether an event's own letter holds other bytes than were sent."""
    return letter["event_id"] is not None and short_digest(letter["body"]) != line.digest
