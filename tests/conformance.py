"""Reads the conformance corpus: what `schema/conformance/README.md` describes, as values."""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from usage_events.contract import Reason

CORPUS = Path(__file__).parent.parent / "schema" / "conformance"
FIXTURES = CORPUS / "fixtures.json"

_PLACEHOLDER = re.compile(r"\{\{(now|date|clock|fraction|i)([+-][0-9]+)?\}\}")
_FORMATS = {"now": "%Y-%m-%dT%H:%M:%S.%fZ", "date": "%Y-%m-%d", "clock": "%H:%M:%S", "fraction": "%f"}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of `ai_usage_logs` that a case leaves behind; metadata is compared as `metadata_value` reads it."""

    id: UUID
    user_id: UUID
    organization_id: UUID
    tokens_used: int
    input_tokens: int
    output_tokens: int
    endpoint: str | None
    model: str | None
    request_type: str | None
    request_metadata: Any
    estimated_cost_usd: Decimal | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter that a case leaves behind; `fields` are those that its errors name, sorted."""

    reason: Reason
    fields: tuple[str, ...]
    event_id: UUID | None
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Case:
    """One message and its whole outcome."""

    name: str
    about: str
    content_type: str | None
    content_encoding: str | None
    body: bytes
    rows: list[Row]
    letters: list[Letter]
    duplicates: int
    needs_database: bool


@dataclass(frozen=True, slots=True)
class Fixtures:
    """Who exists in the database that the cases are judged by."""

    users: list[UUID]
    organizations: list[UUID]


def load_cases(now: datetime) -> list[Case]:
    """Every case of the corpus, its times around `now`."""
    loader = _Loader(now.astimezone(UTC))
    return [loader.case(given) for path in _topics() for given in _read(path)["cases"]]


def load_fixtures() -> Fixtures:
    """The users and organizations that have to exist."""
    given = _read(FIXTURES)
    return Fixtures([UUID(text) for text in given["users"]], [UUID(text) for text in given["organizations"]])


def metadata_value(text: str | bytes) -> Any:
    """JSON as a value that can be compared whatever wrote the text: every number exact."""
    return json.loads(text, parse_float=Decimal)


def _topics() -> list[Path]:
    return sorted(path for path in CORPUS.glob("*.json") if path != FIXTURES)


def _read(path: Path) -> Any:
    return metadata_value(path.read_bytes())


class _Loader:
    """Builds cases around one moment."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def case(self, given: dict[str, Any]) -> Case:
        body = self._body(given)
        return Case(
            name=given["name"],
            about=given["about"],
            content_type=given.get("content_type"),
            content_encoding=given.get("content_encoding"),
            body=body,
            rows=[row for one in given["rows"] for row in self._rows(one)],
            letters=[self._letter(one, body) for one in given["letters"]],
            duplicates=given.get("duplicates", 0),
            needs_database=given.get("needs") == "database",
        )

    def _rows(self, given: dict[str, Any]) -> Iterator[Row]:
        for index in range(given.get("times", 1)):
            cost = given["estimated_cost_usd"]
            yield Row(
                id=UUID(self._fill(given["id"], index)),
                user_id=UUID(given["user_id"]),
                organization_id=UUID(given["organization_id"]),
                tokens_used=given["tokens_used"],
                input_tokens=given["input_tokens"],
                output_tokens=given["output_tokens"],
                endpoint=given["endpoint"],
                model=given["model"],
                request_type=given["request_type"],
                request_metadata=self._metadata(given),
                estimated_cost_usd=None if cost is None else Decimal(cost),
                created_at=datetime.fromisoformat(self._fill(given["created_at"])),
            )

    def _metadata(self, given: dict[str, Any]) -> Any:
        if "request_metadata_text" in given:
            return metadata_value(self._pieces(given["request_metadata_text"]))
        return given["request_metadata"]

    def _letter(self, given: dict[str, Any], whole: bytes) -> Letter:
        event_id = given["event_id"]
        return Letter(
            reason=Reason(given["reason"]),
            fields=tuple(sorted(given["fields"])),
            event_id=None if event_id is None else UUID(event_id),
            content_type=given["content_type"],
            body=self._body(given) if given.keys() & {"json", "body"} else whole,
        )

    def _body(self, given: dict[str, Any]) -> bytes:
        if "json" in given:
            return self._fill(json.dumps(given["json"], ensure_ascii=False, separators=(",", ":"))).encode()
        return self._pieces(given["body"])

    def _pieces(self, given: str | list[Any]) -> bytes:
        pieces = [given] if isinstance(given, str) else given
        return b"".join(self._piece(piece) for piece in pieces)

    def _piece(self, piece: str | dict[str, Any]) -> bytes:
        if isinstance(piece, str):
            return self._fill(piece).encode()
        if "base64" in piece:
            return base64.b64decode(piece["base64"], validate=True)
        between: str = piece.get("between", "")
        if "{{" not in piece["text"]:  # a megabyte of them
            return between.join([piece["text"]] * piece["times"]).encode()
        return between.join(self._fill(piece["text"], index) for index in range(piece["times"])).encode()

    def _fill(self, text: str, index: int = 0) -> str:
        def value(match: re.Match[str]) -> str:
            kind, seconds = match.groups()
            if kind == "i":
                return f"{index:012d}"
            return (self._now + timedelta(seconds=int(seconds or 0))).strftime(_FORMATS[kind])

        return _PLACEHOLDER.sub(value, text) if "{{" in text else text
