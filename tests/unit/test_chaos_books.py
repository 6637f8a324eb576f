"""The chaos suite's books, without servers: each mistake is counted under its own name."""

import json
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from chaos.billed import Billed, short_digest
from chaos.ledger import (
    ENDPOINT,
    NO_REASON,
    WRONG,
    Books,
    Kind,
    Ledger,
    LedgerFile,
    Line,
    balance,
    balance_in_parts,
    unreadable,
)

Row = dict[str, Any]
BILLED = Billed(
    user_id=str(uuid4()),
    organization_id=str(uuid4()),
    tokens_used=13,
    input_tokens=10,
    output_tokens=3,
    model="small",
    request_type="chat",
    metadata={"b": [0.5], "a": None},
    padding=sha256(b"xx").hexdigest(),
    cost_usd="0.000019",
    created_at=datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
)
BAD_BODY = b'{"id": "bad"}'
GOOD = Line(str(uuid4()), Kind.GOOD, BILLED.digest())
BAD = Line(str(uuid4()), Kind.BAD, short_digest(BAD_BODY), "unknown_user")
UNREADABLE = unreadable(b"{", "bad_json")


class Tables:
    """A database that holds these rows and letters, and answers for a part of the keys."""

    def __init__(self, rows: list[Row], letters: list[Row]) -> None:
        self._rows = rows
        self._letters = letters

    async def fetch(self, query: str, of: str) -> list[Row]:
        """As the server would."""
        if "ai_usage_logs" in query:
            return [row for row in self._rows if row["id"].startswith(of)]
        return [one for one in self._letters if one["event_id"] is None or one["event_id"].startswith(of)]


def row(key: str = GOOD.key, *, id_: str | None = None, **columns: Any) -> Row:
    """An event in the table, with these columns other than they should be."""
    return {
        "id": id_ or key,
        "endpoint": f"{ENDPOINT}{key}",
        "user_id": BILLED.user_id,
        "organization_id": BILLED.organization_id,
        "tokens_used": BILLED.tokens_used,
        "input_tokens": BILLED.input_tokens,
        "output_tokens": BILLED.output_tokens,
        "model": BILLED.model,
        "request_type": BILLED.request_type,
        "metadata": '{"a": null, "b": [0.50]}',
        "padding": sha256(b"xx").digest(),
        "estimated_cost_usd": BILLED.cost_usd,
        "created_at": BILLED.created_at,
    } | columns


def letter(key: str | None = None, body: bytes = BAD_BODY, reason: str = BAD.reason) -> Row:
    """A dead letter of an event or of a whole message."""
    return {"event_id": key, "reason": reason, "body": body}


def ledger_of(folder: Path, *lines: Line, confirmed: bool = True) -> Ledger:
    """What a producer has sent, as it is read from its file."""
    path = folder / "ledger"
    with LedgerFile(path) as file:
        file.sent(lines)
        if confirmed:
            file.confirmed(lines)
    return Ledger.read([path])


async def books_of(ledger: Ledger, rows: list[Row], letters: list[Row]) -> Books:
    """The books of these."""
    return await balance(Tables(rows, letters), ledger)  # type: ignore[arg-type] # asks for rows and letters alone


UNREAD = letter(body=b"{", reason="bad_json")
RIGHT: tuple[list[Row], list[Row]] = ([row()], [letter(BAD.key), UNREAD])


async def test_books_that_are_right(tmp_path: Path) -> None:
    """A good event is a row, a bad one and an unreadable one are letters: nothing is wrong."""
    books = await books_of(ledger_of(tmp_path, GOOD, BAD, UNREADABLE), *RIGHT)
    assert (books.events, books.wrong) == (3, {})


WHOLE = letter(body=json.dumps({"id": GOOD.key}).encode(), reason="delivery_limit")
MISTAKES: dict[str, tuple[str, list[Row], list[Row]]] = {
    "a good event is nowhere": ("lost", [], RIGHT[1]),
    "a bad event is nowhere": ("lost", RIGHT[0], [UNREAD]),
    "an unreadable body is nowhere": ("lost", RIGHT[0], [letter(BAD.key)]),
    "a bad event has two letters": (
        "doubled",
        RIGHT[0],
        [*RIGHT[1], letter(body=json.dumps({"id": BAD.key}).encode())],
    ),
    "an unreadable body has two letters": ("doubled", RIGHT[0], [*RIGHT[1], UNREAD]),
    "a good event has a letter": ("wrongly_dead", [], [*RIGHT[1], letter(GOOD.key)]),
    "a good event has a letter beside its row": ("wrongly_dead", RIGHT[0], [*RIGHT[1], letter(GOOD.key)]),
    "a good event is in a letter of a whole message": ("wrongly_dead", [], [*RIGHT[1], WHOLE]),
    "another total": ("misread", [row(tokens_used=14)], RIGHT[1]),
    "another input": ("misread", [row(input_tokens=11)], RIGHT[1]),
    "another output": ("misread", [row(output_tokens=4)], RIGHT[1]),
    "tokens in each other's column": ("misread", [row(input_tokens=3, output_tokens=10)], RIGHT[1]),
    "ids in each other's column": (
        "misread",
        [row(user_id=BILLED.organization_id, organization_id=BILLED.user_id)],
        RIGHT[1],
    ),
    "another's user": ("misread", [row(user_id=str(uuid4()))], RIGHT[1]),
    "another's organization": ("misread", [row(organization_id=str(uuid4()))], RIGHT[1]),
    "texts in each other's column": ("misread", [row(model="chat", request_type="small")], RIGHT[1]),
    "another's model": ("misread", [row(model="large")], RIGHT[1]),
    "no model": ("misread", [row(model=None)], RIGHT[1]),
    "an empty request type": ("misread", [row(request_type="")], RIGHT[1]),
    "other metadata": ("misread", [row(metadata='{"a": null, "b": [0.51]}')], RIGHT[1]),
    "no metadata": ("misread", [row(metadata=None)], RIGHT[1]),
    "less padding": ("misread", [row(padding=sha256(b"x").digest())], RIGHT[1]),
    "a digit of the cost": ("misread", [row(estimated_cost_usd="0.000018")], RIGHT[1]),
    "no cost": ("misread", [row(estimated_cost_usd=None)], RIGHT[1]),
    "a microsecond": ("misread", [row(created_at=BILLED.created_at.replace(microsecond=678902))], RIGHT[1]),
    "a bad event is stored": ("misread", [*RIGHT[0], row(BAD.key)], RIGHT[1]),
    "a bad event's letter holds other bytes": ("misread", RIGHT[0], [letter(BAD.key, BAD_BODY + b" "), UNREAD]),
    "a bad event has another reason": ("wrong_reason", RIGHT[0], [letter(BAD.key, reason="too_old"), UNREAD]),
    "an unreadable body has another reason": (
        "wrong_reason",
        RIGHT[0],
        [letter(BAD.key), letter(body=b"{", reason="invalid")],
    ),
    "an event of nobody": ("made_up", [*RIGHT[0], row(str(uuid4()))], RIGHT[1]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_books_that_are_wrong(tmp_path: Path, mistake: str) -> None:
    """Each mistake is counted under its own name, and under no other."""
    kind, rows, letters = MISTAKES[mistake]
    books = await books_of(ledger_of(tmp_path, GOOD, BAD, UNREADABLE), rows, letters)
    assert {name: count for name, count in books.counts.items() if count} == {kind: 1}


async def test_an_event_under_another_id_is_doubled_and_made_up(tmp_path: Path) -> None:
    """What was stored again under an id that nobody has sent is known by its endpoint."""
    rows = [*RIGHT[0], row(id_=str(uuid4()))]
    books = await books_of(ledger_of(tmp_path, GOOD, BAD, UNREADABLE), rows, RIGHT[1])
    assert (books.counts["doubled"], books.counts["made_up"]) == (1, 1)


async def test_what_was_not_confirmed_may_be_missing(tmp_path: Path) -> None:
    """The promise begins with the confirmation."""
    books = await books_of(ledger_of(tmp_path, GOOD, BAD, UNREADABLE, confirmed=False), [], [])
    assert (books.events, books.wrong) == (0, {})


async def test_books_in_parts_are_the_books(tmp_path: Path) -> None:
    """Over keys of every first digit each mistake is counted once, and what is right is no mistake in another part."""
    keys = [f"{number % 16:x}{str(uuid4())[1:]}" for number in range(400)]
    good = [Line(key, Kind.GOOD, BILLED.digest()) for key in keys[:320]]
    bad = [Line(key, Kind.BAD, short_digest(BAD_BODY), BAD.reason) for key in keys[320:]]
    unread = [unreadable(b"{%d" % number, "bad_json") for number in range(50)]
    paths = [tmp_path / name for name in ("a", "b")]
    for path, lines in zip(paths, ([*good[:200], *bad], [*good[200:], *unread]), strict=True):
        with LedgerFile(path) as ledger:
            ledger.sent(lines)
            ledger.confirmed(lines)
    rows = [row(one.key) for one in good[3:]]
    rows[0]["tokens_used"] = 14
    letters = [letter(one.key) for one in [good[0], *bad]]
    letters[1]["reason"] = "too_old"
    letters += [letter(body=b"{%d" % number, reason="bad_json") for number in (0, *range(49))]
    books = await balance_in_parts(Tables(rows, letters), paths)  # type: ignore[arg-type] # asks for these alone
    assert books.counts == {
        "lost": 3,
        "doubled": 1,
        "wrongly_dead": 1,
        "misread": 1,
        "wrong_reason": 1,
        "made_up": 0,
    }
    assert tuple(books.counts) == WRONG
    assert books.lost == {good[1].key, good[2].key, unread[49].key}
    assert (books.events, books.confirmations) == (450, 450)
    assert books.reasons == {"unknown_user": 80, "too_old": 1, "bad_json": 50}


def test_a_line_is_read_as_it_was_written(tmp_path: Path) -> None:
    """A good event has no reason."""
    ledger = ledger_of(tmp_path, GOOD, BAD, UNREADABLE)
    assert ledger.sent == {line.key: line for line in (GOOD, BAD, UNREADABLE)}
    assert ledger.confirmed == ledger.sent.keys()
    assert ledger.sent[GOOD.key].reason == NO_REASON
