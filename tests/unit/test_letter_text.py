"""Bodies for a terminal: indented, as they are, or in hexadecimal digits, and never as commands to it."""

import difflib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.dead_letters import text as letter_text
from worker.dead_letters.text import HEX_BYTES_MAX, difference, one_line, printable, readable


def test_json_is_indented_and_not_written_anew() -> None:
    """Numbers and escapes stay as the producer wrote them."""
    assert readable(b'{"a":1.10,"b":12345678901234567890123,"c":"\\u00e9"}') == (
        '{\n  "a": 1.10,\n  "b": 12345678901234567890123,\n  "c": "\\u00e9"\n}'
    )


@pytest.mark.parametrize("body", [b"not json", b'{"a": 1', b"[" * 40 + b"]" * 40, '{"a": "é"'.encode()])
def test_other_text_is_shown_as_it_is(body: bytes) -> None:
    """Text that is no JSON, and JSON too deep to be indented."""
    assert readable(body) == body.decode()


def test_what_is_no_text_is_shown_in_hexadecimal() -> None:
    """Offset, digits, and the characters that can be shown."""
    assert readable(b"\xffab\x00") == f"00000000  {'ff 61 62 00':<48} .ab."


def test_of_many_bytes_the_first_are_shown() -> None:
    """The rest is counted, with the way to it."""
    lines = readable(b"\xff" * (HEX_BYTES_MAX + 5)).splitlines()
    assert len(lines) == HEX_BYTES_MAX // 16 + 1
    assert lines[-1] == "… and 5 bytes more: `export` writes all of them"


@given(st.text())
def test_nothing_commands_the_terminal(text: str) -> None:
    """Every character of what is shown can be printed, line ends and tabs apart."""
    assert printable(text).replace("\n", "").replace("\t", "").isprintable()
    assert one_line(text).isprintable()


@given(st.binary())
def test_any_bytes_can_be_shown(body: bytes) -> None:
    """No body stops the command that shows it, or reaches the terminal as a command."""
    assert readable(body).replace("\n", "").replace("\t", "").isprintable()


def test_the_difference_of_an_edit() -> None:
    """By lines of the indented bodies."""
    shown = difference(b'{"input_token":5,"id":"x"}', b'{"input_tokens":5,"id":"x"}').splitlines()
    assert [line for line in shown if line[:1] in "+-"] == [
        "--- body", "+++ edited body", '-  "input_token": 5,', '+  "input_tokens": 5,',
    ]  # fmt: skip


LINES = st.lists(st.sampled_from(["1", "2", '"é"', "null"]), max_size=12)


@given(LINES, LINES)
def test_a_difference_is_that_of_the_standard_library(before: list[str], after: list[str]) -> None:
    """The same lines, hunks and numbers."""
    bodies = [f"[{','.join(items)}]".encode() for items in (before, after)]
    expected = difflib.unified_diff(
        readable(bodies[0]).splitlines(), readable(bodies[1]).splitlines(), "body", "edited body", lineterm=""
    )
    assert difference(bodies[0], bodies[1]).splitlines() == list(expected)


@given(LINES, LINES)
def test_a_long_difference_is_right_too(before: list[str], after: list[str]) -> None:
    """What is matched line for line, since a search would take minutes, leads from the one body to the other."""
    bodies = [f"[{','.join(items)}]".encode() for items in (before, after)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(letter_text, "SEARCHED_LINES_MAX", 0)
        lines = difference(bodies[0], bodies[1]).splitlines()[2:]
    old, new = (readable(body).splitlines() for body in bodies)
    assert (lines == []) is (old == new)
    removed, added = Counter(old), Counter(new)
    removed.subtract(line[1:] for line in lines if line[0] == "-")
    added.subtract(line[1:] for line in lines if line[0] == "+")
    assert removed == added
    assert min([*removed.values(), *added.values(), 0]) == 0


def test_a_difference_of_a_whole_message() -> None:
    """Each of a thousand elements is renamed: a hunk for each, and no search for them."""
    elements = (b'{"k%d":1, "a":1, "b":2, "c":3, "d":4, "e":5, "f":6}' % number for number in range(1000))
    before = b"[" + b",".join(elements) + b"]"
    lines = difference(before, before.replace(b'"k', b'"renamed')).splitlines()
    assert sum(line.startswith("@@") for line in lines) == 1000
    assert sum(line.startswith("-  ") for line in lines) == 1000
