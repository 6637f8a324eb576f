"""COPY's binary format, decoded back by hand from what the manual says."""

import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from makers import event_of
from usage_events.contract import TOKENS_MAX, Event

from worker.postgres.copy_format import STAGE_COLUMNS, encode

SIGNATURE = b"PGCOPY\n\xff\r\n\x00"
SECONDS_1970_TO_2000 = 946_684_800

TOKENS = st.integers(0, TOKENS_MAX)
TEXT = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=50)
EVENTS = st.builds(
    Event,
    id=st.binary(min_size=16, max_size=16),
    user_id=st.binary(min_size=16, max_size=16),
    organization_id=st.binary(min_size=16, max_size=16),
    tokens_used=TOKENS,
    input_tokens=TOKENS,
    output_tokens=TOKENS,
    endpoint=TEXT,
    model=TEXT,
    request_type=TEXT,
    metadata_json=st.none() | st.binary(max_size=50),
    cost_micro_usd=st.none() | st.integers(0, 9_999_999_999),
    cost_given=st.booleans(),
    created_at_us=st.integers(-(2**61), 2**61),
)


def rows_of(data: bytes) -> list[list[bytes | None]]:
    """The fields of each row, as the manual lays them out."""
    assert data.startswith(SIGNATURE)
    flags, extension_bytes = struct.unpack_from(">ii", data, len(SIGNATURE))
    assert (flags, extension_bytes) == (0, 0)
    rows, position = [], len(SIGNATURE) + 8
    while (count := struct.unpack_from(">h", data, position)[0]) != -1:
        position += 2
        row: list[bytes | None] = []
        for _ in range(count):
            (length,) = struct.unpack_from(">i", data, position)
            position += 4
            row.append(None if length == -1 else data[position : position + length])
            position += max(0, length)
        rows.append(row)
    assert position + 2 == len(data), "something follows the trailer"
    return rows


def value_of(kind: str, raw: bytes | None) -> Any:
    """A field's value by its type."""
    if raw is None:
        return None
    if kind in ("integer", "bigint", "timestamptz"):
        assert len(raw) == (4 if kind == "integer" else 8)
        return int.from_bytes(raw, "big", signed=True)
    if kind == "boolean":
        return {b"\x00": False, b"\x01": True}[raw]
    if kind == "jsonb":
        assert raw[:1] == b"\x01", "version 1"
        return raw[1:]
    return raw.decode() if kind == "text" else raw


@given(st.lists(st.tuples(st.integers(0, 2**31 - 1), EVENTS), max_size=5))
def test_every_field_comes_back(numbered: list[tuple[int, Event]]) -> None:
    """Each event's fields stand under their column, in the bytes of that column's type."""
    rows = rows_of(encode(numbered))
    assert len(rows) == len(numbered)
    for row, (ordinal, event) in zip(rows, numbered, strict=True):
        assert len(row) == len(STAGE_COLUMNS)
        found = {name: value_of(kind, raw) for (name, kind), raw in zip(STAGE_COLUMNS, row, strict=True)}
        expected = event._asdict()
        expected["ordinal"] = ordinal
        expected["created_at"] = expected.pop("created_at_us") - SECONDS_1970_TO_2000 * 1_000_000
        expected["request_metadata"] = expected.pop("metadata_json")
        assert found == expected


def test_an_empty_copy() -> None:
    """No rows are the header and the trailer alone."""
    assert encode([]) == SIGNATURE + bytes(8) + b"\xff\xff"


def test_one_row_byte_by_byte() -> None:
    """A row written out by hand, so that encoder and decoder cannot be wrong in the same way."""
    event = event_of(3, endpoint="é", metadata_json=b"{}", cost_micro_usd=None, created_at_us=946_684_800_000_001)
    uuid, null = b"\x00\x00\x00\x10", b"\xff\xff\xff\xff"
    expected = [
        b"\x00\x0e",  # fourteen columns
        b"\x00\x00\x00\x04\x00\x00\x00\x07",  # ordinal
        *(uuid, event.id, uuid, event.user_id, uuid, event.organization_id),
        b"\x00\x00\x00\x04\x00\x00\x00\x03\x00\x00\x00\x04\x00\x00\x00\x03\x00\x00\x00\x04\x00\x00\x00\x00",  # tokens
        b"\x00\x00\x00\x01\x00",  # cost_given
        b"\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x01",  # a microsecond after 2000 began
        null,  # no cost
        b"\x00\x00\x00\x02\xc3\xa9",
        *(null, null),  # no model, no kind of request
        b"\x00\x00\x00\x03\x01{}",
    ]
    assert encode([(7, event)]) == SIGNATURE + bytes(8) + b"".join(expected) + b"\xff\xff"
