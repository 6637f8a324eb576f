"""Dead letters as values: what is kept of an event that could not be stored, so that it can be understood and replayed.

Pure. Every text but the body is made storable, or one reject would stop everything.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from usage_events.cloudevents import event_id
from usage_events.contract import UUID_PATTERN, Event, FieldError, Reason, Refusal
from usage_events.envelope import CONTENT_TYPE_CLOUDEVENT, CONTENT_TYPE_JSON
from usage_events.judge import parse

from worker.batch import Batch, Origin
from worker.decode import WHOLE_MESSAGE, Media, Reject, event_text, media_of
from worker.delivery import Delivery

INPUT_CHARACTERS_MAX = 1000  # of each error: the body has the whole
ERRORS_MAX = 50
MODEL_CHARACTERS_MAX = 255  # a longer one would not fit an index
HEADERS_CHARACTERS_MAX = 20_000
_DEPTH_MAX = 12
_INTEGER_BITS_MAX = 1024
_UUID = re.compile(UUID_PATTERN)
_ESCAPED_NUL = b"\\u0000"
_ENVELOPES = (Media.CLOUDEVENT, Media.CLOUDEVENTS_BATCH)
_PLAIN_INPUTS = (str, int, bool, type(None))


class DeadLetter(NamedTuple):
    """One refused body, as it stands in `ai_usage_dead_letters`; the JSON fields are text, and so are the UUIDs."""

    fingerprint: bytes
    event_id: str | None
    reason: Reason
    errors_json: str
    body: bytes
    content_type: str
    headers_json: str
    app_id: str | None
    amqp_user: str | None
    exchange: str
    routing_key: str
    queue: str
    user_id: str | None
    organization_id: str | None
    model: str | None
    occurrences: int = 1
    first_seen: datetime | None = None  # where it is not seen for the first time now


class Identity(NamedTuple):
    """What can be read of an event that was refused."""

    event_id: str | None = None
    user_id: str | None = None
    organization_id: str | None = None
    model: str | None = None


class _Named(msgspec.Struct):
    """What names a native event; anything may stand there."""

    id: Any = None
    user_id: Any = None
    organization_id: Any = None
    model: Any = None


_NAMED = msgspec.json.Decoder(_Named)


def fingerprint(content_type: str, body: bytes) -> bytes:
    """What makes a letter the same letter: SHA-256 of content type, line feed, body."""
    return hashlib.sha256(content_type.encode() + b"\n" + body).digest()


def letters_of_rejects(batch: Batch) -> list[DeadLetter]:
    """The letters of what validation has refused."""
    return [
        _letter(entry.delivery, reject.place, reject.body, reject.refusal, _identity(entry.delivery, reject))
        for entry in batch.entries
        for reject in entry.decoded.rejects
    ]


def letter_of_event(origin: Origin, event: Event, refusal: Refusal) -> DeadLetter:
    """The letter of an accepted event that the database's state refuses."""
    delivery = origin.delivery
    identity = Identity(event.id.hex(), event.user_id.hex(), event.organization_id.hex(), event.model)
    return _letter(delivery, origin.place, event_text(delivery.body, origin.place), refusal, identity)


def refusal_of(reason: Reason, event: Event) -> Refusal:
    """The refusal of an event that the state of the database decides."""
    field, message, given = {
        Reason.UNKNOWN_USER: ("user_id", "is not in `users`", event.user_id),
        Reason.UNKNOWN_ORGANIZATION: ("organization_id", "is not in `organizations`", event.organization_id),
        Reason.ID_CONFLICT: ("id", "is stored with another content", event.id),
    }[reason]
    return Refusal(reason, [FieldError(field=field, message=message, input=str(UUID(bytes=given)))])


def errors_json(refusal: Refusal) -> str:
    """The errors of a refusal as they are kept: JSON text that the database can hold, each input shortened."""
    errors = [_short(dict(error)) for error in refusal.errors[:ERRORS_MAX]]
    if all(type(error["input"]) in _PLAIN_INPUTS for error in errors):
        try:
            text = msgspec.json.encode(errors)
        except (UnicodeEncodeError, OverflowError):
            return _json(errors)  # a lone surrogate, a long integer
        if _ESCAPED_NUL not in text:
            return text.decode()
    return _json(errors)


def add_up(letters: Iterable[DeadLetter]) -> list[DeadLetter]:
    """Identical ones added up, in the order of their fingerprints (in which every worker locks them)."""
    found: dict[bytes, DeadLetter] = {}
    for letter in letters:
        known = found.get(letter.fingerprint)
        found[letter.fingerprint] = (
            letter if known is None else letter._replace(occurrences=known.occurrences + letter.occurrences)
        )
    return [found[key] for key in sorted(found)]


def identity_of(body: bytes, content_type: str | None) -> Identity:
    """What can be read of one event; nothing of an array.

    Raises:
        NotJsonError: the body is not JSON.
    """
    named = _named_in_envelope(body) if media_of(content_type, None) in _ENVELOPES else _named(body)
    return Identity(
        _uuid(named.id),
        _uuid(named.user_id),
        _uuid(named.organization_id),
        _optional(named.model[:MODEL_CHARACTERS_MAX]) if isinstance(named.model, str) else None,
    )


def _letter(delivery: Delivery, place: int, body: bytes, refusal: Refusal, identity: Identity) -> DeadLetter:
    properties = delivery.properties
    content_type = _content_type(properties.content_type, place)
    return DeadLetter(
        fingerprint=fingerprint(content_type, body),
        event_id=identity.event_id,
        reason=refusal.reason,
        errors_json=errors_json(refusal),
        body=body,
        content_type=content_type,
        headers_json=_headers(properties.headers),
        app_id=_optional(properties.app_id),
        amqp_user=_optional(properties.user_id),
        exchange=_storable_name(delivery.exchange),
        routing_key=_storable_name(delivery.routing_key),
        queue=_storable_name(delivery.queue),
        user_id=identity.user_id,
        organization_id=identity.organization_id,
        model=_optional(identity.model),
    )


def _content_type(given: str | None, place: int) -> str:
    """The content type of the letter's own body: an element cut out of a batch is a single one."""
    if given is None:
        return CONTENT_TYPE_JSON
    if place != WHOLE_MESSAGE and media_of(given, None) is Media.CLOUDEVENTS_BATCH:
        return CONTENT_TYPE_CLOUDEVENT
    return storable(given)


def _identity(delivery: Delivery, reject: Reject) -> Identity:
    if reject.place == WHOLE_MESSAGE:
        return Identity()
    return identity_of(reject.body, delivery.properties.content_type)


def _named(text: bytes) -> _Named:
    try:
        return _NAMED.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _named_of(parse(text)[0])  # slow, and takes lone surrogates and the longest numbers


def _named_in_envelope(text: bytes) -> _Named:
    envelope, _ = parse(text)
    if not isinstance(envelope, dict):
        return _Named()
    named = _named_of(envelope.get("data"))
    identifier, source = envelope.get("id"), envelope.get("source")
    if isinstance(identifier, str) and isinstance(source, str) and identifier and source:
        identifier = event_id(_encodable(identifier), _encodable(source))
    named.id = identifier
    return named


def _named_of(value: Any) -> _Named:
    if not isinstance(value, dict):
        return _Named()
    return _Named(*(value.get(name) for name in _Named.__struct_fields__))


def _encodable(text: str) -> str:
    """A text that UTF-8 can hold, and the same where it could already: ids are made from it."""
    return text.encode("utf-8", "backslashreplace").decode()


def _uuid(value: Any) -> str | None:
    return value if isinstance(value, str) and _UUID.fullmatch(value) else None


def _optional(text: str | None) -> str | None:
    return None if text is None else _storable_name(text)


@lru_cache(maxsize=4096)
def _storable_name(text: str) -> str:
    """Names are short, few, and come again."""
    return storable(text)


def storable(text: str) -> str:
    """A text that Postgres can hold: NUL and lone surrogates are written out as escapes."""
    if "\x00" not in text and text.isascii():
        return text
    return _encodable(text.replace("\x00", "\\x00"))


def _headers(headers: Mapping[str, Any]) -> str:
    if not headers:
        return "{}"
    text = _json(dict(headers))
    if len(text) <= HEADERS_CHARACTERS_MAX:
        return text
    return _json({"truncated": text[:HEADERS_CHARACTERS_MAX]})


def _short(error: dict[str, Any]) -> dict[str, Any]:
    given = error["input"]
    if type(given) is int and given.bit_length() < _INTEGER_BITS_MAX:
        return error
    text = given if isinstance(given, str) else _json(given)
    if len(text) > INPUT_CHARACTERS_MAX:
        error["input"] = f"{text[:INPUT_CHARACTERS_MAX]}… ({len(text)} characters)"
    return error


def _json(value: Any) -> str:
    return json.dumps(_plain(value, depth=0), ensure_ascii=False)


def _plain(value: Any, depth: int) -> Any:  # noqa: PLR0911 - one line a type
    """The value with nothing in it that `jsonb` refuses, whatever a header table or a wrong field holds."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, int):
        return value if value.bit_length() < _INTEGER_BITS_MAX else f"{value:#x}"
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "backslashreplace").replace("\x00", "\\x00")
    if isinstance(value, datetime):
        return value.isoformat()
    if depth >= _DEPTH_MAX:
        return "…"
    if isinstance(value, Mapping):
        return {storable(str(key)): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    return storable(str(value))
