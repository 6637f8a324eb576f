"""The rules that a schema cannot say: tokens that add up, exact costs, times, metadata that a database can hold.

Pure functions. Each raises `RuleError` with what is wrong; time is passed in.
"""

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any, NamedTuple

from pydantic_core import to_json

from usage_events.contract import (
    COST_MICRO_USD_LIMIT,
    INPUT_TOKEN_MICRO_USD,
    METADATA_BYTES_MAX,
    METADATA_DEPTH_MAX,
    OUTPUT_TOKEN_MICRO_USD,
    TOKENS_MAX,
    Event,
    Reason,
    WireEvent,
)

_MICRO = 1_000_000
_DAY_SECONDS = 86_400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EXPONENT_DIGITS_MAX = 7  # 10 million: more than the digits that fit in a message
_QUANTUM = Decimal("0.000001")
_CONTEXT = Context(prec=28, rounding=ROUND_HALF_UP)
_DOUBLE_LIMIT = 2**1024 - 2**970  # the smallest integer that a double rounds to infinity
_SHORT_BYTES_MAX = 300  # 308 digits are the least that may be no finite double
# JSON without a backslash, and outside of strings without an `e` but that of `true` and `false`.
_is_plain = re.compile(rb'(?:"[^"\\]*+"|[^"\\eEtf]++|true|false)*+').fullmatch
# A number with an exponent, outside of strings (inside one it may match too, which costs a closer look).
_EXPONENT = re.compile(rb"[:,\[][ \t\r\n]*-?[0-9.]+[eE]")


class RuleError(ValueError):
    """A rule is broken: for which reason, in which field, and what is wrong."""

    def __init__(self, reason: Reason, field: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.field = field
        self.message = message


class Window(NamedTuple):
    """The times that are accepted, both ends included, in microseconds since 1970."""

    earliest_us: int
    latest_us: int

    @classmethod
    def around(cls, now_us: int, *, max_age_seconds: int, max_ahead_seconds: int) -> "Window":
        """The window around a moment."""
        return cls(now_us - max_age_seconds * _MICRO, now_us + max_ahead_seconds * _MICRO)


class TokenCounts(NamedTuple):
    """Tokens as they are stored, and whether the parts are known (else only the total is)."""

    used: int
    input: int
    output: int
    parts_known: bool


def accept(wire: WireEvent, metadata_text: bytes, window: Window) -> Event:
    """The event as it is stored, from fields that the schema has passed.

    `metadata_text` is the text of `request_metadata` as it was sent; empty where there is none.

    Raises:
        RuleError: the first rule that is broken; `judge.py` lists all of them.
    """
    get: Callable[[str], Any] = wire.get  # the schema has seen to the types
    used, input_, output, parts_known = settle_tokens(get("input_tokens"), get("output_tokens"), get("tokens_used"))
    metadata = get("request_metadata")
    metadata_json = None if metadata is None else storable_metadata(metadata, metadata_text)
    given = get("estimated_cost_usd")
    if given is not None:
        cost: int | None = cost_micro_usd(given)
    elif parts_known:
        cost = input_ * INPUT_TOKEN_MICRO_USD + output * OUTPUT_TOKEN_MICRO_USD
    else:
        cost = None
    created_at_us = epoch_us(wire["created_at"])
    check_time(created_at_us, window)
    ids = bytes.fromhex((wire["id"] + wire["user_id"] + wire["organization_id"]).replace("-", ""))
    return Event(
        ids[:16], ids[16:32], ids[32:], used, input_, output, get("endpoint"), get("model"), get("request_type"),
        metadata_json, cost, given is not None, created_at_us,
    )  # fmt: skip


def settle_tokens(input_tokens: int | None, output_tokens: int | None, tokens_used: int | None) -> TokenCounts:
    """What is given and what follows from it.

    Raises:
        RuleError: nothing is given or the sum is past the limit (`invalid`), or they do not add up (`token_mismatch`).
    """
    if input_tokens is not None and output_tokens is not None:
        total = input_tokens + output_tokens
        if total > TOKENS_MAX:
            raise RuleError(
                Reason.INVALID,
                "tokens_used",
                f"input_tokens + output_tokens is {total}; the limit is {TOKENS_MAX}",
            )
        if tokens_used is not None and tokens_used != total:
            raise RuleError(
                Reason.TOKEN_MISMATCH,
                "tokens_used",
                f"{tokens_used} is not input_tokens + output_tokens = {input_tokens} + {output_tokens} = {total}",
            )
        return TokenCounts(total, input_tokens, output_tokens, parts_known=True)
    if tokens_used is None:
        if input_tokens is None and output_tokens is None:
            raise RuleError(
                Reason.INVALID,
                "tokens_used",
                "give at least one of input_tokens, output_tokens and tokens_used",
            )
        return TokenCounts((input_tokens or 0) + (output_tokens or 0), input_tokens or 0, output_tokens or 0, True)
    part = input_tokens if input_tokens is not None else output_tokens
    if part is None:
        return TokenCounts(tokens_used, 0, 0, parts_known=False)
    rest = tokens_used - part
    if rest < 0:
        raise RuleError(Reason.TOKEN_MISMATCH, "tokens_used", f"{tokens_used} is less than its part {part}")
    if input_tokens is not None:
        return TokenCounts(tokens_used, input_tokens, rest, parts_known=True)
    return TokenCounts(tokens_used, rest, part, parts_known=True)


def cost_micro_usd(given: float | str) -> int:
    """A cost in millionths of a dollar, rounded half away from zero.

    A number is taken as the shortest decimal of its IEEE double, a string exactly.

    Raises:
        RuleError: it is not finite, negative, or 10,000 dollars or more after rounding.
    """
    if not isinstance(given, str) and 0.0 <= given < 9_999.0:  # noqa: PLR2004 - safely below the limit
        # Exact without Decimal unless the seventh decimal is so near 5 that the double's own error decides.
        scaled = given * 1e6
        whole = int(scaled)
        rest = scaled - whole
        if not 0.4999 < rest < 0.5001:  # noqa: PLR2004 - far wider than the error of the product (1.2e-6)
            return whole + (rest > 0.5)  # noqa: PLR2004 - half
    value = _exact(given)
    if value.is_finite() and -1 < value < COST_MICRO_USD_LIMIT:
        micro = int(value.quantize(_QUANTUM, context=_CONTEXT).scaleb(6, _CONTEXT))
        if 0 <= micro < COST_MICRO_USD_LIMIT:
            return micro
    raise RuleError(
        Reason.INVALID,
        "estimated_cost_usd",
        "must be at least 0 and below 10,000 dollars after rounding to six decimals",
    )


def _exact(given: float | str) -> Decimal:
    if not isinstance(given, str):
        return Decimal(repr(float(given)))
    mantissa, _, exponent = given.lower().partition("e")
    digits = exponent.lstrip("+-").lstrip("0")
    if len(digits) > _EXPONENT_DIGITS_MAX:  # Decimal has no such exponent, but the rules have an answer
        if exponent.startswith("-") or not mantissa.strip("-0."):
            return Decimal(0)
        return Decimal("-Infinity" if mantissa.startswith("-") else "Infinity")
    return Decimal(given)


def epoch_us(text: str) -> int:
    """A time that fits `TIME_PATTERN`, in microseconds since 1970; digits after the sixth are cut off.

    Raises:
        RuleError: the month has no such day.
    """
    text = text.upper()
    if text.startswith("0000"):  # no year of `datetime`, but one of RFC 3339; as far in the past, and a leap year too
        text = "0004" + text[4:]
    try:
        since = datetime.fromisoformat(text) - _EPOCH
    except ValueError as error:
        raise RuleError(Reason.INVALID, "created_at", f"no such time: {error}") from None
    return (since.days * _DAY_SECONDS + since.seconds) * _MICRO + since.microseconds


def check_time(created_at_us: int, window: Window) -> None:
    """Is the time inside the window?

    Raises:
        RuleError: `in_future` or `too_old`, with the distance.
    """
    if created_at_us > window.latest_us:
        ahead = (created_at_us - window.latest_us) / _MICRO
        raise RuleError(Reason.IN_FUTURE, "created_at", f"{ahead:.6f} s later than what is accepted")
    if created_at_us < window.earliest_us:
        behind = (window.earliest_us - created_at_us) / _MICRO
        raise RuleError(Reason.TOO_OLD, "created_at", f"{behind:.6f} s older than what is accepted")


def is_storable_as_sent(text: bytes) -> bool:
    """Whether a short object is stored as it was sent, seen from its text alone: no value needs to be looked at.

    It is too short for an integer that is no finite double, has no more brackets than levels are allowed, and neither
    escape nor exponent.
    """
    return (
        len(text) <= _SHORT_BYTES_MAX
        and text.count(b"{") + text.count(b"[") <= METADATA_DEPTH_MAX
        and _is_plain(text) is not None
    )


def storable_metadata(metadata: Mapping[str, Any], text: bytes) -> bytes:
    """The text to store for `metadata`: as it was sent, wherever Postgres can only read it as the parser has.

    Raises:
        RuleError: longer than 16 KiB, deeper than 8, a number that is no finite double, or text that cannot be stored.
    """
    if len(text) > METADATA_BYTES_MAX:
        raise RuleError(
            Reason.INVALID,
            "request_metadata",
            f"is {len(text)} bytes long as sent; the limit is {METADATA_BYTES_MAX}",
        )
    if is_storable_as_sent(text):
        return text
    if b"\\u" not in text and _EXPONENT.search(text) is None:
        _check_values(metadata, check_text=False)
        return text
    # An escape may hide a NUL and an exponent a number that `numeric` cannot hold, also in a key given twice, where
    # the parser drops the first and the database would still read it: what the parser has read is stored instead.
    _check_values(metadata, check_text=True)
    return to_json(metadata)


def _check_values(metadata: Mapping[str, Any], *, check_text: bool) -> None:
    level: list[Any] = [metadata]
    depth = 0
    while level:
        depth += 1
        if depth > METADATA_DEPTH_MAX:
            raise RuleError(Reason.INVALID, "request_metadata", f"is nested deeper than {METADATA_DEPTH_MAX} levels")
        deeper: list[Any] = []
        for container in level:
            if type(container) is dict:
                if check_text:
                    for key in container:
                        check_storable(key, "request_metadata")
                values = container.values()
            else:
                values = container
            for value in values:
                kind = type(value)
                if kind is dict or kind is list:
                    deeper.append(value)
                elif kind is str:
                    if check_text:
                        check_storable(value, "request_metadata")
                elif (kind is float and not math.isfinite(value)) or (kind is int and abs(value) >= _DOUBLE_LIMIT):
                    raise RuleError(
                        Reason.INVALID,
                        "request_metadata",
                        "holds a number that is not finite as an IEEE double",
                    )
        level = deeper


def check_storable(text: str, field: str) -> None:
    """Can Postgres hold this text?

    Raises:
        RuleError: it has a NUL or a lone surrogate.
    """
    if "\x00" in text:
        raise RuleError(Reason.INVALID, field, "holds a NUL character, which the database cannot store")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RuleError(Reason.INVALID, field, "holds a lone surrogate, which is no text") from None
