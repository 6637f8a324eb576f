"""JSON in an editor and back: only what was typed changes, and no number or text is written anew."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from usage_events.json_text import NotJsonError, outline

from worker.dead_letters.json_layout import MATCHED_TOKENS_MAX, in_layout_of, indented

SCALARS = st.sampled_from(
    ["1.10", "1E400", "-0", "9" * 60, '"\\u00e9\\ud800\\/"', '"é {[,: \\""', '"\\\\"', "true", "null", "[ ]", "{}"]
)
BLANKS = st.sampled_from(["", " ", "\n  ", "\t\r\n"])


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """JSON with blanks wherever it has room for them."""

    def spaced(token: str) -> str:
        return draw(BLANKS) + token + draw(BLANKS)

    def nested(level: int) -> str:
        if level == 0 or draw(st.booleans()):
            return draw(SCALARS)
        items = [nested(level - 1) for _ in range(draw(st.integers(1, 3)))]
        if draw(st.booleans()):
            return "[" + ",".join(map(spaced, items)) + "]"
        return "{" + ",".join(spaced(f'"k{number}"') + ":" + spaced(item) for number, item in enumerate(items)) + "}"

    return spaced(nested(3)).encode()


@given(texts())
def test_a_look_changes_nothing(body: bytes) -> None:
    """What the editor shows, closed as it is, gives the very bytes back; so does any other layout of it."""
    shown = indented(body)
    assert shown is not None
    assert in_layout_of(body, shown) == body
    assert in_layout_of(body, shown + b"\n") == body
    assert in_layout_of(shown, body) == shown


@given(texts(), texts())
def test_what_was_typed_is_what_is_saved(body: bytes, typed: bytes) -> None:
    """Whatever is typed, the result has its tokens: the same values, each as it was written."""
    assert indented(in_layout_of(body, typed)) == indented(typed)


@pytest.mark.parametrize(
    ("body", "change", "expected"),
    [
        (b'{"a":1.10,"b":2}', (b"1.10", b"1.1"), b'{"a":1.1,"b":2}'),
        (b'{ "a" : 1.10 , "b":  2}\n', (b": 2", b": 3"), b'{ "a" : 1.10 , "b":  3}\n'),
        (
            b'{"a":  1,"input_token":7,  "b":2}',
            (b"input_token", b"input_tokens"),
            b'{"a":  1,"input_tokens":7,  "b":2}',
        ),
        (b'{"a":  1,"b":\t2}', (b'"b": 2', b'"b": 2,\n "c":\n 3'), b'{"a":  1,"b":\t2, "c": 3}'),
        (b'[{"a":1},  {"a":1}]', (b'},\n  {\n    "a": 1', b'},\n  {\n    "a": 2'), b'[{"a":1},  {"a":2}]'),
    ],
)
def test_the_layout_of_the_rest_stays(body: bytes, change: tuple[bytes, bytes], expected: bytes) -> None:
    """A value, a name or a member is changed in the editor; all around it keeps its bytes."""
    shown = indented(body)
    assert shown is not None
    assert change[0] in shown
    assert in_layout_of(body, shown.replace(*change)) == expected


def test_a_long_change_between_what_stays() -> None:
    """What is too long to be matched keeps the layout that was typed; head and tail keep the original's."""
    old: dict[str, Any] = {f"k{number}": number for number in range(MATCHED_TOKENS_MAX)}
    body = b"[ 1 , %b , 3]" % json.dumps(old).encode()
    typed = b"[1, %b, 3]" % json.dumps({name: value + 1 for name, value in old.items()}).encode()
    after = in_layout_of(body, typed)
    assert json.loads(after) == json.loads(typed)
    assert after.startswith(b"[ 1 , {")
    assert after.endswith(b" , 3]")


@pytest.mark.parametrize("typed", [b"", b'{"a":1', b'{"a":1} x', b"NaN", b'{"a":\xff}'])
def test_what_is_no_json_is_said(typed: bytes) -> None:
    """Nothing is guessed."""
    with pytest.raises(NotJsonError):
        in_layout_of(b'{"a":1}', typed)


def test_how_it_is_shown() -> None:
    """A member and an element a line, two blanks a level; what is empty stays together."""
    shown = indented(b'{"a" :1.10,"b":[1E400,{ }],"c":[ ],"d":"\\ud800"}')
    assert shown == (b'{\n  "a": 1.10,\n  "b": [\n    1E400,\n    {}\n  ],\n  "c": [],\n  "d": "\\ud800"\n}')


def test_what_nobody_could_read_is_not_indented() -> None:
    """Deep nesting, and what is no JSON."""
    assert indented(b"[" * 33 + b"]" * 33) is None
    assert indented(b"garbage") is None
    assert indented(b"\xff") is None
    assert outline(indented(b"[" * 32 + b"]" * 32) or b"")
