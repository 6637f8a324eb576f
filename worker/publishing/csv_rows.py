"""Lines of a CSV file to its rows. Pure; a cell in quotes may span lines."""

import csv
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from worker.ndjson import Line

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_QUOTE = b'"'


class Row(NamedTuple):
    """A row: the line that it begins at, its bytes without the line's end, its cells, and why they cannot be read."""

    line: int
    text: bytes
    cells: list[str]
    fault: str | None


class RowReader:
    """Puts lines together to rows. A row may have `row_bytes_max` bytes; blank lines between rows are no rows."""

    def __init__(self, delimiter: str, row_bytes_max: int) -> None:
        self._delimiter = delimiter
        self._row_bytes_max = row_bytes_max
        self._begins_at = 0
        self._lines: list[bytes] = []
        self._size_bytes = 0
        self._in_quotes = False

    def feed(self, lines: Iterable[Line]) -> Iterator[Row]:
        """The rows that end in these lines."""
        for number, text in lines:
            if not self._lines:
                self._begins_at = number
            self._lines.append(text.removeprefix(_BYTE_ORDER_MARK) if number == 1 else text)
            self._size_bytes += len(text) + 1
            self._in_quotes ^= text.count(_QUOTE) % 2 == 1
            if not self._in_quotes or self._size_bytes > self._row_bytes_max:
                yield from self._end()

    def finish(self) -> Iterator[Row]:
        """The last row, where the file ends inside quotes."""
        if self._lines:
            yield from self._end()

    def _end(self) -> Iterator[Row]:
        text = b"\n".join(self._lines).removesuffix(b"\r")
        is_too_long, is_open = self._size_bytes - 1 > self._row_bytes_max, self._in_quotes
        self._lines, self._size_bytes, self._in_quotes = [], 0, False
        if is_too_long:
            fault = f"longer than {self._row_bytes_max:,} bytes, the limit of a row; is a quote not closed?"
            yield Row(self._begins_at, text, [], fault)
        elif is_open:
            lines = text.count(b"\n") + 1
            more = f"; {lines:,} lines were taken for one row, and none of them is sent" if lines > 1 else ""
            yield Row(self._begins_at, text, [], f"a quote is not closed before the file ends{more}")
        elif text.strip():
            yield self._read(text)

    def _read(self, text: bytes) -> Row:
        try:
            cells = next(csv.reader([text.decode()], delimiter=self._delimiter, strict=True))
        except UnicodeDecodeError as error:
            return Row(self._begins_at, text, [], f"not UTF-8: {error.reason} at byte {error.start} of the row")
        except csv.Error as error:
            return Row(self._begins_at, text, [], f"not CSV: {error}")
        return Row(self._begins_at, text, cells, None)
