"""JSON as text: the grammar to the letter, and where each child of the outermost value stands."""

import json
from typing import Any

import pytest
from event_texts import damaged, event_texts, json_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from usage_events.json_text import Kind, NotJsonError, depth, outline
from usage_events.judge import Form


def not_json(constant: str) -> Any:
    """What the standard library is told to make of NaN and infinity."""
    raise ValueError(f"{constant} is not JSON")


def pairs(members: list[tuple[str, Any]]) -> Any:
    """An object with all of its members, those given twice too."""
    return ("object", members)


def read(text: bytes, **options: Any) -> Any:
    """The value, by the standard library at its strictest; numbers stay texts, so that none is too long for it."""
    return json.loads(text.decode(), parse_constant=not_json, parse_int=str, parse_float=str, **options)


@settings(max_examples=1500)
@given(json_texts() | damaged(json_texts()) | damaged(event_texts(Form.NATIVE)) | st.binary(max_size=12))
def test_same_texts_are_json_as_for_the_standard_library(text: bytes) -> None:
    """What the standard library reads is JSON here, with the same children in the same order; all else is not."""
    try:
        value = read(text, object_pairs_hook=pairs)
    except ValueError:
        with pytest.raises(NotJsonError):
            outline(text)
        return
    kind, children = outline(text)
    values = [read(child.text, object_pairs_hook=pairs) for child in children]
    if kind is Kind.ARRAY:
        assert values == value
        assert all(child.key == b"" for child in children)
    elif kind is Kind.OBJECT:
        assert list(zip([json.loads(child.key) for child in children], values, strict=True)) == value[1]
    else:
        assert not isinstance(value, list | dict)
        assert children == []


@given(json_texts())
def test_depth_is_that_of_the_value(text: bytes) -> None:
    """`depth` counts the containers around the innermost value."""

    def depth_of(value: Any) -> int:
        if not isinstance(value, list | dict):
            return 0
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(depth_of, inner), default=0)

    assert depth(text) == depth_of(json.loads(text))


def test_children_are_cut_as_they_were_written() -> None:
    """A child's text is its own bytes: blanks inside stay, blanks around it do not belong to it."""
    kind, children = outline(b' { "a" : [ 1 , 2 ] , "\\u0061":\n{ } ,"b":"x]},{" } \r\n')
    assert kind is Kind.OBJECT
    assert children == [(b'"a"', b"[ 1 , 2 ]"), (b'"\\u0061"', b"{ }"), (b'"b"', b'"x]},{"')]


def test_nesting_exhausts_nothing() -> None:
    """A hundred thousand levels are JSON too."""
    levels = 100_000
    text = b"[" * levels + b"]" * levels
    assert outline(text)[1][0].text == text[1:-1]
    assert depth(text) == levels


@pytest.mark.parametrize("text", [b'"\\ud800"', b"9" * 5000, b"1e99999", b'{"a":1,"a":2}', b"-0", b"\t1\r\n"])
def test_json_that_parsers_refuse_or_change_is_json(text: bytes) -> None:
    """The grammar knows no lone surrogates, no longest number and no key that is given twice."""
    assert outline(text)[0] in Kind


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the text ends where a value is expected, at byte 0"),
        (b" \n", "the text ends where a value is expected, at byte 2"),
        (b"[1,", "the text ends where a value is expected, at byte 3"),
        (b"[1", "the text ends where a comma or the end is expected, at byte 2"),
        (b'{"a"', "the text ends where a colon is expected, at byte 4"),
        (b"[1,]", "']' where a value is expected, at byte 3"),
        (b"[}", "'}' where a value or ] is expected, at byte 1"),
        (b"{]", "']' where a key or } is expected, at byte 1"),
        (b'{"a":1,}', "'}' where a key is expected, at byte 7"),
        (b"{1:2}", "'1:2}' where a key or } is expected, at byte 1"),
        (b"NaN", "'NaN' where a value is expected, at byte 0"),
        (b"[01]", "'1]' where a comma or the end is expected, at byte 2"),
        (b"1 2", "more text after the value, at byte 2"),
        (b'{"a":"\n"}', "'\"\\n\"}' where a value is expected, at byte 5"),
        (b'"\xff"', "not UTF-8: byte 0xff at byte 1"),
        (b"\xef\xbb\xbf1", "'\\ufeff1' where a value is expected, at byte 0"),
    ],
)
def test_error_says_what_was_found_where(text: bytes, message: str) -> None:
    """What is no JSON is refused with the byte at which it ends to be."""
    with pytest.raises(NotJsonError) as error:
        outline(text)
    assert str(error.value) == message
