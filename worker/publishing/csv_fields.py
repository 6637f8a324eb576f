"""The text of a cell to the JSON of an event's field. Pure."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from usage_events.contract import TIME_PATTERN, WireEvent
from usage_events.rules import RuleError, epoch_us

FIELDS = tuple(WireEvent.__annotations__)
METADATA = "request_metadata"
CREATED_AT = "created_at"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN_CHARACTERS_MAX = 60
_DIGITS_MAX = 20  # more than any number of tokens has, and few enough to be read at once
_TOKENS = re.compile(rf"[+-]?[0-9]{{1,{_DIGITS_MAX}}}", re.ASCII)
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2})(:[0-9]{2})?(\.[0-9]+)? ?(Z|z|[+-][0-9]{2}(?::?[0-9]{2})?)?"
)
_RFC3339 = re.compile(TIME_PATTERN)


def to_json(field: str, text: str) -> str:
    """The value of a field of the event as JSON text.

    Raises:
        ValueError: the text is none; whether the value may be so is the rules' business.
    """
    conversion = _CONVERSIONS.get(field)
    return json.dumps(text, ensure_ascii=False) if conversion is None else conversion(text)


def to_time(text: str) -> str:
    """A time in RFC 3339, from one whose T, seconds or offset may be missing; without an offset it is UTC.

    Raises:
        ValueError: it is no time.
    """
    found = _TIME.fullmatch(text)
    if found is not None:
        day, clock, seconds, fraction, offset = found.groups("")
        digits = offset.lstrip("+-").replace(":", "").ljust(4, "0")
        zone = f"{offset[0]}{digits[:2]}:{digits[2:]}" if offset.strip("Zz") else "Z"
        time = f"{day}T{clock}{seconds or ':00'}{fraction if seconds else ''}{zone}"
        if _RFC3339.fullmatch(time) and (seconds or not fraction):
            return time
    raise ValueError(
        f"{_shown(text)} is no time; write it as 2026-01-31 12:00:00.5, with Z or +02:00 where it is not UTC"
    )


def has_offset(text: str) -> bool:
    """Whether a time says which zone it is in."""
    found = _TIME.fullmatch(text)
    return found is None or found[5] is not None


def time_us(rfc3339: str) -> int:
    """Microseconds since 1970.

    Raises:
        ValueError: there is no such day.
    """
    try:
        return epoch_us(rfc3339)
    except RuleError as error:
        raise ValueError(error.message) from error


def moment_us(moment: datetime) -> int:
    """The same of a moment."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def time_of(at_us: int) -> str:
    """RFC 3339 of microseconds since 1970.

    Raises:
        ValueError: the year is beyond 1 to 9999.
    """
    try:
        return (_EPOCH + timedelta(microseconds=at_us)).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    except OverflowError:
        raise ValueError("the moved time lies outside of the years 1 to 9999") from None


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARACTERS_MAX else f"{text[:_SHOWN_CHARACTERS_MAX]}…")


def _to_tokens(text: str) -> str:
    if not _TOKENS.fullmatch(text):
        raise ValueError(f"{_shown(text)} is no whole number")
    return str(int(text))


def _to_metadata(text: str) -> str:
    """As it stands: numbers keep each of their digits."""
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from error
    return text


_CONVERSIONS: dict[str, Callable[[str], str]] = {
    "input_tokens": _to_tokens,
    "output_tokens": _to_tokens,
    "tokens_used": _to_tokens,
    METADATA: _to_metadata,
    CREATED_AT: lambda text: json.dumps(to_time(text)),
}
