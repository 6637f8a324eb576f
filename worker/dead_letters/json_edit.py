r"""Edit JSON as text: what an edit does not address keeps its bytes, so that `1.10` stays `1.10`.

Pure. A path's steps are keys and indexes joined by dots; `*` is each element of an array, `\.` a dot in a key.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from usage_events.json_text import Kind, NotJsonError, outline

Path = tuple[str, ...]
EACH = "*"

_DOT = re.compile(r"(?<!\\)\.")
_BLANK = re.compile(rb"[ \t\n\r]*+")
_INDEX = re.compile(r"0|[1-9]\d{0,8}", re.ASCII)


class EditError(ValueError):
    """The edit does not fit: its text is wrong, or the body has no such place."""


class NothingThereError(EditError):
    """The body has nothing at the edit's path."""


class Verb(Enum):
    """What an edit does."""

    SET = "set"
    UNSET = "unset"
    RENAME = "rename"


@dataclass(slots=True, frozen=True)
class Edit:
    """One change. `text` is the JSON text of the new value, or of the new key."""

    verb: Verb
    path: Path
    text: bytes = b""

    def __str__(self) -> str:
        """As on the command line."""
        return f"--{self.verb.value} {path_text(self.path)}"


class _Span(NamedTuple):
    """Where a child stands: its key (a number in an array), its member from key to value, and its value."""

    key: str
    start: int
    value_start: int
    end: int


class _Change(NamedTuple):
    """One piece of a text and what takes its place."""

    start: int
    end: int
    text: bytes


def parse_set(given: str) -> Edit:
    """The edit of `path=value`; the value is JSON where it can be read as JSON, else a text.

    Raises:
        EditError: there is no `=`, or no path.
    """
    path, value = _halves(given, "path=value")
    try:
        outline(value.encode())
    except NotJsonError:
        return Edit(Verb.SET, parse_path(path), _quoted(value))
    return Edit(Verb.SET, parse_path(path), value.strip(" \t\r\n").encode())


def parse_unset(given: str) -> Edit:
    """The edit that removes what is at a path.

    Raises:
        EditError: the path has an empty step.
    """
    return Edit(Verb.UNSET, parse_path(given))


def parse_rename(given: str) -> Edit:
    """The edit of `old=new`; the new name is a key, or the whole path again with another last step.

    Raises:
        EditError: it names another place.
    """
    old_text, new_text = _halves(given, "old=new")
    old, new = parse_path(old_text), parse_path(new_text)
    if len(new) > 1 and new[:-1] != old[:-1]:
        raise EditError(f"{given!r} would move a value: a rename changes the last step of {old_text!r} alone")
    return Edit(Verb.RENAME, old, _quoted(new[-1]))


def parse_path(text: str) -> Path:
    """The steps of a dotted path.

    Raises:
        EditError: a step is empty.
    """
    steps = tuple(step.replace("\\.", ".") for step in _DOT.split(text))
    if not all(steps):
        raise EditError(f"{text!r} has an empty step: write keys and indexes joined by dots, such as data.model")
    return steps


def path_text(path: Path) -> str:
    """A path as it is written."""
    return ".".join(step.replace(".", "\\.") for step in path)


def apply(body: bytes, edits: Sequence[Edit]) -> bytes:
    """The body after the edits, one after the other.

    Raises:
        NothingThereError: an edit addresses nothing.
        EditError: an edit does not fit, such as a new name that is there already.
        NotJsonError: the body is not JSON.
    """
    for edit in edits:
        changes = _changes(body, edit, edit.path, 0)
        if not changes:
            raise NothingThereError(f"{edit}: nothing is there")
        body = _applied(body, changes)
    return body


def _applied(body: bytes, changes: Sequence[_Change]) -> bytes:
    """The body with these changes, which stand in the order of the text and do not overlap."""
    pieces = []
    position = 0
    for change in changes:
        pieces += [body[position : change.start], change.text]
        position = change.end
    return b"".join([*pieces, body[position:]])


def _changes(text: bytes, edit: Edit, path: Path, offset: int) -> list[_Change]:
    """What an edit changes in a value that stands at `offset` of the body."""
    kind, spans = _spans(text)
    if kind is Kind.SCALAR:
        return []
    chosen = _chosen(kind, spans, path[0])
    if len(path) > 1:
        nested = [
            change
            for span in chosen
            for change in _changes(text[span.value_start : span.end], edit, path[1:], span.value_start)
        ]
    elif edit.verb is Verb.SET:
        nested = [_Change(span.value_start, span.end, edit.text) for span in chosen]
        if not chosen and kind is Kind.OBJECT:
            nested = [_addition(text, spans, path[0], edit.text)]
    elif edit.verb is Verb.UNSET:
        nested = _removals(spans, chosen)
    else:
        nested = _renames(kind, text, spans, chosen, edit)
    return [_Change(change.start + offset, change.end + offset, change.text) for change in nested]


def _chosen(kind: Kind, spans: list[_Span], step: str) -> list[_Span]:
    """Of a key given twice all count: to change the last alone would bring the other one up."""
    if kind is Kind.ARRAY and step == EACH:
        return spans
    if kind is Kind.ARRAY and not _INDEX.fullmatch(step):
        raise EditError(f"{step!r} in an array: write an index, or {EACH} for each element")
    return [span for span in spans if span.key == step]


def _addition(text: bytes, spans: list[_Span], key: str, value: bytes) -> _Change:
    member = _quoted(key) + b": " + value
    if spans:
        return _Change(spans[-1].end, spans[-1].end, b", " + member)
    start = text.index(b"{") + 1
    return _Change(start, start, member)


def _removals(spans: list[_Span], chosen: list[_Span]) -> list[_Change]:
    """Each goes with the comma before it; those at the head with the comma behind them."""
    removed = set(chosen)
    first = next((number for number, span in enumerate(spans) if span not in removed), None)
    if first is None:
        return [_Change(spans[0].start, spans[-1].end, b"")] if spans else []
    head = [_Change(spans[0].start, spans[first].start, b"")] if first else []
    return head + [
        _Change(spans[number - 1].end, spans[number].end, b"")
        for number in range(first + 1, len(spans))
        if spans[number] in removed
    ]


def _renames(kind: Kind, text: bytes, spans: list[_Span], chosen: list[_Span], edit: Edit) -> list[_Change]:
    if not chosen:
        return []
    if kind is Kind.ARRAY:
        raise EditError(f"{edit}: an element of an array has no name")
    new = json.loads(edit.text)
    if any(span.key == new for span in spans):
        raise EditError(f"{edit}: {new!r} is there already; unset one of the two first")
    return [_Change(span.start, _key_end(text, span), edit.text) for span in chosen]


def _key_end(text: bytes, span: _Span) -> int:
    """Behind the key's closing quote: between it and the value are blanks and the colon."""
    return text.rindex(b'"', span.start, span.value_start) + 1


def _spans(text: bytes) -> tuple[Kind, list[_Span]]:
    """Where each child of the outermost value stands: the text is JSON, so only blanks and marks are between them."""
    kind, children = outline(text)
    position = _blank_end(text, 0) + 1
    spans = []
    for number, child in enumerate(children):
        start = value_start = _blank_end(text, position)
        if kind is Kind.OBJECT:
            colon = _blank_end(text, start + len(child.key))
            value_start = _blank_end(text, colon + 1)
        end = value_start + len(child.text)
        spans.append(_Span(json.loads(child.key) if kind is Kind.OBJECT else str(number), start, value_start, end))
        position = _blank_end(text, end) + 1
    return kind, spans


def _blank_end(text: bytes, position: int) -> int:
    match = _BLANK.match(text, position)
    assert match is not None  # noqa: S101 - it matches the empty text, too
    return match.end()


def _halves(given: str, wanted: str) -> tuple[str, str]:
    left, sign, right = given.partition("=")
    if not sign:
        raise EditError(f"{given!r} has no =: write {wanted}")
    return left, right


def _quoted(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()
