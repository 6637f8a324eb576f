"""The fast path: the JSON of events straight to `Event`s, as nearly all of them arrive. Pure.

It accepts, or gives `None` and does not say why: the producers' own rules (`usage_events.judge`) judge what is left, so
there is one contract, and what this file does not know is only slower. Native events are parsed by msgspec into slots,
the metadata as a slice of the message: 0.4 µs where pydantic's core takes 2.4, which it spends on dictionaries.
CloudEvents, of any attributes, are validated by pydantic's core.
"""

import re
from binascii import a2b_hex
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Annotated, Any, NamedTuple, cast

import msgspec
from pydantic_core import from_json
from usage_events import cloudevents
from usage_events.contract import (
    COST_PATTERN,
    ENDPOINT_CHARACTERS_MAX,
    INPUT_TOKEN_MICRO_USD,
    MODEL_CHARACTERS_MAX,
    OUTPUT_TOKEN_MICRO_USD,
    REQUEST_TYPE_CHARACTERS_MAX,
    TIME_PATTERN,
    TOKENS_MAX,
    Event,
)
from usage_events.envelope import MESSAGE_EVENTS_MAX
from usage_events.judge import DEPTH_MAX, Form
from usage_events.rules import (
    RuleError,
    Window,
    accept,
    check_time,
    cost_micro_usd,
    epoch_us,
    is_storable_as_sent,
    settle_tokens,
    storable_metadata,
)

_ESCAPED_NUL = b"\\u0000"
# Pydantic's and our own errors are `ValueError`s.
_NOT_ACCEPTED = (msgspec.DecodeError, ValueError, RecursionError)
_HIDDEN_BRACKETS_MAX = 150  # safely below the depth of 200 that the judge takes
_IDS_BYTES = 48
_DASHES = "---"  # the same one of three ids
_SECOND_CHARACTERS = len("2026-01-31T12:00:00")
_UTC = ("Z", "+00:00", "z", "-00:00")
_is_time = re.compile(TIME_PATTERN).fullmatch
_is_cost = re.compile(COST_PATTERN).fullmatch
# `Event(…)` goes through a function written in Python: this saves 0.2 µs.
_event = cast("Callable[[tuple[Any, ...]], Event]", partial(tuple.__new__, Event))


_Tokens = Annotated[int, msgspec.Meta(ge=0, le=TOKENS_MAX)]


class _Wire(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A native event as the contract has it (`usage_events.contract.WireEvent`); `_accept` checks the rest."""

    id: str
    user_id: str
    organization_id: str
    created_at: str
    input_tokens: _Tokens | None = None
    output_tokens: _Tokens | None = None
    tokens_used: _Tokens | None = None
    endpoint: Annotated[str, msgspec.Meta(max_length=ENDPOINT_CHARACTERS_MAX)] | None = None
    model: Annotated[str, msgspec.Meta(max_length=MODEL_CHARACTERS_MAX)] | None = None
    request_type: Annotated[str, msgspec.Meta(max_length=REQUEST_TYPE_CHARACTERS_MAX)] | None = None
    request_metadata: msgspec.Raw = msgspec.Raw(b"null")
    estimated_cost_usd: float | str | None = None


class _Data(msgspec.Struct):
    request_metadata: msgspec.Raw = msgspec.Raw()


class _Envelope(msgspec.Struct):
    """Cuts the text of the metadata out of a CloudEvent that pydantic has validated."""

    data: _Data


_native_of = msgspec.json.Decoder(_Wire).decode
_natives_of = msgspec.json.Decoder(list[_Wire]).decode
_envelope_of = msgspec.json.Decoder(_Envelope).decode
_envelopes_of = msgspec.json.Decoder(list[_Envelope]).decode


class FastPath(NamedTuple):
    """The fast path of one form of event: of a single one, and of a whole array."""

    form: Form
    one: Callable[[bytes, Window], Event | None]
    all: Callable[[bytes, Window], Sequence[Event] | None]


def _native(body: bytes, window: Window) -> Event | None:
    if not _is_plain_text(body):
        return None
    try:
        wire = _native_of(body)
        return None if _may_hide_depth(body, (wire,)) else _accept(wire, window)
    except _NOT_ACCEPTED:
        return None


def _natives(body: bytes, window: Window) -> Sequence[Event] | None:
    if not _is_plain_text(body):
        return None
    try:
        many = _natives_of(body)
        if not 0 < len(many) <= MESSAGE_EVENTS_MAX or _may_hide_depth(body, many):
            return None
        return [_accept(wire, window) for wire in many]
    except _NOT_ACCEPTED:
        return None


def _cloudevent(body: bytes, window: Window) -> Event | None:
    # An array is a level by itself: its events cannot be too deep where the parser takes it.
    if not _is_plain_text(body) or body.count(b"{") + body.count(b"[") > DEPTH_MAX:
        return None
    try:
        return _accept_envelope(cloudevents.CLOUD_EVENT.validator.validate_json(body), _envelope_of(body), window)
    except _NOT_ACCEPTED:
        return None


def _cloudevents(body: bytes, window: Window) -> Sequence[Event] | None:
    if not _is_plain_text(body):
        return None
    try:
        many, cuts = cloudevents.CLOUD_EVENTS.validator.validate_json(body), _envelopes_of(body)
        if not 0 < len(many) <= MESSAGE_EVENTS_MAX:
            return None
        return [_accept_envelope(fields, cut, window) for fields, cut in zip(many, cuts, strict=True)]
    except _NOT_ACCEPTED:
        return None


NATIVE = FastPath(Form.NATIVE, _native, _natives)
CLOUDEVENT = FastPath(Form.CLOUDEVENT, _cloudevent, _cloudevents)


def _is_plain_text(body: bytes) -> bool:
    """UTF-8, also where the parser only skips, and without an escaped NUL, the one text that a text column refuses."""
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            return False
    return _ESCAPED_NUL not in body


def _may_hide_depth(body: bytes, wires: Sequence[_Wire]) -> bool:
    """Whether something may be nested too deep for the judge: of a key given twice the first value is only skipped."""
    brackets = body.count(b"{") + body.count(b"[") - len(wires)
    if brackets < _HIDDEN_BRACKETS_MAX:
        return False
    kept = b"".join([bytes(wire.request_metadata) for wire in wires])
    return brackets - kept.count(b"{") - kept.count(b"[") >= _HIDDEN_BRACKETS_MAX


def _accept(wire: _Wire, window: Window) -> Event:
    """The event as it is stored; the rules are those of `usage_events.rules.accept`.

    Raises:
        ValueError: it is not accepted here.
    """
    used, input_, output, parts_known = settle_tokens(wire.input_tokens, wire.output_tokens, wire.tokens_used)
    given = wire.estimated_cost_usd
    cost: int | None = None
    if given is not None:
        if isinstance(given, str) and not _is_cost(given):
            raise ValueError("no decimal")
        cost = cost_micro_usd(given)
    elif parts_known:
        cost = input_ * INPUT_TOKEN_MICRO_USD + output * OUTPUT_TOKEN_MICRO_USD
    created_at_us = _epoch_us(wire.created_at)
    check_time(created_at_us, window)
    ids = _uuids(wire.id, wire.user_id, wire.organization_id)
    metadata_json = _metadata(bytes(wire.request_metadata))
    return _event((
        ids[:16], ids[16:32], ids[32:], used, input_, output, wire.endpoint, wire.model,
        wire.request_type, metadata_json, cost, given is not None, created_at_us,
    ))  # fmt: skip


def _uuids(first: str, second: str, third: str) -> bytes:
    """The 48 bytes of three ids, checked together: 108 characters, twelve dashes in their places, else hexadecimal."""
    text = first + second + third
    if (
        not len(first) == len(second) == len(third) == 36  # noqa: PLR2004 - characters of an id
        or not text[8::36] == text[13::36] == text[18::36] == text[23::36] == _DASHES
    ):
        raise ValueError("not 8-4-4-4-12")
    ids = a2b_hex(text.replace("-", ""))
    if len(ids) != _IDS_BYTES:
        raise ValueError("a dash in a digit's place")
    return ids


def _epoch_us(text: str) -> int:
    """The time in microseconds since 1970: the second is known from the events before, and only digits are added."""
    digits = text[_SECOND_CHARACTERS + 1 : _SECOND_CHARACTERS + 7]
    if (
        text[_SECOND_CHARACTERS + 7 :] in _UTC
        and text[_SECOND_CHARACTERS] == "."
        and digits.isdigit()
        and digits.isascii()
    ):
        return _second_us(text[:_SECOND_CHARACTERS]) + int(digits)
    if not _is_time(text):
        raise ValueError("no time of RFC 3339")
    return epoch_us(text)


@lru_cache(maxsize=1024)
def _second_us(text: str) -> int:
    return _epoch_us(f"{text}Z")


def _metadata(text: bytes) -> bytes | None:
    if text[:1] == b"{":
        if is_storable_as_sent(text):
            return text
        # One level deep, as it stands in its event, and one more: the parser takes a last level that is empty.
        return storable_metadata(from_json(b"[[" + text + b"]]")[0][0], text)
    if text != b"null":
        raise ValueError("not an object")
    return None


def _accept_envelope(envelope: Any, cut: _Envelope, window: Window) -> Event:
    wrong: Sequence[RuleError] = cloudevents.attribute_errors(envelope)
    if wrong:
        raise wrong[0]
    return accept(cloudevents.to_wire(envelope), bytes(cut.data.request_metadata), window)
