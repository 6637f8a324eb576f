"""Lines to the rows of a CSV file."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.ndjson import Line, LineSplitter
from worker.publishing.csv_rows import Row, RowReader

LIMIT = 1_000
CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)


def rows_of(data: bytes, delimiter: str = ",", piece_bytes: int = 10**6) -> list[Row]:
    """The rows of a file that comes in pieces."""
    splitter, reader = LineSplitter(LIMIT), RowReader(delimiter, LIMIT)
    rows: list[Row] = []
    for start in range(0, len(data), piece_bytes):
        rows += reader.feed(splitter.feed(data[start : start + piece_bytes]))
    rows += reader.feed(splitter.finish())
    return [*rows, *reader.finish()]


@given(
    st.lists(st.lists(CELL, min_size=2, max_size=4), max_size=6),
    st.sampled_from(",;\t"),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(1, 20),
)
def test_what_a_csv_library_writes_is_read_back(
    table: list[list[str]], delimiter: str, end: str, piece_bytes: int
) -> None:
    """Quotes, delimiters and line ends inside cells come out as they went in, however the file is cut."""
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(table)
    rows = rows_of(file.getvalue().encode(), delimiter, piece_bytes)
    assert [(row.cells, row.fault) for row in rows] == [(cells, None) for cells in table]


def test_rows_know_their_lines() -> None:
    """A row is named by the line that it begins at; blank lines count as lines and are no rows."""
    rows = rows_of(b'\xef\xbb\xbfa,b\r\n\r\n1,"x\ny"\n \n2,z')
    assert rows == [
        Row(1, b"a,b", ["a", "b"], None),
        Row(3, b'1,"x\ny"', ["1", "x\ny"], None),
        Row(6, b"2,z", ["2", "z"], None),
    ]


@pytest.mark.parametrize(
    ("data", "line", "fault"),
    [
        (b"a\n\xff,1\nb\n", 2, "not UTF-8: invalid start byte at byte 0 of the row"),
        (b'a\n"x"y,1\nb\n', 2, "not CSV: ',' expected after '\"'"),
        (b'a\nx,"1', 2, "a quote is not closed before the file ends"),
        (
            b'a\nx,"1\nb\n',
            2,
            "a quote is not closed before the file ends; 2 lines were taken for one row, and none of them is sent",
        ),
        (
            b"a\n" + b"x" * (LIMIT + 1) + b"\nb\n",
            2,
            "longer than 1,000 bytes, the limit of a row; is a quote not closed?",
        ),
    ],
)
def test_what_cannot_be_read_is_a_fault_of_its_row(data: bytes, line: int, fault: str) -> None:
    """A bad row says why; the rows before it are read, and those behind it where its end can be seen."""
    rows = rows_of(data)
    assert rows[0] == Row(1, b"a", ["a"], None)
    assert (rows[1].line, rows[1].cells, rows[1].fault) == (line, [], fault)
    assert [row.cells for row in rows[2:]] == ([] if "before the file ends" in fault else [["b"]])


def test_a_quote_that_is_never_closed_takes_no_more_than_the_limit() -> None:
    """Memory does not grow with the file: past the limit the row is given up, and reading goes on at the next line."""
    reader = RowReader(",", LIMIT)
    lines = [Line(1, b'"open'), *(Line(number, b"x" * 99) for number in range(2, 30))]
    rows = list(reader.feed(lines))
    assert rows[0].fault is not None
    assert (rows[0].line, len(rows[0].text) <= LIMIT + 100) == (1, True)
    assert all(row.fault is None for row in rows[1:])
    assert len(rows) > 10


def test_a_row_of_the_limit_is_read() -> None:
    """The limit itself is allowed."""
    assert rows_of(b"x" * LIMIT)[0].fault is None
