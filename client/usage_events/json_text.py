"""JSON as text: is it JSON to the letter, and where in the text does each child of the outermost value stand?

The parsers in use refuse some texts that are JSON (a lone surrogate, deep nesting, an integer of 5,000 digits) and
take some that are not (`NaN`). This module knows the grammar of RFC 8259 and nothing else. It does not recurse, so no
nesting exhausts it. It is slower than a parser: it serves the path of refused messages only.
"""

import re
from enum import Enum
from typing import NamedTuple

# Possessive repeats (`*+`): no text makes the expression go back, so its time is linear.
_TOKEN = re.compile(
    rb"""[ \t\n\r]*+(?:
        (?P<mark>[{}\[\],:])
      | (?P<string>"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+")
      | (?P<scalar>-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?|true|false|null)
    )""",
    re.VERBOSE,
)
_BLANK = re.compile(rb"[ \t\n\r]*+")


class NotJsonError(ValueError):
    """The text is not JSON; the message says what was found at which byte."""


class Kind(Enum):
    """What the outermost value is."""

    OBJECT = "object"
    ARRAY = "array"
    SCALAR = "scalar"


class Child(NamedTuple):
    """A direct child of the outermost value: its key as written (empty in an array) and its own text."""

    key: bytes
    text: bytes


class _Expect(Enum):
    VALUE = "a value"
    VALUE_OR_END = "a value or ]"
    KEY = "a key"
    KEY_OR_END = "a key or }"
    COLON = "a colon"
    COMMA_OR_END = "a comma or the end"


_VALUES = (_Expect.VALUE, _Expect.VALUE_OR_END)
_KEYS = (_Expect.KEY, _Expect.KEY_OR_END)
_CLOSABLE = {
    b"}": (_Expect.KEY_OR_END, _Expect.COMMA_OR_END),
    b"]": (_Expect.VALUE_OR_END, _Expect.COMMA_OR_END),
}
_OPENER = {b"}": b"{", b"]": b"["}


def outline(body: bytes) -> tuple[Kind, list[Child]]:
    """What the outermost value of `body` is, and its direct children in order, duplicates included.

    Raises:
        NotJsonError: `body` is not one JSON value in UTF-8.
    """
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise NotJsonError(f"not UTF-8: byte {body[error.start]:#04x} at byte {error.start}") from None
    walk = _Walk(body)
    kind = walk.run()
    return kind, walk.children


def depth(body: bytes) -> int:
    """How many brackets are open at the deepest place of `body`; 0 for a scalar.

    Raises:
        NotJsonError: `body` is not one JSON value.
    """
    walk = _Walk(body)
    walk.run()
    return walk.deepest


class _Walk:
    """One pass over the tokens, with a stack of open brackets."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.position = 0
        self.stack: list[bytes] = []
        self.deepest = 0
        self.expect = _Expect.VALUE
        self.children: list[Child] = []
        self.key = b""
        self.child_start = 0

    def run(self) -> Kind:
        kind: Kind | None = None
        while kind is None or self.stack:
            match = _TOKEN.match(self.body, self.position)
            if match is None:
                raise self.error(_BLANK.match(self.body, self.position).end())  # type: ignore[union-attr]
            group = str(match.lastgroup)
            token = match[group]
            start = match.start(group)
            if kind is None:
                kind = {b"{": Kind.OBJECT, b"[": Kind.ARRAY}.get(token, Kind.SCALAR)
            self.take(token, start, is_string=group == "string", is_mark=group == "mark")
            self.position = match.end()
        rest = _BLANK.match(self.body, self.position).end()  # type: ignore[union-attr]
        if rest != len(self.body):
            raise NotJsonError(f"more text after the value, at byte {rest}")
        return kind

    def take(self, token: bytes, start: int, *, is_string: bool, is_mark: bool) -> None:
        if not is_mark:
            self.take_scalar(token, start, is_string=is_string)
        elif token in b"{[":
            if self.expect not in _VALUES:
                raise self.error(start)
            self.begin_value(start)
            self.stack.append(token)
            self.deepest = max(self.deepest, len(self.stack))
            self.expect = _Expect.KEY_OR_END if token == b"{" else _Expect.VALUE_OR_END
        elif token in b"}]":
            if not self.stack or self.stack[-1] != _OPENER[token] or self.expect not in _CLOSABLE[token]:
                raise self.error(start)
            self.stack.pop()
            self.end_value(start + 1)
        elif token == b":" and self.expect is _Expect.COLON:
            self.expect = _Expect.VALUE
        elif token == b"," and self.expect is _Expect.COMMA_OR_END:
            self.expect = _Expect.KEY if self.stack[-1] == b"{" else _Expect.VALUE
        else:
            raise self.error(start)

    def take_scalar(self, token: bytes, start: int, *, is_string: bool) -> None:
        if self.expect in _KEYS and is_string:
            if len(self.stack) == 1:
                self.key = token
            self.expect = _Expect.COLON
        elif self.expect in _VALUES:
            self.begin_value(start)
            self.end_value(start + len(token))
        else:
            raise self.error(start)

    def begin_value(self, start: int) -> None:
        if len(self.stack) == 1:
            self.child_start = start

    def end_value(self, end: int) -> None:
        if len(self.stack) == 1:
            self.children.append(Child(self.key, self.body[self.child_start : end]))
        self.expect = _Expect.COMMA_OR_END

    def error(self, position: int) -> NotJsonError:
        if position >= len(self.body):
            return NotJsonError(f"the text ends where {self.expect.value} is expected, at byte {position}")
        found = self.body[position : position + 12].decode("utf-8", "replace")
        return NotJsonError(f"{found!r} where {self.expect.value} is expected, at byte {position}")
