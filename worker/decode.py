"""Decode: one message becomes events and rejects. Pure; nothing is logged, counted or sent from here.

The fast path takes the whole message at once. Whatever it does not take is judged element by element, with care, by the
producers' own rules (`usage_events.judge`), so there is one contract.
"""

from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

import msgspec
from usage_events.contract import Event, FieldError, Reason, Refusal
from usage_events.envelope import (
    CONTENT_TYPE_CLOUDEVENT,
    CONTENT_TYPE_CLOUDEVENTS_BATCH,
    CONTENT_TYPE_JSON,
    MESSAGE_BYTES_MAX,
    MESSAGE_EVENTS_MAX,
)
from usage_events.json_text import Kind, NotJsonError, outline
from usage_events.judge import Form, judge
from usage_events.rules import Window

from worker.fast_path import CLOUDEVENT, NATIVE, FastPath

_ENCODINGS = ("", "utf-8", "identity")
_CHARSETS = ("utf-8", "utf8")
WHOLE_MESSAGE = -1
_ONLY_PLACE = (0,)


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


class _Metadata(msgspec.Struct):
    """Cuts the text of a native event's metadata out of it."""

    request_metadata: msgspec.Raw = msgspec.Raw()


_metadata_of = msgspec.json.Decoder(_Metadata).decode
_elements_of = msgspec.json.Decoder(list[msgspec.Raw]).decode


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
    if media is None:
        given = f"content_type {content_type!r}, content_encoding {content_encoding!r}"
        wanted = ", ".join(known.value for known in Media)
        return _whole(body, Reason.UNSUPPORTED_CONTENT_TYPE, f"{given}: send {wanted} in UTF-8, without compression")
    if len(body) > MESSAGE_BYTES_MAX:
        return _whole(body, Reason.TOO_LARGE, f"{len(body)} bytes; the limit is {MESSAGE_BYTES_MAX}")
    path = NATIVE if media is Media.NATIVE else CLOUDEVENT
    is_array = body[:1] != b"{" and body.lstrip(b" \t\r\n")[:1] == b"["
    if is_array and media is not Media.CLOUDEVENT:
        return _decode_array(body, path, window)
    if media is Media.CLOUDEVENTS_BATCH or is_array:
        return _refuse_shape(body, "an array of events" if media is Media.CLOUDEVENTS_BATCH else "one event")
    event = path.one(body, window)
    return _judge_one(body, path.form, window) if event is None else Decoded((event,), _ONLY_PLACE, ())


def event_text(body: bytes, place: int) -> bytes:
    """The bytes of the event at `place` of a message that has been decoded."""
    if body.lstrip(b" \t\r\n")[:1] != b"[":
        return body
    return _elements(body)[place]


def _decode_array(body: bytes, path: FastPath, window: Window) -> Decoded:
    events = path.all(body, window)
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
        verdict: Event | Refusal | None = path.one(element, window) if len(accepted) >= len(rejects) else None
        if verdict is None:
            verdict = judge(element, path.form, window, _metadata_text(element, path.form))
        if isinstance(verdict, Event):
            accepted.append(verdict)
            places.append(index)
        else:
            rejects.append(Reject(index, element, verdict))
    return Decoded(accepted, places, rejects)


def _judge_one(body: bytes, form: Form, window: Window) -> Decoded:
    metadata_text = _metadata_text(body, form)
    if metadata_text is None:
        try:
            kind, _ = outline(body)
        except NotJsonError as error:
            return _whole(body, Reason.BAD_JSON, str(error))
        if kind is Kind.SCALAR:
            return _whole(body, Reason.INVALID, "must be an object or an array of objects")
    verdict = judge(body, form, window, metadata_text)
    if isinstance(verdict, Event):
        return Decoded((verdict,), _ONLY_PLACE, ())
    return Decoded((), (), (Reject(0, body, verdict),))


def _metadata_text(body: bytes, form: Form) -> bytes | None:
    """The text of a native event's metadata; `None` where only `outline`, slow and the authority, can tell."""
    if form is not Form.NATIVE:
        return None
    try:
        body.decode()
        return bytes(_metadata_of(body).request_metadata)
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
        return tuple(bytes(raw) for raw in _elements_of(body))
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return tuple(child.text for child in outline(body)[1])  # slow, and the authority


def _whole(body: bytes, reason: Reason, message: str) -> Decoded:
    refusal = Refusal(reason, [FieldError(field="", message=message, input=None)])
    return Decoded((), (), (Reject(WHOLE_MESSAGE, body, refusal),))
