"""Rows of a CSV file to events: columns, constants, ids and times."""

import json
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from usage_events import UsageEvent

from worker.errors import ConfigurationError
from worker.publishing.csv_events import EventMaker, Made, Recipe
from worker.publishing.csv_fields import time_us, to_json, to_time
from worker.publishing.csv_rows import Row

TRACE = Recipe(
    {"created_at": "TIMESTAMP", "input_tokens": "ContextTokens", "output_tokens": "GeneratedTokens"},
    {"model": '"gpt-4o"'},
    id_source="tests",
)
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"


def row(text: str, line: int = 2) -> Row:
    """A row without quotes."""
    return Row(line, text.encode(), text.split(","), None)


def make(recipe: Recipe, header: str, *rows: str) -> list[Made]:
    """The events of a file."""
    maker = EventMaker(recipe, row(header, 1), "x.csv")
    return [maker.make(row(text, line)) for line, text in enumerate(rows, start=2)]


def event(made: Made) -> Any:
    """The event that a row gave."""
    assert made.problems == []
    return json.loads(made.text)


def ids(recipe: Recipe, *rows: str, header: str = HEADER) -> list[str]:
    """The ids of a file's rows."""
    return [event(made)["id"] for made in make(recipe, header, *rows)]


def test_a_row_becomes_an_event() -> None:
    """Mapped columns, constants, an id and a time in RFC 3339 with all of its digits."""
    (made,) = make(TRACE, HEADER, "2023-11-16 18:15:46.6805900,374,44")
    given = event(made)
    assert UUID(given.pop("id")).version == 5
    assert given == {
        "created_at": "2023-11-16T18:15:46.6805900Z", "input_tokens": 374, "output_tokens": 44, "model": "gpt-4o",
    }  # fmt: skip
    assert made.at_us == time_us("2023-11-16T18:15:46.680590Z")


def test_columns_named_as_fields_need_no_mapping() -> None:
    """A file in the contract's own names is sent as it is; an empty cell is an absent field."""
    header = "id,user_id,created_at,input_tokens,model,request_metadata,estimated_cost_usd"
    cells = '0198c0de-1111-7111-8111-111111111111,u,2026-01-31T12:00:00+01:00,7,,{"n":1.10},0.5'
    assert make(Recipe(), header, cells)[0].text == (
        b'{"id":"0198c0de-1111-7111-8111-111111111111","user_id":"u","input_tokens":7,"request_metadata":{"n":1.10},'
        b'"estimated_cost_usd":"0.5","created_at":"2026-01-31T12:00:00+01:00"}'
    )


def test_an_id_is_made_of_the_file_up_to_its_row() -> None:
    """The same file gives the same ids; a file that has grown keeps them; equal rows of a file are different events."""
    rows = ["2023-11-16 18:00:00,1,2"] * 3
    first = ids(TRACE, *rows)
    assert len(set(first)) == 3
    assert ids(TRACE, *rows) == first
    assert ids(TRACE, *rows, "2023-11-16 19:00:00,1,2")[:3] == first
    assert first[0] not in ids(TRACE, "2023-11-16 17:00:00,1,2", *rows)
    assert first[0] not in ids(replace(TRACE, id_source="another"), *rows)


def test_a_row_that_cannot_be_read_counts_for_the_ids_too() -> None:
    """Whether a bad row is refused does not change the ids of those behind it from run to run."""
    rows = ["2023-11-16 18:00:00,1", "2023-11-16 18:00:00,1,2"]
    maker = EventMaker(TRACE, row(HEADER, 1), "x.csv")
    assert maker.make(row(rows[0])).problems == ["has 2 cells, the header has 3"]
    assert event(maker.make(row(rows[1])))["id"] not in ids(TRACE, rows[1])


def test_ids_of_a_column() -> None:
    """`--id-from` makes the id that `UsageEvent.id_for` makes, of one column or of several; none may be empty."""
    recipe = replace(TRACE, id_columns=["call"])
    header = f"{HEADER},call"
    one, none = make(recipe, header, "2023-11-16 18:00:00,1,2,c-17", "2023-11-16 18:00:00,1,2,")
    assert event(one)["id"] == str(UsageEvent.id_for("tests", "c-17"))
    assert none.problems == ["id: column 'call' is empty, which --id-from makes it of"]
    both = replace(TRACE, id_columns=["call", "ContextTokens"])
    assert ids(both, "2023-11-16 18:00:00,1,2,c-17", header=header) == [str(UsageEvent.id_for("tests", "c-17\n1"))]


def test_all_that_is_wrong_with_a_row_is_told() -> None:
    """Each with its field and its text; what is missing is the rules' business."""
    recipe = replace(TRACE, columns={**TRACE.columns, "request_metadata": "more"})
    (made,) = make(recipe, f"{HEADER},more", "yesterday,1.0,x,{")
    assert made.problems[:2] == ["input_tokens: '1.0' is no whole number", "output_tokens: 'x' is no whole number"]
    assert made.problems[2].startswith("request_metadata: no JSON: ")
    assert made.problems[3].startswith("created_at: 'yesterday' is no time; write it as ")
    (without,) = make(TRACE, HEADER, ",1,2")
    assert (without.problems, without.at_us, "created_at" in json.loads(without.text)) == ([], None, False)


@pytest.mark.parametrize(
    ("header", "changes", "error"),
    [
        (
            "TIMESTAMP,Tokens", {},
            "x.csv has no column 'ContextTokens'; its columns are: TIMESTAMP, Tokens",
        ),
        (HEADER, {"id_columns": ["call"]}, f"x.csv has no column 'call'; its columns are: {HEADER.replace(',', ', ')}"),
        (f"{HEADER},TIMESTAMP", {}, "x.csv: two columns are named 'TIMESTAMP'; name each column once"),
        (
            f"{HEADER},end_point", {},
            (
                "x.csv: column 'end_point' is no field of an event; did you mean endpoint? "
                "Send it with --map endpoint=end_point, or leave it out with --ignore end_point"
            ),
        ),
    ],
)  # fmt: skip
def test_a_header_that_does_not_fit(header: str, changes: dict[str, Any], error: str) -> None:
    """It says what is there, and what to do; a column that is nearly a field is not left out unasked."""
    with pytest.raises(ConfigurationError) as raised:
        EventMaker(replace(TRACE, **changes), row(header, 1), "x.csv")
    assert str(raised.value) == error


def test_a_header_that_cannot_be_read() -> None:
    """Its fault is told with its place."""
    with pytest.raises(ConfigurationError, match=r"x\.csv:1: the header cannot be read: not UTF-8"):
        EventMaker(TRACE, Row(1, b"\xff", [], "not UTF-8"), "x.csv")


def test_a_column_may_be_left_out() -> None:
    """One that is like no field goes unasked, and is named; one that is asked to stay out is not."""
    header = f"{HEADER},note,end_point"
    maker = EventMaker(replace(TRACE, ignored=frozenset({"end_point"})), row(header, 1), "x.csv")
    assert maker.left_out == ["note"]
    assert set(event(maker.make(row("2023-11-16 18:00:00,1,2,a,b")))) == {
        "id", "created_at", "input_tokens", "output_tokens", "model",
    }  # fmt: skip


def test_times_are_moved_by_one_offset() -> None:
    """The spacing stays to the microsecond, digits past it are cut off, and the ids stay those of the file."""
    rows = ["2023-11-16 18:15:46.6805909,1,2", "2023-11-16 18:15:50+01:00,1,2"]
    moved = make(replace(TRACE, shift_us=86_400_000_001), HEADER, *rows)
    assert [event(one)["created_at"] for one in moved] == ["2023-11-17T18:15:46.680591Z", "2023-11-17T17:15:50.000001Z"]
    assert [event(one)["id"] for one in moved] == ids(TRACE, *rows)
    (beyond,) = make(replace(TRACE, shift_us=10**18), HEADER, rows[0])
    assert beyond.problems == ["created_at: the moved time lies outside of the years 1 to 9999"]


def test_a_time_without_an_offset_is_noticed() -> None:
    """So that the reader can be told that it was taken as UTC."""
    maker = EventMaker(TRACE, row(HEADER, 1), "x.csv")
    maker.make(row("2023-11-16 18:15:46Z,1,2"))
    assert not maker.times_without_offset
    maker.make(row("2023-11-16 18:15:46,1,2"))
    assert maker.times_without_offset


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z"),
        ("2026-01-31t12:00:00.1234567z", "2026-01-31T12:00:00.1234567Z"),
        ("2026-01-31 12:00", "2026-01-31T12:00:00Z"),
        ("2026-01-31 12:00:01 +0530", "2026-01-31T12:00:01+05:30"),
        ("2026-01-31 12:00:01-08", "2026-01-31T12:00:01-08:00"),
    ],
)
def test_times_as_files_have_them(text: str, time: str) -> None:
    """T, seconds and offset may be missing, or written otherwise."""
    assert to_time(text) == time


@pytest.mark.parametrize(
    "text",
    ["", "2026-01-31", "1700158546", "31.01.2026 12:00", "2026-13-31 12:00", "2026-01-31 24:00", "2026-01-31 12:00.5",
     "2026-01-31 12:00:60", "2026-01-31 12:00 CET", "2026-01-31 12:00\n"],
)  # fmt: skip
def test_what_is_no_time(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match="is no time; write it as 2026-01-31 12:00:00"):
        to_time(text)


def test_a_day_that_does_not_exist() -> None:
    """The calendar is asked, too."""
    (made,) = make(TRACE, HEADER, "2023-02-30 18:15:46,1,2")
    assert made.problems[0].startswith("created_at: no such time: day ")


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("input_tokens", "007", "7"), ("output_tokens", "-1", "-1"), ("tokens_used", "+3", "3"),
        ("model", 'a "b"\n\\', '"a \\"b\\"\\n\\\\"'), ("estimated_cost_usd", "1e-3", '"1e-3"'),
        ("request_metadata", '{"a": 1.10}', '{"a": 1.10}'), ("request_metadata", "[]", "[]"),
    ],
)  # fmt: skip
def test_values_of_cells(field: str, text: str, value: str) -> None:
    """Whole numbers become numbers, metadata stays as it is written, all else is text; the rules judge the result."""
    assert to_json(field, text) == value


@pytest.mark.parametrize("text", ["1,000", "1.0", "1e3", "٣", " 1", "", "1" * 5_000])
def test_what_is_no_number_of_tokens(text: str) -> None:
    """Only digits are."""
    with pytest.raises(ValueError, match="is no whole number"):
        to_json("input_tokens", text)


def test_a_long_cell_is_not_told_whole() -> None:
    """What is wrong is told with the beginning of what was given."""
    with pytest.raises(ValueError, match=f"^'{'x' * 60}…' is no whole number$"):
        to_json("input_tokens", "x" * 61)


def test_metadata_cannot_bring_other_fields() -> None:
    """A cell is one JSON value: what would end the object and begin another field is none."""
    with pytest.raises(ValueError, match="no JSON"):
        to_json("request_metadata", '{}, "input_tokens": 0')
