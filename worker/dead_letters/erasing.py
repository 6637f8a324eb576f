"""Erasing: what becomes of a letter that names a person or an organization who shall be forgotten. Pure.

A letter of theirs goes. One that holds other people's events too loses theirs alone, and one that only names them, say
in another's metadata, loses the name. Where it cannot be told whose events a body holds, none are thrown away unasked.
"""

import json
import re
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple
from uuid import UUID

from usage_events.json_text import Child, Kind, NotJsonError, outline

_HEX = re.compile(rb"[0-9a-f]", re.IGNORECASE)
_ESCAPE = re.compile(rb"\\u00([2346][0-9a-f])", re.IGNORECASE)
_OWNER_NAME = re.compile(rb'"(user|organization)_id"')


class Field(Enum):
    """Whose id it is."""

    USER = "user_id"
    ORGANIZATION = "organization_id"


class Fate(Enum):
    """What becomes of a letter."""

    NOTHING = "nothing"  # it does not name them
    DELETED = "deleted"
    CUT = "cut"  # their events are taken out of an array
    MASKED = "masked"  # it is another's, and only names them
    UNSURE = "unsure"  # it may hold other people's events, and cannot be cut


class Verdict(NamedTuple):
    """A letter's fate, and its bodies from then on."""

    fate: Fate
    body: bytes | None = b""
    edited_body: bytes | None = None


class Subject:
    """Who shall be forgotten: finds and masks their id, in either case, with or without dashes."""

    def __init__(self, field: Field, identifier: UUID) -> None:
        self.field = field
        self.id = UUID(bytes=identifier.bytes)
        self.pattern = str(self.id).replace("-", "-?")  # for Postgres, too
        self._found = re.compile(self.pattern.encode(), re.IGNORECASE)

    def is_named(self, text: bytes) -> bool:
        """Whether the id stands in these bytes, also as UTF-16 or UTF-32, or in JSON's escapes."""
        plain = text.replace(b"\x00", b"")
        if self._found.search(plain):
            return True
        unescaped = _ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), plain)
        return self._found.search(unescaped) is not None

    def masked(self, text: bytes) -> bytes:
        """The bytes with zeros in place of the id; as long as before, so that whatever held them still does."""
        return self._found.sub(lambda match: _HEX.sub(b"0", match[0]), text)

    def masked_text(self, text: str | None, otherwise: str | None = "") -> str | None:
        """The same of a text; `otherwise` where the id would be left in it in another form."""
        if text is None or not self.is_named(text.encode()):
            return text
        masked = self.masked(text.encode())
        return otherwise if self.is_named(masked) else masked.decode()

    def judge(
        self, body: bytes | None, edited_body: bytes | None, others: Sequence[str | None], owner: UUID | None
    ) -> Verdict:
        """What becomes of a letter. What a replay would take decides whose it is: the edited body, where there is one.

        Args:
            body: as it came; `None` where it was given up.
            edited_body: what an operator made of it.
            others: what else is known of the letter, as texts.
            owner: whose it is, as the letter's own column says.
        """
        known = " ".join(text for text in others if text).encode()
        is_owner = owner is not None and owner == self.id
        if not is_owner and not any(self.is_named(text) for text in (body or b"", edited_body or b"", known)):
            return Verdict(Fate.NOTHING)
        current = body if edited_body is None else edited_body
        if current is None:  # no event is left that could be another's
            return Verdict(Fate.DELETED if is_owner or owner is None else Fate.MASKED, None)
        fate, rest = self._judge_body(current)
        if is_owner and fate is not Fate.UNSURE:
            return Verdict(Fate.DELETED)
        if fate in (Fate.DELETED, Fate.UNSURE) or edited_body is None:
            return Verdict(fate, rest)
        original_fate, original = self._judge_original(body)
        if original_fate in (Fate.DELETED, Fate.UNSURE):  # an operator has made it another's: that alone stays
            original_fate, original = Fate.CUT, rest
        return Verdict(Fate.CUT if Fate.CUT in (fate, original_fate) else Fate.MASKED, original, rest)

    def _judge_original(self, body: bytes | None) -> tuple[Fate, bytes | None]:
        return (Fate.MASKED, body) if body is None or not self.is_named(body) else self._judge_body(body)

    def _judge_body(self, body: bytes) -> tuple[Fate, bytes]:
        """The fate of a body whose letter names them, and what is left of it."""
        try:
            kind, children = outline(body)
        except NotJsonError:
            return self._guess(body), b""
        if kind is Kind.ARRAY and children:
            return self._cut([child.text for child in children])
        owner = _owner(children, self.field) if kind is Kind.OBJECT else None
        if owner is None:
            return self._guess(body), b""
        if owner == self.id:
            return Fate.DELETED, b""
        masked = self.masked(body)
        return (Fate.UNSURE, b"") if self.is_named(masked) else (Fate.MASKED, masked)

    def _cut(self, elements: Sequence[bytes]) -> tuple[Fate, bytes]:
        kept = []
        for element in elements:
            if not self.is_named(element):
                kept.append(element)
                continue
            fate, rest = self._judge_body(element) if element[:1] == b"{" else (Fate.DELETED, b"")
            if fate is Fate.UNSURE:
                return fate, b""
            if fate is not Fate.DELETED:
                kept.append(rest)
        if not kept:
            return Fate.DELETED, b""
        return Fate.CUT if len(kept) < len(elements) else Fate.MASKED, b"[" + b", ".join(kept) + b"]"

    @staticmethod
    def _guess(body: bytes) -> Fate:
        """The fate of what nobody can be read from: it holds one event, or may hold several."""
        plain = body.replace(b"\x00", b"").lstrip(b"\xef\xbb\xbf\xfe\xff \t\r\n")
        names = [match[0] for match in _OWNER_NAME.finditer(plain)]
        is_several = plain[:1] == b"[" or len(set(names)) < len(names)
        return Fate.UNSURE if is_several else Fate.DELETED


def _owner(members: Sequence[Child], field: Field) -> UUID | None:
    """Whose event an object is; a CloudEvent's fields stand in its data. Of a key given twice the last counts."""
    found = {json.loads(member.key): member.text for member in members}
    text = found.get(field.value)
    if text is None and found.get("data", b"")[:1] == b"{":
        return _owner(outline(found["data"])[1], field)
    if text is None or text[:1] != b'"':
        return None
    try:
        return UUID(json.loads(text))
    except ValueError:
        return None
