"""Exported lines: whole letters byte for byte, or events that can be published again."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from worker.dead_letters.export import Exporter
from worker.dead_letters.redaction import HIDDEN

SEEN = datetime(2026, 3, 1, tzinfo=UTC)


def letter(body: bytes, **changes: Any) -> dict[str, Any]:
    """One, as it is read."""
    return {
        "id": "1", "reason": "invalid", "errors": [], "content_type": "application/json", "first_seen": SEEN,
        "body": body, "edited_body": None,
    } | changes  # fmt: skip


def bodies(*letters: dict[str, Any]) -> tuple[bytes, Exporter]:
    """What --bodies writes of them."""
    exporter = Exporter(bodies_only=True, is_redacted=False)
    return b"".join(line for one in letters for line in exporter.lines(one)), exporter


def test_a_whole_letter_keeps_its_bytes() -> None:
    """Any body comes back from its base64; moments are ISO 8601."""
    exporter = Exporter(bodies_only=False, is_redacted=False)
    (line,) = exporter.lines(letter(b"\xff\n", edited_body=b"{}"))
    assert line.endswith(b"\n")
    read = json.loads(line)
    assert base64.b64decode(read["body_base64"]) == b"\xff\n"
    assert base64.b64decode(read["edited_body_base64"]) == b"{}"
    assert read["first_seen"] == SEEN.isoformat()
    assert exporter.sentence() == "exported 1 letter"


def test_redacted() -> None:
    """Metadata is neither in the bodies nor in the errors."""
    exporter = Exporter(bodies_only=False, is_redacted=True)
    body = b'{"id": "x", "request_metadata": {"mail": "ada"}}'
    errors = [{"field": "request_metadata", "message": "is wrong", "input": "ada"}]
    (line,) = exporter.lines(letter(body, edited_body=body, errors=errors))
    read = json.loads(line)
    for name in ("body_base64", "edited_body_base64"):
        assert json.loads(base64.b64decode(read[name]))["request_metadata"] == HIDDEN
    assert read["errors"][0]["input"] == HIDDEN


@pytest.mark.parametrize(
    ("one", "written"),
    [
        (letter(b'{"a": 1.10}'), b'{"a": 1.10}\n'),
        (letter(b'\n{\r\n "a": "x\\n"\n}\n'), b'{   "a": "x\\n" }\n'),
        (letter(b'{"a": 1}', edited_body=b'{"b": 1}'), b'{"b": 1}\n'),
        (letter(b'[{"a": 1},\n{"b": 2}]'), b'{"a": 1}\n{"b": 2}\n'),
    ],
)
def test_events_have_a_line_each(one: dict[str, Any], written: bytes) -> None:
    """As a replay would take them, with nothing changed but line ends between tokens."""
    assert bodies(one)[0] == written


@pytest.mark.parametrize(
    "one",
    [
        letter(b'{"a": 1'),
        letter(b"\xff"),
        letter(b"[]"),
        letter(b"{}", content_type="application/cloudevents+json"),
        letter(b"{}", content_type="text/plain"),
    ],
)
def test_what_cannot_be_published_from_a_file_is_counted(one: dict[str, Any]) -> None:
    """It is left out, and the sentence says so and what to do."""
    written, exporter = bodies(one, letter(b"{}"))
    assert (written, exporter.left_out) == (b"{}\n", 1)
    assert exporter.sentence() == (
        "exported 1 letter; 1 left out, which cannot be published from a file: export without --bodies"
    )
