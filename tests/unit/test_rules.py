"""The rules that a schema cannot say, against other ways to say them: exact decimals, datetimes, plain arithmetic."""

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any, TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from usage_events.contract import METADATA_BYTES_MAX, METADATA_DEPTH_MAX, TOKENS_MAX, Reason
from usage_events.rules import (
    RuleError,
    TokenCounts,
    Window,
    check_storable,
    check_time,
    cost_micro_usd,
    epoch_us,
    settle_tokens,
    storable_metadata,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Result = TypeVar("Result")
EXACT = Context(prec=5000, rounding=ROUND_HALF_UP)


def exact_cost(value: Decimal) -> int | None:
    """The rule, said with as many digits as it takes: `None` where the cost is refused."""
    micro = int(value.scaleb(6, EXACT).to_integral_value(ROUND_HALF_UP, EXACT))
    return micro if 0 <= micro < 10_000_000_000 else None


def outcome(rule: Callable[[], Result]) -> Result | RuleError:
    """What a rule returns, or the error that it raises."""
    try:
        return rule()
    except RuleError as error:
        return error


def cost_or_none(given: float | str) -> int | None:
    """The cost as the rules have it, `None` where it is refused."""
    found = outcome(lambda: cost_micro_usd(given))
    if isinstance(found, int):
        return found
    assert (found.reason, found.field) == (Reason.INVALID, "estimated_cost_usd")
    return None


@settings(max_examples=2000)
@given(
    st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(0, 10_001)
    | st.floats(-1e-5, 1e-5)
    | st.integers(0, 10_000_500_000).map(lambda half_micro: half_micro / 2e6)
)
@example(1.0000005)
@example(9_999.9999995)
@example(math.nextafter(9_999.9999995, 0))
@example(9_998.9999995)
@example(-0.0)
@example(5e-324)
def test_cost_of_a_number_is_that_of_its_shortest_decimal(given: float) -> None:
    """Every double costs what its shortest decimal costs, rounded half away from zero."""
    assert cost_or_none(given) == exact_cost(Decimal(repr(given)))


@pytest.mark.parametrize("given", [math.nan, math.inf, -math.inf, 1e25, -1e25, 1.7e308])
def test_cost_without_end_is_refused(given: float) -> None:
    """What is not finite, or far too much, is refused and raises nothing else."""
    assert cost_or_none(given) is None


@settings(max_examples=400)
@given(
    st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", fullmatch=True).filter(str.isascii)
)
@example("9999.9999994" + "9" * 2000)
@example("0.0000005")
@example("0.0000004" + "9" * 2000)
@example("-0.0000004")
@example("-0.0000005")
@example("0e999")
def test_cost_of_a_text_is_exact(given: str) -> None:
    """Every text in JSON's grammar costs what it says, to the last digit."""
    assert cost_or_none(given) == exact_cost(Decimal(given))


@pytest.mark.parametrize(
    ("given", "micro_usd"),
    [
        ("1e9999999", None), ("1e99999999999999999999", None), ("-1e99999999999999999999", None),
        ("1e-99999999999999999999", 0), ("-1e-99999999999999999999", 0), ("0e99999999999999999999", 0),
        ("-0.0e99999999999999999999", 0), ("1e+00000000000000000002", 100_000_000), ("1e-00000000000000000002", 10_000),
        ("0." + "0" * 5000 + "1e5001", 1_000_000), ("1" + "0" * 5000 + "e-5000", 1_000_000),
    ],
)  # fmt: skip
def test_cost_with_an_exponent_beyond_decimals(given: str, micro_usd: int | None) -> None:
    """An exponent of any length has an answer, though `Decimal` has none."""
    assert cost_or_none(given) == micro_usd


OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TIMES = st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29), timezones=OFFSETS)  # noqa: DTZ001 - hypothesis adds the zone


@given(TIMES, st.text("0123456789", max_size=12), st.sampled_from("tT"))
def test_time_is_that_of_datetime_to_the_microsecond(moment: datetime, digits: str, separator: str) -> None:
    """A time in any offset is exact to the microsecond, whatever its year and whatever follows the sixth digit."""
    text = moment.isoformat(separator, timespec="microseconds")
    text = text[:26] + digits + text[26:]
    assert epoch_us(text) == (moment - EPOCH) // timedelta(microseconds=1)


@given(TIMES, st.text("0123456789", min_size=1, max_size=5))
def test_short_fraction_is_filled_with_zeros(moment: datetime, digits: str) -> None:
    """A fraction of one digit is tenths of a second."""
    whole = moment.replace(microsecond=0)
    text = whole.isoformat()
    expected = (whole - EPOCH) // timedelta(seconds=1) * 1_000_000 + int(digits.ljust(6, "0"))
    assert epoch_us(f"{text[:19]}.{digits}{text[19:]}") == expected


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01T00:00:00Z", 0), ("1970-01-01t00:00:00.000001z", 1), ("1969-12-31T23:59:59.999999-00:00", -1),
        ("2026-01-31T12:00:00.123456999+05:30", 1_769_841_000_123_456),
    ],
)  # fmt: skip
def test_time_by_hand(text: str, micros: int) -> None:
    """A few times, computed by hand."""
    assert epoch_us(text) == micros


def test_year_0000_is_long_past() -> None:
    """RFC 3339's first year is none of `datetime`'s; it is a leap year, and older than all that is accepted."""
    assert epoch_us("0000-02-29T00:00:00Z") < epoch_us("1970-01-01T00:00:00Z")


@pytest.mark.parametrize(
    "text", ["2026-02-30T00:00:00Z", "2025-02-29T00:00:00Z", "2026-04-31T00:00:00Z", "0000-02-30T00:00:00Z"]
)
def test_day_that_no_month_has_is_invalid(text: str) -> None:
    """The pattern takes 31 days in every month; the calendar does not."""
    with pytest.raises(RuleError, match="no such time") as error:
        epoch_us(text)
    assert (error.value.reason, error.value.field) == (Reason.INVALID, "created_at")


@given(st.integers(0, 2**52), st.integers(0, 10**7), st.integers(1, 10**7))
def test_window_ends_are_inside_to_the_microsecond(now_us: int, ahead: int, age: int) -> None:
    """The last microsecond of the window is accepted, the next is not; so at both ends."""
    window = Window.around(now_us, max_age_seconds=age, max_ahead_seconds=ahead)
    for inside in (now_us - age * 1_000_000, now_us, now_us + ahead * 1_000_000):
        check_time(inside, window)
    with pytest.raises(RuleError, match=r"^0\.000001 s later") as error:
        check_time(now_us + ahead * 1_000_000 + 1, window)
    assert (error.value.reason, error.value.field) == (Reason.IN_FUTURE, "created_at")
    with pytest.raises(RuleError, match=r"^0\.000001 s older") as error:
        check_time(now_us - age * 1_000_000 - 1, window)
    assert (error.value.reason, error.value.field) == (Reason.TOO_OLD, "created_at")


TOKENS = st.none() | st.integers(0, 5) | st.integers(TOKENS_MAX - 3, TOKENS_MAX)


@settings(max_examples=500)
@given(TOKENS, TOKENS, TOKENS)
def test_tokens_settle_to_the_only_counts_that_fit(given: int | None, produced: int | None, total: int | None) -> None:
    """What is given is kept and the rest follows; where nothing fits, the reason says whether it is a mismatch."""
    counts = outcome(lambda: settle_tokens(given, produced, total))
    if isinstance(counts, RuleError):
        assert counts.field == "tokens_used"
        both = given is not None and produced is not None
        nothing = (given, produced, total) == (None, None, None)
        too_many = both and (given or 0) + (produced or 0) > TOKENS_MAX
        assert (counts.reason is Reason.INVALID) == (nothing or too_many)
        if counts.reason is not Reason.INVALID:
            assert counts.reason is Reason.TOKEN_MISMATCH
            assert total is not None
            assert (given or 0) + (produced or 0) != total if both else max(given or 0, produced or 0) > total
        return
    assert given in {None, counts.input}
    assert produced in {None, counts.output}
    assert total in {None, counts.used}
    if counts.parts_known:
        assert counts.used == counts.input + counts.output <= TOKENS_MAX
    else:
        assert (given, produced, counts) == (None, None, TokenCounts(counts.used, 0, 0, parts_known=False))


def metadata_of(text: str) -> bytes | str:
    """What is stored for a text of metadata, or what is wrong with it."""
    value: Any = json.loads(text, parse_float=float)
    found = outcome(lambda: storable_metadata(value, text.encode("utf-8", "surrogatepass")))
    if isinstance(found, bytes):
        return found
    assert (found.reason, found.field) == (Reason.INVALID, "request_metadata")
    return found.message


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
METADATA = st.dictionaries(
    st.text(max_size=4),
    st.recursive(
        SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_size=4,
)


def depth_of(value: Any) -> int:
    """How many containers lie around the innermost value."""
    if not isinstance(value, list | dict):
        return 0
    return 1 + max(map(depth_of, value.values() if isinstance(value, dict) else value), default=0)


@settings(max_examples=200)
@given(METADATA, st.booleans())
def test_stored_metadata_is_the_same_value(metadata: dict[str, Any], ensure_ascii: bool) -> None:  # noqa: FBT001 - drawn
    """What is stored reads as the value that was sent, whichever way it was written; else it is one of the limits."""
    text = json.dumps(metadata, ensure_ascii=ensure_ascii)
    stored = metadata_of(text)
    if isinstance(stored, bytes):
        assert json.loads(stored) == metadata
        assert depth_of(metadata) <= METADATA_DEPTH_MAX
    else:
        assert depth_of(metadata) > METADATA_DEPTH_MAX or "\\u0000" in json.dumps(metadata)


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ('{ "a" : 1.50 }', b'{ "a" : 1.50 }'),
        ('{"a":1,"a":2}', b'{"a":1,"a":2}'),
        ('{"a":"\\u00e9"}', '{"a":"é"}'.encode()),
        ('{"a":"\\u0000","a":2}', b'{"a":2}'),
        ('{"a":1e131071,"a":2}', b'{"a":2}'),
        ('{"a":1E3}', b'{"a":1000.0}'),
        ('{"a":"1e3, 2e5"}', b'{"a":"1e3, 2e5"}'),
        (f'{{"a":{10**308}}}', f'{{"a":{10**308}}}'.encode()),
        (f'{{"a":{2**1024 - 2**970 - 1}}}', f'{{"a":{2**1024 - 2**970 - 1}}}'.encode()),
        (f'{{"a":{2**1024 - 2**970}}}', "holds a number that is not finite as an IEEE double"),
        (f'{{"a":[{-(2**1024 - 2**970)}]}}', "holds a number that is not finite as an IEEE double"),
        ('{"a":{"b":1e999}}', "holds a number that is not finite as an IEEE double"),
        ('{"a":["\\u0000"]}', "holds a NUL character, which the database cannot store"),
        ('{"a":{"\\u0000":1}}', "holds a NUL character, which the database cannot store"),
        ('{"\\udc00":1}', "holds a lone surrogate, which is no text"),
        ('{"a":' * 8 + "1" + "}" * 8, ('{"a":' * 8 + "1" + "}" * 8).encode()),
        ('{"a":' * 9 + "1" + "}" * 9, "is nested deeper than 8 levels"),
        ('{"a":' + "[" * 8 + "]" * 8 + "}", "is nested deeper than 8 levels"),
    ],
)
def test_metadata_is_stored_as_sent_where_that_is_safe(text: str, stored: bytes | str) -> None:
    """The text stays as it was sent, unless an escape or an exponent may hide what the database cannot hold."""
    assert metadata_of(text) == stored


@pytest.mark.parametrize("character", ["x", "é", "🦉"])
def test_metadata_is_measured_in_bytes_as_sent(character: str) -> None:
    """16 KiB of UTF-8 are taken, one byte more is not."""
    width = len(character.encode())
    times, rest = divmod(METADATA_BYTES_MAX - len('{"a":""}'), width)
    longest = '{"a":"' + "y" * rest + character * times + '"}'
    assert metadata_of(longest) == longest.encode()
    assert metadata_of(longest.replace(":", ": ")) == "is 16385 bytes long as sent; the limit is 16384"


@given(st.text(st.characters(), max_size=8))
def test_text_is_storable_unless_it_has_nul_or_half_a_pair(text: str) -> None:
    """NUL and lone surrogates are what the database cannot hold; every other character it can."""
    wrong = any(character == "\x00" or 0xD800 <= ord(character) < 0xE000 for character in text)
    found = outcome(lambda: check_storable(text, "model"))
    if isinstance(found, RuleError):
        assert wrong
        assert (found.reason, found.field) == (Reason.INVALID, "model")
    else:
        assert not wrong
