"""The contract read a second time: plain, slow, and made of nothing that the worker is made of.

What docs and schema promise of a message, by the standard library alone. A mistake of either reading shows as a
difference between both.
"""

import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from fractions import Fraction
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, uuid5

from usage_events.contract import Reason
from usage_events.rules import Window

from chaos.fuzz.plain_json import DEEP, Piece, PlainJsonError, children, depth

WHOLE = -1
NATIVE, CLOUDEVENT, CLOUDEVENTS = (
    "application/json",
    "application/cloudevents+json",
    "application/cloudevents-batch+json",
)
UNKNOWN_ID = "?"  # of what is nested too deeply to be read here

_BYTES_MAX, _EVENTS_MAX, _DEPTH_MAX = 1024 * 1024, 1000, 200
_METADATA_BYTES_MAX, _METADATA_DEPTH_MAX = 16 * 1024, 8
_TOKENS_MAX = 2**31 - 1
_COST_LIMIT_MICRO = 10_000 * 10**6
_DOUBLE_LIMIT = 2**1024 - 2**970  # what rounds to infinity
_MICRO = 10**6
_TEXTS = {"endpoint": 255, "model": 100, "request_type": 50}
_TOKENS = ("input_tokens", "output_tokens", "tokens_used")
_DATA = {"user_id", "organization_id", *_TOKENS, *_TEXTS, "request_metadata", "estimated_cost_usd"}
_UUID = re.compile("-".join(f"[0-9a-fA-F]{{{digits}}}" for digits in (8, 4, 4, 4, 12)))
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_DECIMAL = re.compile(r"(-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?)(?:[eE]([+-]?[0-9]+))?")
_ATTRIBUTE = re.compile(r"[a-z0-9]+")
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_DAYS_OF_400_YEARS = 146_097
_NAMESPACE = uuid5(NAMESPACE_URL, "usage-events")


class Row(NamedTuple):
    """What an event has to be stored as; `metadata` is its text as it was sent. Fields as in `contract.Event`."""

    id: bytes
    user_id: bytes
    organization_id: bytes
    tokens_used: int
    input_tokens: int
    output_tokens: int
    endpoint: str | None
    model: str | None
    request_type: str | None
    metadata: bytes | None
    cost_micro_usd: int | None
    cost_given: bool
    created_at_us: int


class Verdict(NamedTuple):
    """What has to become of an event, or of a message as a whole: a row, or a letter for this reason."""

    place: int
    text: bytes
    content_type: str
    event_id: str | None
    outcome: Row | Reason

    @property
    def fingerprint(self) -> bytes:
        """What makes its letter the same letter."""
        return sha256(self.content_type.encode() + b"\n" + self.text).digest()


class _RefusedError(Exception):
    """A rule is broken."""

    def __init__(self, reason: Reason = Reason.INVALID) -> None:
        super().__init__(reason)
        self.reason = reason


def verdicts(  # noqa: PLR0911 - one line a way in which a message is refused whole
    body: bytes, content_type: str | None, content_encoding: str | None, window: Window
) -> list[Verdict]:
    """One for each event of the message in order, or one for the whole of it."""
    letter_type = NATIVE if content_type is None else content_type.replace("\x00", "\\x00")

    def whole(reason: Reason) -> list[Verdict]:
        return [Verdict(WHOLE, body, letter_type, None, reason)]

    media = media_type(content_type, content_encoding)
    if media is None:
        return whole(Reason.UNSUPPORTED_CONTENT_TYPE)
    if len(body) > _BYTES_MAX:
        return whole(Reason.TOO_LARGE)
    try:
        mark, found = children(body)
    except PlainJsonError:
        return whole(Reason.BAD_JSON)
    if mark == "{" and media != CLOUDEVENTS:
        return [_verdict(0, body, found, media, letter_type, window)]
    if mark != "[" or media == CLOUDEVENT or not found:
        return whole(Reason.INVALID)
    if len(found) > _EVENTS_MAX:
        return whole(Reason.TOO_LARGE)
    if media == CLOUDEVENTS:
        media = letter_type = CLOUDEVENT
    return [_verdict(place, *_element(piece), media, letter_type, window) for place, piece in enumerate(found)]


def media_type(content_type: str | None, content_encoding: str | None) -> str | None:
    """One of the three that are taken, or none."""
    if (content_encoding or "").lower() not in {"", "utf-8", "identity"}:
        return None
    name, *parameters = (NATIVE if content_type is None else content_type).split(";")
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "charset" and value.strip().strip('"').lower() not in {"utf-8", "utf8"}:
            return None
    name = name.strip().lower()
    return name if name in {NATIVE, CLOUDEVENT, CLOUDEVENTS} else None


def _element(piece: Piece) -> tuple[bytes, list[Piece] | None]:
    text = piece.text.encode()
    return text, children(text)[1] if isinstance(piece.value, dict) or piece.value is DEEP else None


def _verdict(
    place: int, text: bytes, found: list[Piece] | None, media: str, letter_type: str, window: Window
) -> Verdict:
    if found is None:
        return Verdict(place, text, letter_type, None, Reason.INVALID)
    fields = {piece.key: piece for piece in found}  # of a key given twice the last counts
    event_id = _readable_id(fields, media)
    brackets = text.count(b"{") + text.count(b"[")
    if brackets > _DEPTH_MAX and depth(text.decode()) > _DEPTH_MAX:
        return Verdict(place, text, letter_type, UNKNOWN_ID, Reason.INVALID)
    try:
        row = _envelope(fields, window) if media == CLOUDEVENT else _native(fields, window)
    except _RefusedError as refused:
        return Verdict(place, text, letter_type, event_id, refused.reason)
    return Verdict(place, text, letter_type, event_id, row)


def _native(fields: Mapping[str, Piece], window: Window) -> Row:
    if fields.keys() - _DATA - {"id", "created_at"}:
        raise _RefusedError
    return _row(fields, _uuid(_value(fields, "id")), _value(fields, "created_at"), window)


def _envelope(fields: Mapping[str, Piece], window: Window) -> Row:
    for name, piece in fields.items():
        if name == "data_base64":
            if piece.value is not None:
                raise _RefusedError
        elif not _ATTRIBUTE.fullmatch(name):
            raise _RefusedError
    if _value(fields, "specversion") != "1.0" or not isinstance(_value(fields, "data"), dict):
        raise _RefusedError
    for name in ("id", "source", "type"):
        if not _is_text(_value(fields, name)) or not _value(fields, name):
            raise _RefusedError
    for name in ("datacontenttype", "dataschema", "subject"):
        if not isinstance(_value(fields, name), str | None):  # ignored otherwise, a lone surrogate in it too
            raise _RefusedError
    data = {piece.key: piece for piece in children(fields["data"].text.encode())[1]}
    if data.keys() - _DATA:
        raise _RefusedError
    return _row(data, _envelope_id(_value(fields, "id"), _value(fields, "source")), _value(fields, "time"), window)


def _envelope_id(identifier: str, source: str) -> bytes:
    if _UUID.fullmatch(identifier):
        return _uuid(identifier)
    return uuid5(_NAMESPACE, f"{source}\n{identifier}").bytes


def _row(data: Mapping[str, Piece], event_id: bytes, time: Any, window: Window) -> Row:
    """Everything that is `invalid` is found before what has another reason."""
    user, organization = _uuid(_value(data, "user_id")), _uuid(_value(data, "organization_id"))
    for name, characters_max in _TEXTS.items():
        text = _value(data, name)
        if text is not None and (not _is_text(text) or "\x00" in text or len(text) > characters_max):
            raise _RefusedError
    metadata = _metadata(data.get("request_metadata"))
    cost = _cost(_value(data, "estimated_cost_usd"))
    created_at_us = _time(time)
    used, input_, output, is_priced = _tokens(*(_value(data, name) for name in _TOKENS))
    if created_at_us > window.latest_us:
        raise _RefusedError(Reason.IN_FUTURE)
    if created_at_us < window.earliest_us:
        raise _RefusedError(Reason.TOO_OLD)
    computed = input_ + 3 * output if is_priced else None  # in millionths of a dollar
    return Row(
        event_id, user, organization, used, input_, output, _value(data, "endpoint"),
        _value(data, "model"), _value(data, "request_type"),
        metadata, computed if cost is None else cost, cost is not None, created_at_us,
    )  # fmt: skip


def _value(fields: Mapping[str, Piece], name: str) -> Any:
    piece = fields.get(name)
    return None if piece is None else piece.value


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def _uuid(value: Any) -> bytes:
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise _RefusedError
    return bytes.fromhex(value.replace("-", ""))


def _tokens(input_: Any, output: Any, used: Any) -> tuple[int, int, int, bool]:
    for given in (input_, output, used):
        if given is not None and (type(given) is not int or not 0 <= given <= _TOKENS_MAX):
            raise _RefusedError
    if input_ is output is used is None:
        raise _RefusedError
    if input_ is None and output is None:
        return used, 0, 0, False
    if (input_ is not None and output is not None) or used is None:
        total = (input_ or 0) + (output or 0)
        if total > _TOKENS_MAX:
            raise _RefusedError
        if used is not None and used != total:
            raise _RefusedError(Reason.TOKEN_MISMATCH)
        return total, input_ or 0, output or 0, True
    rest = used - (output if input_ is None else input_)
    if rest < 0:
        raise _RefusedError(Reason.TOKEN_MISMATCH)
    return (used, rest, output, True) if input_ is None else (used, input_, rest, True)


def _metadata(piece: Piece | None) -> bytes | None:
    if piece is None or piece.value is None:
        return None
    text = piece.text.encode()
    if not isinstance(piece.value, dict) or len(text) > _METADATA_BYTES_MAX:
        raise _RefusedError
    _check_level([piece.value], 1)
    return text


def _check_level(containers: list[Any], level: int) -> None:
    deeper = []
    for container in containers:
        texts = [*container] if isinstance(container, dict) else []
        for value in container.values() if isinstance(container, dict) else container:
            if isinstance(value, dict | list):
                deeper.append(value)
            elif isinstance(value, str):
                texts.append(value)
            elif value is not None and not -_DOUBLE_LIMIT < value < _DOUBLE_LIMIT:
                raise _RefusedError
        if any("\x00" in text or not _is_text(text) for text in texts):
            raise _RefusedError
    if deeper:
        if level == _METADATA_DEPTH_MAX:
            raise _RefusedError
        _check_level(deeper, level + 1)


def _cost(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _RefusedError
    if isinstance(value, int | float):
        if not -1 < value < 10_000:
            raise _RefusedError
        value = repr(float(value))
    match = _DECIMAL.fullmatch(value)
    if match is None:
        raise _RefusedError
    micro = _rounded_micro(Decimal(match[1]), match[2] or "0")
    if not 0 <= micro < _COST_LIMIT_MICRO:
        raise _RefusedError
    return micro


def _rounded_micro(mantissa: Decimal, exponent: str) -> int:
    """Millionths, rounded half away from zero; what is far past the limits is only told to be so."""
    if not mantissa:
        return 0
    digits = exponent.lstrip("+-").lstrip("0")
    power = int(digits[:9] or "0") * 10 ** max(0, len(digits) - 9) if len(digits) < 20 else 10**20
    magnitude = mantissa.adjusted() + (-power if exponent.startswith("-") else power)
    if magnitude > 5:
        return -1 if mantissa < 0 else _COST_LIMIT_MICRO
    if magnitude < -8:
        return 0
    exact = abs(Fraction(mantissa)) * Fraction(10) ** (magnitude - mantissa.adjusted()) * _MICRO
    micro = int(exact + Fraction(1, 2))
    return -micro if mantissa < 0 else micro


def _time(value: Any) -> int:
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise _RefusedError
    year, month, day, hour, minute, second = (int(match[group]) for group in range(1, 7))
    offset_hour, offset_minute = int(match[9] or 0), int(match[10] or 0)
    if hour > 23 or offset_hour > 23 or max(minute, second, offset_minute) > 59:
        raise _RefusedError
    try:
        # There is a year 0, and the calendar repeats after 400 years.
        days = date(year or 400, month, day).toordinal() - (0 if year else _DAYS_OF_400_YEARS) - _EPOCH_DAY
    except ValueError:
        raise _RefusedError from None
    offset = (offset_hour * 60 + offset_minute) * (-60 if match[8] == "-" else 60)
    seconds = (days * 24 + hour) * 3600 + minute * 60 + second - offset
    return seconds * _MICRO + int((match[7] or "")[:6].ljust(6, "0"))


def _readable_id(fields: Mapping[str, Piece], media: str) -> str | None:
    """The id that the letter of a refused event names."""
    identifier = _value(fields, "id")
    source = _value(fields, "source")
    if not isinstance(identifier, str):
        return None
    if media == CLOUDEVENT and isinstance(source, str) and identifier and source:
        parts = (text.encode("utf-8", "backslashreplace").decode() for text in (identifier, source))
        return _envelope_id(*parts).hex()
    return _uuid(identifier).hex() if _UUID.fullmatch(identifier) else None
