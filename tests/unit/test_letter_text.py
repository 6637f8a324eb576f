"""Bodies for a terminal: indented, as they are, or in hexadecimal digits, and never as commands to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.letter_text import HEX_BYTES_MAX, difference, one_line, printable, readable


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
