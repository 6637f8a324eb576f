"""Rows of a CSV file to events: which column is which field, the ids, the times. Pure."""

import difflib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from usage_events.ids import event_id_for

from worker.errors import ConfigurationError
from worker.publishing.csv_fields import CREATED_AT, FIELDS, has_offset, time_of, time_us, to_json, to_time
from worker.publishing.csv_rows import Row


@dataclass(frozen=True, slots=True)
class Recipe:
    """How events are made of rows.

    Args:
        columns: the column of a field; a column that has a field's name need not be here.
        constants: the value of a field, the same for all rows, as JSON text.
        ignored: columns that are left out knowingly.
        id_columns: the columns whose cells together name an event; without any, what the file holds up to the row does.
        id_source: whose names these are: the same name of two sources is two events.
        shift_us: what is added to each time, in microseconds.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    id_columns: Sequence[str] = ()
    id_source: str = ""
    shift_us: int = 0


class Made(NamedTuple):
    """What a row gave: an event as JSON, what is wrong with it, and its time in microseconds since 1970."""

    text: bytes
    problems: list[str]
    at_us: int | None


class EventMaker:
    """Makes the events of one file.

    `left_out` are the columns that are nothing of an event. `times_without_offset` says whether one was seen.

    Raises:
        ConfigurationError: the header does not fit what was asked for.
    """

    def __init__(self, recipe: Recipe, header: Row, name: str) -> None:
        self._recipe = recipe
        self._name = name
        if header.fault is not None:
            raise ConfigurationError(f"{name}:{header.line}: the header cannot be read: {header.fault}")
        self._columns = header.cells
        self._check_columns()
        self._places = {one: self._place(column) for one, column in self._field_columns().items()}
        self._id_places = [self._place(column) for column in recipe.id_columns]
        self.left_out = self._find_left_out()
        self.times_without_offset = False
        self._read = hashlib.sha256(header.text + b"\n")

    @property
    def has_times(self) -> bool:
        """Whether each row has a time of its own."""
        return CREATED_AT in self._places

    def make(self, row: Row) -> Made:
        """The event of a row; rows must come in the file's order."""
        self._read.update(row.text + b"\n")
        if row.fault is not None:
            return Made(b"", [row.fault], None)
        if len(row.cells) != len(self._columns):
            return Made(b"", [f"has {len(row.cells)} cells, the header has {len(self._columns)}"], None)
        problems: list[str] = []
        fields: dict[str, str] = dict(self._recipe.constants)
        for one, place in self._places.items():
            cell = row.cells[place]
            if not cell or one == CREATED_AT:
                continue  # an empty cell is an absent field
            try:
                fields[one] = to_json(one, cell)
            except ValueError as error:
                problems.append(f"{one}: {error}")
        at_us = self._add_time(row, fields, problems)
        self._add_id(row, fields, problems)
        text = ",".join(f'"{one}":{value}' for one, value in fields.items())
        return Made(f"{{{text}}}".encode(), problems, at_us)

    def time_us(self, row: Row) -> int | None:
        """The time of a row before it is moved; `None` where it has none that can be read."""
        place = self._places[CREATED_AT]
        if row.fault is not None or len(row.cells) != len(self._columns):
            return None
        try:
            return time_us(to_time(row.cells[place]))
        except ValueError:
            return None  # the row is refused, with this reason, when its turn comes

    def _add_time(self, row: Row, fields: dict[str, str], problems: list[str]) -> int | None:
        if not self.has_times:
            return None
        cell = row.cells[self._places[CREATED_AT]]
        if not cell:
            return None
        try:
            given = to_time(cell)
            at_us = time_us(given) + self._recipe.shift_us
            fields[CREATED_AT] = f'"{time_of(at_us) if self._recipe.shift_us else given}"'
        except ValueError as error:
            problems.append(f"{CREATED_AT}: {error}")
            return None
        self.times_without_offset |= not has_offset(cell)
        return at_us

    def _add_id(self, row: Row, fields: dict[str, str], problems: list[str]) -> None:
        if "id" in self._places:
            return
        names = [row.cells[place] for place in self._id_places]
        if not all(names):
            empty = [column for column, name in zip(self._recipe.id_columns, names, strict=True) if not name]
            problems.append(f"id: column {empty[0]!r} is empty, which --id-from makes it of")
        fields["id"] = f'"{self._id_of(names)}"'

    def _id_of(self, names: list[str]) -> UUID:
        """From the row's names; else from all that the file holds up to this row.

        So a file that has grown keeps the ids of its old rows, and equal rows of one file are different events.
        """
        return event_id_for(self._recipe.id_source, "\n".join(names) if names else self._read.copy().hexdigest())

    # The header.

    def _check_columns(self) -> None:
        twice = [column for column in self._columns if self._columns.count(column) > 1]
        if twice:
            raise ConfigurationError(f"{self._name}: two columns are named {twice[0]!r}; name each column once")

    def _field_columns(self) -> Mapping[str, str]:
        given = self._recipe.columns
        taken = {*given, *self._recipe.constants}
        by_name = {
            column: column
            for column in self._columns
            if column in FIELDS
            and column not in taken
            and column not in self._recipe.ignored
            and column not in given.values()
            and not (column == "id" and self._recipe.id_columns)
        }
        return {**given, **by_name}

    def _place(self, column: str) -> int:
        if column not in self._columns:
            names = ", ".join(self._columns)
            raise ConfigurationError(f"{self._name} has no column {column!r}; its columns are: {names}")
        return self._columns.index(column)

    def _find_left_out(self) -> list[str]:
        used = {self._columns[place] for place in (*self._places.values(), *self._id_places)}
        left_out = [column for column in self._columns if column not in used and column not in self._recipe.ignored]
        for column, near in _suspects(left_out):
            raise ConfigurationError(
                f"{self._name}: column {column!r} is no field of an event; did you mean {near}? "
                f"Send it with --map {near}={column}, or leave it out with --ignore {column}"
            )
        return left_out


def _suspects(columns: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Columns that are nearly named as a field is: a misspelt one must not become a free call."""
    for column in columns:
        near = difflib.get_close_matches(column.lower(), FIELDS, n=1, cutoff=0.8)
        if near:
            yield column, near[0]
