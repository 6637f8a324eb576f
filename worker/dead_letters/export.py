"""Letters as lines of a file: whole ones as JSON objects, or their events alone. Pure."""

import base64
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from usage_events.json_text import Kind, NotJsonError, outline

from worker.dead_letters.redaction import redact_body, redact_errors
from worker.dead_letters.text import BODY_GIVEN_UP
from worker.decode import Media, media_of


class Exporter:
    """Makes the lines and counts them.

    Args:
        bodies_only: the events alone, as `usage-worker publish` takes them.
        is_redacted: without what may be metadata.
    """

    def __init__(self, *, bodies_only: bool, is_redacted: bool) -> None:
        self.letters = 0
        self.left_out = 0  # those whose body was given up among them
        self.given_up = 0
        self._bodies_only = bodies_only
        self._is_redacted = is_redacted

    def lines(self, letter: dict[str, Any]) -> Iterator[bytes]:
        """The lines of one letter, each with its end."""
        self.letters += 1
        if not self._bodies_only:
            self.given_up += letter["body"] is None
            yield self._whole(letter)
            return
        body = letter["edited_body"] if letter["edited_body"] is not None else letter["body"]
        self.given_up += body is None
        events = [] if body is None else _events(body, letter["content_type"])
        self.left_out += not events
        for event in events:
            yield event + b"\n"

    def sentence(self) -> str:
        """What was done, for a reader."""
        text = f"exported {self.letters - self.left_out:,} letter{'' if self.letters - self.left_out == 1 else 's'}"
        if self.left_out:
            text += f"; {self.left_out:,} left out, which cannot be published from a file: export without --bodies"
        if self.given_up:
            text += f"; {self.given_up:,} without body; of each, {BODY_GIVEN_UP}"
        return text

    def _whole(self, letter: dict[str, Any]) -> bytes:
        facts = dict(letter)
        if self._is_redacted:
            facts["errors"] = redact_errors(facts["errors"])
        for name in ("body", "edited_body"):
            body: bytes | None = facts.pop(name)
            if body is not None and self._is_redacted:
                body = redact_body(body)
            facts[f"{name}_base64"] = None if body is None else base64.b64encode(body).decode()
        return json.dumps(facts, default=_json_text).encode() + b"\n"


def _events(body: bytes, content_type: str | None) -> list[bytes]:
    """The events in a body, each in one line; none where a plain line cannot say the same."""
    if media_of(content_type, None) is not Media.NATIVE:
        return []
    try:
        kind, children = outline(body)
    except NotJsonError:
        return []
    texts = [child.text for child in children] if kind is Kind.ARRAY else [body]
    # A line's end in JSON always stands between two tokens.
    return [text.replace(b"\r", b" ").replace(b"\n", b" ").strip() for text in texts]


def _json_text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
