"""JSON as an editor shows it, and what was typed there in the layout of the original: pure.

Indented, each number and each text as it was written. Back again only the tokens count: blanks between those that were
not touched are the original's, so that a look into an editor changes no byte.
"""

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import NamedTuple

from usage_events.json_text import NotJsonError, depth, outline

INDENTED_DEPTH_MAX = 32  # indentation grows with the square of it
MATCHED_TOKENS_MAX = (
    4000  # matching takes the square of them; where more of them differ, what is typed keeps its own layout
)
_OPENING = (b"{", b"[")
_CLOSING = (b"}", b"]")
_EMPTY = (b"{}", b"[]")
_TOKEN = re.compile(rb'([ \t\n\r]*+)("(?:[^"\\]|\\.)*+"|[{}\[\],:]|[^ \t\n\r{}\[\],:"]++)', re.DOTALL)


class _Token(NamedTuple):
    """The blanks before a token, and the token."""

    blanks: bytes
    text: bytes


def indented(body: bytes) -> bytes | None:
    """JSON with its lines indented; `None` where it is not JSON, or so deep that nobody could read it."""
    try:
        if depth(body) > INDENTED_DEPTH_MAX:
            return None
        body.decode()
    except (NotJsonError, UnicodeDecodeError):
        return None
    return b"".join(_indented_pieces([token.text for token in _tokens(body)]))


def in_layout_of(original: bytes, typed: bytes) -> bytes:
    """`typed`, with the blanks of `original` wherever its tokens are still the same.

    Raises:
        NotJsonError: `typed` is not JSON.
    """
    outline(typed)
    old, new = _tokens(original), _tokens(typed)
    start = _common(old, new)
    end = _common(old[start:][::-1], new[start:][::-1])
    old_middle, new_middle = old[start : len(old) - end], new[start : len(new) - end]
    kept = [*old[:start], *_matched(old_middle, new_middle), *old[len(old) - end :]]
    return b"".join(blanks + text for blanks, text in kept) + _trailing_blanks(original)


def _indented_pieces(tokens: list[bytes]) -> Iterator[bytes]:
    level = 0
    for before, token, after in zip([b"", *tokens], tokens, [*tokens[1:], b""], strict=False):
        is_empty = (before + token) in _EMPTY
        if token in _CLOSING:
            level -= 1
            yield b"" if is_empty else b"\n" + b"  " * level
        yield token
        if token in _OPENING:
            level += 1
        if token == b":":
            yield b" "
        elif token == b"," or (token in _OPENING and token + after not in _EMPTY):
            yield b"\n" + b"  " * level


def _matched(old: list[_Token], new: list[_Token]) -> list[_Token]:
    if len(old) == len(new):
        return [_Token(place.blanks, token.text) for place, token in zip(old, new, strict=True)]
    if len(old) + len(new) > MATCHED_TOKENS_MAX:
        return new
    matcher = SequenceMatcher(None, [one.text for one in old], [one.text for one in new], autojunk=False)
    merged: list[_Token] = []
    for verb, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        if verb == "equal":
            merged += old[old_start:old_end]
            continue
        places = old[old_start:old_end] if verb == "replace" else []
        for place, token in zip_longest(places[: new_end - new_start], new[new_start:new_end]):
            blanks = place.blanks if place else b" " if token.blanks else b""
            merged.append(_Token(blanks, token.text))
    return merged


def _common(old: list[_Token], new: list[_Token]) -> int:
    """How many tokens at the head are the same."""
    pairs = zip(old, new, strict=False)
    return next((number for number, (a, b) in enumerate(pairs) if a.text != b.text), min(len(old), len(new)))


def _tokens(text: bytes) -> list[_Token]:
    return [_Token(*match) for match in _TOKEN.findall(text)]


def _trailing_blanks(text: bytes) -> bytes:
    return text[len(text.rstrip(b" \t\r\n")) :]
