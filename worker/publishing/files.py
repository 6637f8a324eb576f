"""Files to events, piece by piece: one JSON object a line, or the rows of a CSV file."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import NamedTuple

from usage_events.envelope import MESSAGE_BYTES_MAX

from worker.errors import ConfigurationError
from worker.ndjson import STANDARD_INPUT, Line, read_chunks
from worker.publishing.csv_events import EventMaker, Recipe
from worker.publishing.csv_rows import Row, RowReader

_BLANKS = b" \t\r\n"


class Candidate(NamedTuple):
    """What may become an event: its line, its JSON, what is known to be wrong, its time in microseconds since 1970."""

    line: int
    text: bytes
    problems: Sequence[str] = ()
    at_us: int | None = None


class Piece(NamedTuple):
    """The candidates that ended in one piece of a file, and how long the piece was."""

    candidates: list[Candidate]
    size_bytes: int


Reader = Callable[[str], AsyncGenerator[Piece, None]]


def name_of(path: str) -> str:
    """What a file is called in messages."""
    return "<stdin>" if path == STANDARD_INPUT else path


async def read_ndjson(path: str) -> AsyncGenerator[Piece, None]:
    """The lines of a file that are not blank."""
    async with aclosing(read_chunks(path, MESSAGE_BYTES_MAX)) as chunks:
        async for lines, size_bytes in chunks:
            candidates = [_candidate(line) for line in lines if line.text.strip(_BLANKS)]
            yield Piece(candidates, size_bytes)


def _candidate(line: Line) -> Candidate:
    if len(line.text) > MESSAGE_BYTES_MAX:
        return Candidate(line.number, b"", [f"longer than {MESSAGE_BYTES_MAX:,} bytes, the limit of a message"])
    return Candidate(line.number, line.text.strip(_BLANKS))


class CsvFiles:
    """Reads CSV files by a recipe; what a reader of the output should know is told to `say`, once a file."""

    def __init__(self, recipe: Recipe, delimiter: str, *, needs_times: bool, say: Callable[[str], None]) -> None:
        """With `needs_times` each row must have a time of its own."""
        self._recipe = recipe
        self._delimiter = delimiter
        self._needs_times = needs_times
        self._say = say

    async def shift_to(self, newest_us: int, paths: Sequence[str]) -> int:
        """Move all times by one offset, so that the newest in these files becomes `newest_us`; the offset.

        Raises:
            ConfigurationError: a file does not fit, or cannot be read twice, or none has a time.
        """
        found: int | None = None
        for path in paths:
            if path == STANDARD_INPUT:
                raise ConfigurationError("standard input cannot be read twice, as moving its times needs: give a file")
            async with aclosing(self._rows(path)) as pieces:
                maker: EventMaker | None = None
                async for rows, _ in pieces:
                    for row in rows:
                        if maker is None:
                            maker = self._make_maker(row, path)
                            continue
                        at_us = maker.time_us(row)
                        if at_us is not None and (found is None or at_us > found):
                            found = at_us
        if found is None:
            raise ConfigurationError(f"no row of {', '.join(paths)} has a time that can be read: nothing to move")
        self._recipe = replace(self._recipe, shift_us=newest_us - found)
        return self._recipe.shift_us

    async def read(self, path: str) -> AsyncGenerator[Piece, None]:
        """The events of a file, in its order.

        Raises:
            ConfigurationError: its header does not fit.
        """
        maker: EventMaker | None = None
        async with aclosing(self._rows(path)) as pieces:
            async for rows, size_bytes in pieces:
                if maker is None and rows:
                    maker = self._make_maker(rows.pop(0), path)
                    self._tell_left_out(maker, path)
                yield Piece([_made(maker, row) for row in rows if maker is not None], size_bytes)
        if maker is None:
            raise ConfigurationError(f"{name_of(path)} is empty: its first line must name the columns")
        if maker.times_without_offset:
            self._say(f"{name_of(path)}: times without an offset were taken as UTC")

    async def _rows(self, path: str) -> AsyncGenerator[tuple[list[Row], int], None]:
        reader = RowReader(self._delimiter, MESSAGE_BYTES_MAX)
        async with aclosing(read_chunks(path, MESSAGE_BYTES_MAX)) as chunks:
            async for lines, size_bytes in chunks:
                yield list(reader.feed(lines)), size_bytes
        yield list(reader.finish()), 0

    def _make_maker(self, header: Row, path: str) -> EventMaker:
        maker = EventMaker(self._recipe, header, name_of(path))
        if self._needs_times and not maker.has_times:
            raise ConfigurationError(
                f"{name_of(path)}: the times that are to be kept or moved are in no column; "
                f"name it with --map created_at=COLUMN; the columns are: {', '.join(header.cells)}"
            )
        return maker

    def _tell_left_out(self, maker: EventMaker, path: str) -> None:
        if maker.left_out:
            columns = ", ".join(maker.left_out)
            self._say(f"{name_of(path)}: not sent, as no field is mapped to them: {columns}")


def _made(maker: EventMaker, row: Row) -> Candidate:
    made = maker.make(row)
    return Candidate(row.line, made.text, made.problems, made.at_us)
