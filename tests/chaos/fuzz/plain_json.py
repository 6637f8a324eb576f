"""JSON by the standard library alone, with the text of each child of the outermost value as it was written."""

import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple, NoReturn

from usage_events.json_text import outline

_DIGITS_MAX = 400  # of an integer: from 310 digits on it is no finite double, so its value no longer matters
_BLANK = re.compile(r"[ \t\n\r]*+")
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")


class PlainJsonError(ValueError):
    """The text is not JSON."""


class Deep:
    """Stands for a value that is nested too deeply to be read here."""


DEEP = Deep()


class Piece(NamedTuple):
    """A child: its key (empty in an array), its value, its text."""

    key: str
    value: Any
    text: str


def _never(constant: str) -> NoReturn:
    raise PlainJsonError(f"{constant} is not JSON")


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS_MAX else float(digits)


_Reader = Callable[[str, int], tuple[Any, int]]
_read: _Reader = json.JSONDecoder(parse_int=_integer, parse_constant=_never).raw_decode
_exact = json.JSONDecoder(parse_int=Decimal, parse_float=Decimal, parse_constant=_never).decode
_loose = json.JSONDecoder(parse_int=_integer, parse_constant=_never).decode


def children(body: bytes) -> tuple[str, list[Piece]]:
    """The first character of the outermost value, and its children in order, a key that stands twice included.

    Raises:
        PlainJsonError: it is not one JSON value in UTF-8.
    """
    try:
        text = body.decode()
        begin = _skip(text, 0)
        mark = text[begin : begin + 1]
        if mark == "{":
            return mark, _walk(text, begin + 1, "}")
        if mark == "[":
            return mark, _walk(text, begin + 1, "]")
        end = _read(text, begin)[1]
        if _skip(text, end) != len(text):
            raise PlainJsonError("more text after the value")
    except RecursionError:
        # Nothing of the standard library reads this; the project's own reader of text does not recurse.
        return _by_outline(body)
    except ValueError as error:
        raise PlainJsonError(str(error)) from None
    return mark, []


def depth(text: str) -> int:
    """How many brackets are open at the deepest place."""
    level = deepest = 0
    for mark in _BRACKET.findall(_STRING.sub("", text)):
        level += 1 if mark in "[{" else -1
        deepest = max(deepest, level)
    return deepest


def exact(text: str) -> Any:
    """The value with every number as its exact decimal."""
    return _exact(text)


def loose(text: str) -> Any:
    """The value with integers exact and all other numbers as doubles."""
    return _loose(text)


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON: `true` is no 1, and 1.0 is 1; a double is met by what rounds to it."""
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same(value, other[key]) for key, value in one.items())
        )
    if isinstance(one, list):
        return (
            isinstance(other, list)
            and len(one) == len(other)
            and all(same(left, right) for left, right in zip(one, other, strict=True))
        )
    if one is None or isinstance(one, bool | str) or other is None or isinstance(other, bool | str | dict | list):
        return type(one) is type(other) and bool(one == other)
    if isinstance(one, float) or isinstance(other, float):
        return _double(one) == _double(other)
    return bool(one == other)


def _double(number: float | Decimal) -> float:
    try:
        return float(number)
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")


def _skip(text: str, at: int) -> int:
    match = _BLANK.match(text, at)
    return at if match is None else match.end()


def _walk(text: str, at: int, closing: str) -> list[Piece]:
    found: list[Piece] = []
    at = _skip(text, at)
    mark = text[at : at + 1]
    if mark != closing:
        mark = ","
    while mark == ",":
        key = ""
        if closing == "}":
            key, at = _key(text, at)
        value, end = _read(text, at)
        found.append(Piece(key, value, text[at:end]))
        at = _skip(text, end)
        mark = text[at : at + 1]
        if mark == ",":
            at = _skip(text, at + 1)
    if mark != closing:
        raise PlainJsonError("neither a comma nor the end")
    if _skip(text, at + 1) != len(text):
        raise PlainJsonError("more text after the value")
    return found


def _key(text: str, at: int) -> tuple[str, int]:
    if text[at : at + 1] != '"':
        raise PlainJsonError("no key")
    key, at = _read(text, at)
    at = _skip(text, at)
    if text[at : at + 1] != ":":
        raise PlainJsonError("no colon")
    return str(key), _skip(text, at + 1)


def _by_outline(body: bytes) -> tuple[str, list[Piece]]:
    try:
        kind, parts = outline(body)
    except ValueError as error:
        raise PlainJsonError(str(error)) from None
    pieces = []
    for part in parts:
        text = part.text.decode()
        try:
            value = _read(text, 0)[0]
        except RecursionError:
            value = DEEP
        pieces.append(Piece(json.loads(part.key) if part.key else "", value, text))
    return {"object": "{", "array": "["}.get(kind.value, "0"), pieces
