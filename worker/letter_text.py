"""Bodies and foreign texts as a terminal can show them. Pure.

Producers write these texts: control characters in them must not reach the terminal.
"""

import difflib
from collections.abc import Iterator

import msgspec
from usage_events.json_text import NotJsonError, depth

HEX_BYTES_MAX = 4096
_HEX_WIDTH = 16
_DEPTH_MAX = 32  # indentation grows with the square of it
_ASCII_PRINTABLE = range(0x20, 0x7F)


def printable(text: str) -> str:
    """The text with every character escaped that a terminal would obey instead of show."""
    return "".join(char if char.isprintable() or char in "\n\t" else _escaped(char) for char in text)


def one_line(text: str) -> str:
    """The same in one line."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def readable(body: bytes) -> str:
    """A body for a reader: indented where it is JSON, as it is where it is text, else in hexadecimal digits."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return "\n".join(_hex_lines(body))
    if any(char < " " and char not in "\t\r\n" for char in text):
        return "\n".join(_hex_lines(body))
    return printable(_indented(body) or text.replace("\r\n", "\n"))


def difference(before: bytes, after: bytes) -> str:
    """What an edit has changed, as a unified diff of both bodies as they are read."""
    lines = difflib.unified_diff(
        readable(before).splitlines(), readable(after).splitlines(), "body", "edited body", lineterm=""
    )
    return "\n".join(lines)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def _indented(body: bytes) -> str | None:
    """JSON with its lines indented, each number and text as it was written."""
    try:
        if depth(body) > _DEPTH_MAX:
            return None
        return msgspec.json.format(body, indent=2).decode()
    except (NotJsonError, msgspec.DecodeError):
        return None


def _hex_lines(body: bytes) -> Iterator[str]:
    for start in range(0, min(len(body), HEX_BYTES_MAX), _HEX_WIDTH):
        piece = body[start : start + _HEX_WIDTH]
        shown = "".join(chr(byte) if byte in _ASCII_PRINTABLE else "." for byte in piece)
        yield f"{start:08x}  {piece.hex(' '):<{3 * _HEX_WIDTH}} {shown}"
    if len(body) > HEX_BYTES_MAX:
        yield f"… and {len(body) - HEX_BYTES_MAX:,} bytes more: `export` writes all of them"
