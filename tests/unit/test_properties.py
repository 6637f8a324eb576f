"""Properties read from their bytes: what the library reads, and no error for anything that a producer can set."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp.commands import Basic

from worker.rabbitmq.properties import DELIVERY_COUNT_HEADER, RawProperties

SHORT = st.none() | st.text(max_size=40).filter(lambda text: len(text.encode()) <= 255)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.text(max_size=20)
    | st.binary(max_size=20).map(bytearray),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=10), values, max_size=3),
    max_leaves=10,
)
PROPERTIES = st.fixed_dictionaries(
    {
        "content_type": SHORT,
        "content_encoding": SHORT,
        "headers": st.none() | st.dictionaries(st.text(max_size=10), VALUES, max_size=4),
        "delivery_mode": st.sampled_from([None, 1, 2]),
        "priority": st.none() | st.integers(0, 255),
        "correlation_id": SHORT,
        "reply_to": SHORT,
        "expiration": SHORT,
        "message_id": SHORT,
        "timestamp": st.none() | st.just(datetime(2026, 1, 2, tzinfo=UTC)),
        "message_type": SHORT,
        "user_id": SHORT,
        "app_id": SHORT,
    }
)


def raw_of(**properties: Any) -> bytes:
    """The bytes of properties."""
    return bytes(Basic.Properties(**properties).marshal())


@given(PROPERTIES)
def test_the_same_as_the_library_reads(properties: dict[str, Any]) -> None:
    """Every property that matters is what the library makes of the same bytes, whichever others stand between."""
    raw = raw_of(**properties)
    library = Basic.Properties()
    flags, consumed = int.from_bytes(raw[:2], "big"), raw[2:]
    library.unmarshal(flags, consumed)
    ours = RawProperties(raw)
    assert (ours.content_type, ours.content_encoding) == (library.content_type, library.content_encoding)
    assert (ours.app_id, ours.user_id) == (library.app_id, library.user_id)
    assert ours.headers == (library.headers or {})


def test_none_at_all() -> None:
    """A message without properties has none, and an empty table of headers."""
    ours = RawProperties(raw_of())
    assert (ours.content_type, ours.content_encoding, ours.app_id, ours.user_id) == (None, None, None, None)
    assert (ours.headers, ours.delivery_count) == ({}, 0)


@given(st.binary(min_size=1, max_size=200), st.binary(max_size=200))
def test_texts_that_are_no_utf8_raise_nothing(content_type: bytes, app_id: bytes) -> None:
    """The broker lets any bytes through as a short text: they come with escapes, and sound ones as they are."""
    raw = b"\x80\x08" + bytes([len(content_type)]) + content_type + bytes([len(app_id)]) + app_id
    ours = RawProperties(raw)
    assert ours.content_type == content_type.decode("utf-8", "backslashreplace")
    assert ours.app_id == app_id.decode("utf-8", "backslashreplace")


@given(st.binary(max_size=100))
def test_a_table_that_cannot_be_read_raises_nothing(table: bytes) -> None:
    """Whatever stands in the headers, they come as something, and what stands behind them is read as usual."""
    raw = b"\x20\x08" + len(table).to_bytes(4, "big") + table + b"\x03app"
    ours = RawProperties(raw)
    assert isinstance(ours.headers, dict)
    assert isinstance(ours.delivery_count, int)
    assert (ours.app_id, ours.user_id) == ("app", None)


def test_an_unreadable_table_is_kept_as_its_bytes() -> None:
    """An operator can still see what was sent."""
    assert RawProperties(b"\x20\x00\x00\x00\x00\x03\x01a\x01").headers == {"unreadable": "016101"}


@pytest.mark.parametrize(
    ("headers", "count"),
    [
        ({DELIVERY_COUNT_HEADER: 3}, 3),
        ({DELIVERY_COUNT_HEADER: 2**40}, 2**40),
        ({DELIVERY_COUNT_HEADER: "3"}, 0),
        ({"other": 3}, 0),
        (None, 0),
    ],
)
def test_delivery_count(headers: dict[str, Any] | None, count: int) -> None:
    """A quorum queue's count is an integer; what else stands there counts nothing."""
    assert RawProperties(raw_of(headers=headers)).delivery_count == count
