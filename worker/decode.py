"""Decode: one message becomes events and rejects. Pure; nothing is logged, counted or sent from here.

The fast path lets pydantic's core validate the whole message at once. Whatever it does not take is judged element by
element, with care, by the producers' own rules (`usage_events.judge`), so both paths know one contract.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from pydantic import TypeAdapter, ValidationError
from usage_events import cloudevents
from usage_events.contract import (
    CONTENT_TYPE_CLOUDEVENT,
    CONTENT_TYPE_CLOUDEVENTS_BATCH,
    CONTENT_TYPE_JSON,
    MESSAGE_BYTES_MAX,
    MESSAGE_EVENTS_MAX,
    WIRE_EVENT,
    WIRE_EVENTS,
    Event,
    FieldError,
    Reason,
    Refusal,
    WireEvent,
)
from usage_events.json_text import Kind, NotJsonError, outline
from usage_events.judge import Form, judge
from usage_events.rules import RuleError, Window, accept

_ENCODINGS = ("", "utf-8", "identity")
_CHARSETS = ("utf-8", "utf8")
_ESCAPED_NUL = b"\\u0000"
WHOLE_MESSAGE = -1
_ONLY_PLACE = (0,)
_NOT_FAST = (ValidationError, RuleError, msgspec.DecodeError)


class Media(Enum):
    """What a content type says about the body."""

    NATIVE = CONTENT_TYPE_JSON
    CLOUDEVENT = CONTENT_TYPE_CLOUDEVENT
    CLOUDEVENTS_BATCH = CONTENT_TYPE_CLOUDEVENTS_BATCH


class Reject(NamedTuple):
    """What is refused: the element's place in its message (or `WHOLE_MESSAGE`), its own bytes, and why."""

    place: int
    body: bytes
    refusal: Refusal


class Decoded(NamedTuple):
    """What a message holds. `places` tells the place of each event in its message."""

    events: Sequence[Event]
    places: Sequence[int]
    rejects: Sequence[Reject]


class _Slice(msgspec.Struct):
    """Cuts the text of the metadata out of a message that pydantic has validated."""

    request_metadata: msgspec.Raw = msgspec.Raw()


class _EnvelopeSlice(msgspec.Struct):
    data: _Slice


class _Path(NamedTuple):
    """The tools for one form of event."""

    form: Form
    validate_one: Callable[[bytes], Any]
    validate_many: Callable[[bytes], Any]
    slice_one: Callable[[bytes], Any]
    slice_many: Callable[[bytes], Any]


def _path(form: Form, one: TypeAdapter[Any], many: TypeAdapter[Any], cut: Any) -> _Path:
    return _Path(
        form,
        one.validator.validate_json,
        many.validator.validate_json,
        msgspec.json.Decoder(cut).decode,
        msgspec.json.Decoder(list[cut]).decode,
    )


_NATIVE = _path(Form.NATIVE, WIRE_EVENT, WIRE_EVENTS, _Slice)
_CLOUDEVENT = _path(Form.CLOUDEVENT, cloudevents.CLOUD_EVENT, cloudevents.CLOUD_EVENTS, _EnvelopeSlice)
_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])


@lru_cache(maxsize=1024)
def media_of(content_type: str | None, content_encoding: str | None) -> Media | None:
    """What the body is, by its properties; `None` for what is not taken."""
    if (content_encoding or "").lower() not in _ENCODINGS:
        return None
    if content_type is None:
        return Media.NATIVE
    media_type, *parameters = content_type.split(";")
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in _CHARSETS:
            return None
    try:
        return Media(media_type.strip().lower())
    except ValueError:
        return None


def decode(body: bytes, content_type: str | None, content_encoding: str | None, window: Window) -> Decoded:
    """The events and rejects of one message. Never raises for what a producer can send."""
    media = media_of(content_type, content_encoding)
    if media is Media.NATIVE and body[:1] == b"{" and len(body) <= MESSAGE_BYTES_MAX and _ESCAPED_NUL not in body:
        # What most messages are, by the shortest way.
        try:
            fields = _NATIVE.validate_one(body)
            event = accept(fields, bytes(_NATIVE.slice_one(body).request_metadata), window)
            return Decoded((event,), _ONLY_PLACE, ())
        except _NOT_FAST:
            return _judge_one(body, _NATIVE, window)
    if media is None:
        given = f"content_type {content_type!r}, content_encoding {content_encoding!r}"
        wanted = ", ".join(known.value for known in Media)
        return _whole(body, Reason.UNSUPPORTED_CONTENT_TYPE, f"{given}: send {wanted} in UTF-8, without compression")
    if len(body) > MESSAGE_BYTES_MAX:
        return _whole(body, Reason.TOO_LARGE, f"{len(body)} bytes; the limit is {MESSAGE_BYTES_MAX}")
    return _decode_as(media, body, window)


def _decode_as(media: Media, body: bytes, window: Window) -> Decoded:
    path = _NATIVE if media is Media.NATIVE else _CLOUDEVENT
    is_array = body.lstrip(b" \t\r\n")[:1] == b"["
    if is_array and media is not Media.CLOUDEVENT:
        return _decode_array(body, path, window)
    if media is Media.CLOUDEVENTS_BATCH or is_array:
        return _refuse_shape(body, "an array of events" if media is Media.CLOUDEVENTS_BATCH else "one event")
    event = _accept_one(body, path, window)
    return _judge_one(body, path, window) if event is None else Decoded((event,), _ONLY_PLACE, ())


def event_text(body: bytes, place: int) -> bytes:
    """The bytes of the event at `place` of a message that has been decoded."""
    if body.lstrip(b" \t\r\n")[:1] != b"[":
        return body
    return _elements(body)[place]


def _accept_one(body: bytes, path: _Path, window: Window) -> Event | None:
    """The event, by the fast path; `None` where it has to be judged."""
    if _ESCAPED_NUL in body:
        return None
    try:
        fields = path.validate_one(body)
        wire, metadata = _unwrap(path, fields, path.slice_one(body))
        return accept(wire, metadata, window)
    except _NOT_FAST:
        return None


def _accept_all(body: bytes, path: _Path, window: Window) -> list[Event] | None:
    """All events of an array, by the fast path; `None` where they have to be taken one by one."""
    if _ESCAPED_NUL in body:
        return None
    try:
        many = path.validate_many(body)
        slices = path.slice_many(body)
        if not 0 < len(many) <= MESSAGE_EVENTS_MAX:
            return None
        return [accept(*_unwrap(path, fields, cut), window) for fields, cut in zip(many, slices, strict=True)]
    except _NOT_FAST:
        return None


def _unwrap(path: _Path, fields: Any, cut: Any) -> tuple[WireEvent, bytes]:
    """The event's fields and the text of its metadata, out of whichever envelope."""
    if path is _NATIVE:
        return fields, bytes(cut.request_metadata)
    wrong = cloudevents.attribute_errors(fields)
    if wrong:
        raise wrong[0]
    return cloudevents.to_wire(fields), bytes(cut.data.request_metadata)


def _decode_array(body: bytes, path: _Path, window: Window) -> Decoded:
    events = _accept_all(body, path, window)
    if events is not None:
        return Decoded(events, range(len(events)), ())
    try:
        elements = _elements(body)
    except NotJsonError as error:
        return _whole(body, Reason.BAD_JSON, str(error))
    if not elements:
        return _whole(body, Reason.INVALID, "an empty array")
    if len(elements) > MESSAGE_EVENTS_MAX:
        return _whole(body, Reason.TOO_LARGE, f"{len(elements)} events; the limit is {MESSAGE_EVENTS_MAX}")
    accepted: list[Event] = []
    places: list[int] = []
    rejects: list[Reject] = []
    for index, element in enumerate(elements):
        # Where most of an array is wrong, to try the fast path first costs more than it saves.
        verdict: Event | Refusal | None = _accept_one(element, path, window) if len(accepted) >= len(rejects) else None
        if verdict is None:
            verdict = judge(element, path.form, window, _metadata_text(element, path))
        if isinstance(verdict, Event):
            accepted.append(verdict)
            places.append(index)
        else:
            rejects.append(Reject(index, element, verdict))
    return Decoded(accepted, places, rejects)


def _judge_one(body: bytes, path: _Path, window: Window) -> Decoded:
    metadata_text = _metadata_text(body, path)
    if metadata_text is None:
        try:
            kind, _ = outline(body)
        except NotJsonError as error:
            return _whole(body, Reason.BAD_JSON, str(error))
        if kind is Kind.SCALAR:
            return _whole(body, Reason.INVALID, "must be an object or an array of objects")
    verdict = judge(body, path.form, window, metadata_text)
    if isinstance(verdict, Event):
        return Decoded((verdict,), _ONLY_PLACE, ())
    return Decoded((), (), (Reject(0, body, verdict),))


def _metadata_text(body: bytes, path: _Path) -> bytes | None:
    """The text of a native event's metadata; `None` where only `outline`, slow and the authority, can tell."""
    if path is not _NATIVE:
        return None
    try:
        body.decode()
        return bytes(_NATIVE.slice_one(body).request_metadata)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None


def _refuse_shape(body: bytes, wanted: str) -> Decoded:
    try:
        outline(body)
    except NotJsonError as error:
        return _whole(body, Reason.BAD_JSON, str(error))
    return _whole(body, Reason.INVALID, f"must be {wanted} for this content type")


@lru_cache(maxsize=1)  # the letters of one message ask one after the other, and to cut it anew for each took minutes
def _elements(body: bytes) -> Sequence[bytes]:
    """The text of each element of an array.

    Raises:
        NotJsonError: the message is not JSON.
    """
    try:
        body.decode()
        return tuple(bytes(raw) for raw in _ELEMENTS.decode(body))
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return tuple(child.text for child in outline(body)[1])  # slow, and the authority


def _whole(body: bytes, reason: Reason, message: str) -> Decoded:
    refusal = Refusal(reason, [FieldError(field="", message=message, input=None)])
    return Decoded((), (), (Reject(WHOLE_MESSAGE, body, refusal),))
