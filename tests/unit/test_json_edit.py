"""Editing JSON as text: an edit changes what it addresses, and nothing else loses a byte."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from usage_events.json_text import NotJsonError, outline

from worker.dead_letters.json_edit import EditError, apply, parse_path, parse_rename, parse_set, parse_unset, path_text

KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\\="), min_size=1, max_size=5)
NUMBERS = ["1.10", "1E400", "-0", "9" * 400, "0.30000000000000004"]
SCALARS = st.sampled_from([*NUMBERS, '"\\u00e9\\ud800"', "true", "null", '"x, y: {"'])
BLANKS = st.sampled_from(["", " ", "\n  ", "\t\r\n"])


@st.composite
def members(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Keys and the texts of their values; no key twice."""
    nested = st.one_of(SCALARS, SCALARS.map(lambda text: f'[{text} , {{"a" :{text}}} ]'))
    return draw(st.lists(st.tuples(KEYS, nested), min_size=1, max_size=6, unique_by=lambda member: member[0]))


@st.composite
def texts(draw: st.DrawFn, chosen: list[tuple[str, str]]) -> bytes:
    """An object of these members, with blanks wherever JSON has room for them."""

    def spaced(*tokens: str) -> str:
        return draw(BLANKS) + "".join(token + draw(BLANKS) for token in tokens)

    written = [spaced(json.dumps(key, ensure_ascii=draw(st.booleans())), ":", value) for key, value in chosen]
    return spaced("{" + ",".join(written) + "}").encode()


def read(body: bytes) -> list[tuple[str, str]]:
    """The members of an object: keys, and values as they are written."""
    return [(json.loads(child.key), child.text.decode()) for child in outline(body)[1]]


@given(st.data(), members(), SCALARS)
def test_set_then_read_gives_the_value(data: st.DataObject, chosen: list[tuple[str, str]], value: str) -> None:
    """A value that is set is read back as it was written; all others keep their bytes, their order and their place."""
    body = data.draw(texts(chosen))
    place = data.draw(st.integers(0, len(chosen) - 1))
    key, old = chosen[place]
    after = apply(body, [parse_set(f"{path_text((key,))}={value}")])
    assert read(after) == [*chosen[:place], (key, value), *chosen[place + 1 :]]
    assert apply(after, [parse_set(f"{path_text((key,))}={old}")]) == body


@given(st.data(), members(), SCALARS)
def test_a_new_key_comes_last(data: st.DataObject, chosen: list[tuple[str, str]], value: str) -> None:
    """Where there is no such key it is added behind the others, and removing it gives the very bytes back."""
    body = data.draw(texts([member for member in chosen if member[0] != "new"]))
    after = apply(body, [parse_set(f"new={value}")])
    assert read(after) == [*read(body), ("new", value)]
    assert apply(after, [parse_unset("new")]) == body


@given(st.data(), members())
def test_unset_removes(data: st.DataObject, chosen: list[tuple[str, str]]) -> None:
    """What is removed is gone, and what stays is JSON with its bytes and its order."""
    body = data.draw(texts(chosen))
    place = data.draw(st.integers(0, len(chosen) - 1))
    after = apply(body, [parse_unset(path_text((chosen[place][0],)))])
    assert read(after) == chosen[:place] + chosen[place + 1 :]


@given(st.data(), members())
def test_rename_keeps_the_order(data: st.DataObject, chosen: list[tuple[str, str]]) -> None:
    """A key gets its new name where it stands; renaming it back changes no value."""
    chosen = [(f"k{number}{key}", value) for number, (key, value) in enumerate(chosen)]
    body = data.draw(texts(chosen))
    place = data.draw(st.integers(0, len(chosen) - 1))
    key, value = chosen[place]
    after = apply(body, [parse_rename(f"{path_text((key,))}=new")])
    assert read(after) == [*chosen[:place], ("new", value), *chosen[place + 1 :]]
    assert read(apply(after, [parse_rename(f"new={path_text((key,))}")])) == chosen


@pytest.mark.parametrize(
    ("body", "edit", "expected"),
    [
        ('[{"a":1.10}, {"a":2}]', parse_set("0.a=7"), '[{"a":7}, {"a":2}]'),
        ('[{"a":1.10}, {"b":2}]', parse_set("*.a=x"), '[{"a":"x"}, {"b":2, "a": "x"}]'),
        ('[{"a":1.10}, {"b":2}]', parse_rename("*.a=c"), '[{"c":1.10}, {"b":2}]'),
        ('[{"a":1}, {"a":2}]', parse_rename("1.a=1.c"), '[{"a":1}, {"c":2}]'),
        ('{"data":{"a":1e3}}', parse_rename("data.a=b"), '{"data":{"b":1e3}}'),
        ("[1, 2, 3]", parse_unset("0"), "[2, 3]"),
        ("[1, 2, 3]", parse_unset("*"), "[]"),
        ('{"a":1, "a":2, "b":3}', parse_unset("a"), '{"b":3}'),
        ('{"a":1, "b":3, "a":2}', parse_set("a=0"), '{"a":0, "b":3, "a":0}'),
        ('{"a.b":1}', parse_set("a\\.b=2"), '{"a.b":2}'),
        ("{ }", parse_set("a=2"), '{"a": 2 }'),
        ('{"a":1}', parse_set("a=007"), '{"a":"007"}'),
        ('{"a":1}', parse_set("a=b=c"), '{"a":"b=c"}'),
        ('{"a":1}', parse_set("a="), '{"a":""}'),
        ('{"\\u0061":1}', parse_unset("a"), "{}"),
    ],
)
def test_edits(body: str, edit: Any, expected: str) -> None:
    """Elements, nested keys, repeated keys, keys with a dot, values that are JSON and values that are not."""
    assert apply(body.encode(), [edit]) == expected.encode()


@pytest.mark.parametrize(
    ("body", "edit", "message"),
    [
        ('{"a":1}', parse_unset("b"), "--unset b: nothing is there"),
        ('{"a":1}', parse_set("a.b=1"), "--set a.b: nothing is there"),
        ("[1]", parse_set("1=1"), "--set 1: nothing is there"),
        ("[1]", parse_rename("0=1"), "--rename 0: an element of an array has no name"),
        ("[1]", parse_set("a=1"), "'a' in an array: write an index, or * for each element"),
        ('{"a":1,"b":2}', parse_rename("a=b"), "--rename a: 'b' is there already; unset one of the two first"),
    ],
)
def test_what_does_not_fit(body: str, edit: Any, message: str) -> None:
    """An edit that addresses nothing, or would make a key stand twice, says so."""
    with pytest.raises(EditError) as caught:
        apply(body.encode(), [edit])
    assert str(caught.value) == message


def test_what_is_no_json_cannot_be_edited_by_path() -> None:
    """A body that is not JSON has no paths."""
    with pytest.raises(NotJsonError):
        apply(b'{"a":1', [parse_set("a=2")])


def test_wrong_texts() -> None:
    """An edit that cannot be read names its text."""
    with pytest.raises(EditError, match="'a' has no =: write path=value"):
        parse_set("a")
    with pytest.raises(EditError, match=r"'a\.\.b' has an empty step"):
        parse_path("a..b")
    with pytest.raises(EditError, match=r"'a\.b=c\.d' would move a value"):
        parse_rename("a.b=c.d")
