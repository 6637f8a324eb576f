"""Bodies and foreign texts as a terminal can show them. Pure.

Producers write these texts: control characters in them must not reach the terminal.
"""

import difflib
from collections.abc import Iterator, Sequence
from itertools import groupby

import msgspec
from usage_events.json_text import NotJsonError, depth

# What a reader is told of a letter whose body is not there.
BODY_GIVEN_UP = "its body was given up: the table was above USAGE_DEAD_LETTER_BYTES_MAX"
HEX_BYTES_MAX = 4096
SEARCHED_LINES_MAX = 2000
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
    matcher = _Matcher(readable(before).splitlines(), readable(after).splitlines())
    lines = list(_hunks(matcher))
    return "\n".join(["--- body", "+++ edited body", *lines] if lines else [])


class _Matcher(difflib.SequenceMatcher[str]):
    """Matches line for line what is too long to be searched: that takes the square of the lines, or worse.

    An edit of each of a thousand elements seldom changes how many lines there are.
    """

    def __init__(self, old: Sequence[str], new: Sequence[str]) -> None:
        super().__init__(None, old, new)
        self.lines = old, new

    def get_matching_blocks(self) -> list[difflib.Match]:
        """Where both texts are the same, in order; the last one is empty and stands at their ends."""
        old, new = self.lines
        if len(old) + len(new) <= SEARCHED_LINES_MAX:
            return super().get_matching_blocks()
        shorter = min(len(old), len(new))
        head = next((n for n in range(shorter) if old[n] != new[n]), shorter)
        tail = next((n for n in range(shorter - head) if old[-1 - n] != new[-1 - n]), shorter - head)
        blocks = [difflib.Match(0, 0, head)]
        if len(old) == len(new):
            middle = range(head, len(old) - tail)
            for is_same, places in groupby(middle, lambda place: old[place] == new[place]):
                run = list(places)
                if is_same:
                    blocks.append(difflib.Match(run[0], run[0], len(run)))
        return [*blocks, difflib.Match(len(old) - tail, len(new) - tail, tail), difflib.Match(len(old), len(new), 0)]


def _hunks(matcher: _Matcher) -> Iterator[str]:
    old, new = matcher.lines
    for group in matcher.get_grouped_opcodes():
        (_, old_start, _, new_start, _), (_, _, old_end, _, new_end) = group[0], group[-1]
        yield f"@@ -{_range(old_start, old_end)} +{_range(new_start, new_end)} @@"
        for verb, old_start, old_end, new_start, new_end in group:
            if verb == "equal":
                yield from (f" {line}" for line in old[old_start:old_end])
            else:
                yield from (f"-{line}" for line in old[old_start:old_end])
                yield from (f"+{line}" for line in new[new_start:new_end])


def _range(start: int, end: int) -> str:
    """Lines as a unified diff numbers them."""
    if end - start == 1:
        return str(start + 1)
    return f"{start + 1 if end > start else start},{end - start}"


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
