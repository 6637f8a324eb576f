"""Redaction: an event's body and errors without what callers put into `request_metadata`. Pure.

A refused event may have it under a wrong name or in a wrong place. So what is shown is named, and the rest is hidden:
the contract's own fields, and of others the numbers, which hold no names and addresses.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from usage_events.json_text import Child, Kind, NotJsonError, outline

HIDDEN = "[redacted]"
SHOWN = frozenset(
    {
        "id", "user_id", "organization_id", "input_tokens", "output_tokens", "tokens_used", "endpoint", "model",
        "request_type", "estimated_cost_usd", "created_at", "specversion", "source", "type", "time", "subject",
        "datacontenttype", "dataschema",
    }
)  # fmt: skip

_HIDDEN_JSON = json.dumps(HIDDEN).encode()
_QUOTES = ("'", '"')
_QUOTED = re.compile(r"'.*'|\".*\"|`.*`", re.DOTALL)


def redact_body(body: bytes) -> bytes:
    """The body with everything hidden that may be metadata; all of it where it is not JSON."""
    try:
        kind, children = outline(body)
    except NotJsonError as error:
        return f"{HIDDEN}: {len(body)} bytes that are not JSON: {_QUOTED.sub('…', str(error))}".encode()
    return _redact(kind, children)


def redact_errors(errors: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The errors without inputs that may be metadata, nor pieces of them in the messages."""
    return [dict(error) if _is_shown(error) else _hidden(error) for error in errors]


def redact_note(action: str, note: str | None) -> str | None:
    """The note of an action; an edit's holds the difference of two bodies."""
    return HIDDEN if note and action.startswith("edit") else note


def _redact(kind: Kind, children: Sequence[Child]) -> bytes:
    if kind is Kind.OBJECT:
        return b"{" + b", ".join(child.key + b": " + _value(child) for child in children) + b"}"
    if kind is Kind.ARRAY:
        return b"[" + b", ".join(_nested(child.text, is_event=True) for child in children) + b"]"
    return _HIDDEN_JSON


def _value(child: Child) -> bytes:
    name = json.loads(child.key)
    if child.text[:1] in b"{[":
        return _nested(child.text, is_event=name == "data")
    is_text = child.text[:1] == b'"'
    return _HIDDEN_JSON if is_text and name not in SHOWN else child.text


def _nested(text: bytes, *, is_event: bool) -> bytes:
    """An object that holds an event's fields; arrays in arrays and other objects hold none."""
    if not is_event or text[:1] != b"{":
        return _HIDDEN_JSON
    return _redact(*outline(text))


def _is_shown(error: Mapping[str, Any]) -> bool:
    given = error.get("input")
    if not error.get("field") and str(error.get("message"))[:1] in _QUOTES:
        return False  # what is no JSON is quoted where its parser gave up
    if isinstance(given, str):
        return str(error.get("field")).rpartition(".")[2] in SHOWN and given.lstrip()[:1] not in ("{", "[")
    return not isinstance(given, dict | list) and not str(error.get("field")).startswith("request_metadata")


def _hidden(error: Mapping[str, Any]) -> dict[str, Any]:
    message = _QUOTED.sub("…", str(error.get("message")))
    return {**error, "message": message, "input": HIDDEN}
