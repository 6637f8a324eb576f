"""One event, judged with care: accepted, or refused with every error of the reason that comes first.

The worker's fast path accepts most events without coming here; whatever it does not accept is judged here alone.
"""

import difflib
import json
from collections.abc import Callable
from enum import Enum
from functools import cache, lru_cache
from typing import Any, NamedTuple, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails, from_json

from usage_events.contract import WIRE_EVENT, Event, EventData, FieldError, Reason, Refusal, WireEvent
from usage_events.json_text import depth, outline
from usage_events.rules import (
    RuleError,
    Window,
    accept,
    check_storable,
    check_time,
    cost_micro_usd,
    epoch_us,
    settle_tokens,
    storable_metadata,
)

_TEXT_FIELDS = ("endpoint", "model", "request_type")
_TOKEN_FIELDS = ("input_tokens", "output_tokens", "tokens_used")
_WANTED_PATTERN = {
    "id": "must be a UUID: 8-4-4-4-12 hexadecimal digits",
    "user_id": "must be a UUID: 8-4-4-4-12 hexadecimal digits",
    "organization_id": "must be a UUID: 8-4-4-4-12 hexadecimal digits",
    "created_at": "must be an RFC 3339 time with its offset, such as 2026-01-31T12:00:00.123456Z",
    "time": "must be an RFC 3339 time with its offset, such as 2026-01-31T12:00:00.123456Z",
}
DEPTH_MAX = 200  # of a whole event: what pydantic's parser takes; Postgres and every Python take it too
_DIGITS_MAX = 400  # of an integer: from 310 digits on it is no finite double
SUGGESTIONS_MAX = 50
_SUGGESTION_CHARACTERS_MAX = 64  # no field's name is near to a longer one
_KNOWN_NAMES = (*EventData.__annotations__, "id", "created_at")
_WANTED_COST = "must be a number, or a string in JSON's grammar of numbers"


_Get = Callable[[str], Any]
_Rule = Callable[[_Get, bytes], object]


def _text_rule(name: str) -> _Rule:
    return lambda get, _: check_storable(get(name) or "", name)


def _metadata_rule(get: _Get, metadata_text: bytes) -> None:
    if get("request_metadata") is not None:
        storable_metadata(get("request_metadata"), metadata_text)


def _cost_rule(get: _Get, _: bytes) -> None:
    if get("estimated_cost_usd") is not None:
        cost_micro_usd(get("estimated_cost_usd"))


def _tokens_rule(get: _Get, _: bytes) -> None:
    settle_tokens(*map(get, _TOKEN_FIELDS))


# Each is asked where the schema has passed the fields that it reads.
_RULES: tuple[tuple[tuple[str, ...], _Rule], ...] = (
    *(((name,), _text_rule(name)) for name in _TEXT_FIELDS),
    (("request_metadata",), _metadata_rule),
    (("estimated_cost_usd",), _cost_rule),
    (_TOKEN_FIELDS, _tokens_rule),
)


class Form(Enum):
    """How one event is written."""

    NATIVE = "native"
    CLOUDEVENT = "cloudevent"


class _Parts(NamedTuple):
    """Where the parts of an event stand in its form."""

    validate: Callable[[Any], Any]
    prefix: str  # of the paths of the event's own fields
    time_field: str
    attribute_errors: Callable[[dict[str, Any]], list[RuleError]]
    to_wire: Callable[[Any], Any]


@cache
def _parts_of(form: Form) -> _Parts:
    if form is Form.NATIVE:
        return _Parts(WIRE_EVENT.validator.validate_python, "", "created_at", lambda _: [], lambda value: value)
    from usage_events import cloudevents  # a producer makes none, and its schema takes a while to build

    return _Parts(
        cloudevents.CLOUD_EVENT.validator.validate_python,
        "data.",
        "time",
        cloudevents.attribute_errors,
        cloudevents.to_wire,
    )


def judge(text: bytes, form: Form, window: Window, metadata_text: bytes | None = None) -> Event | Refusal:
    """The event in `text`, or why it is refused.

    `text` is JSON to the letter (`json_text.outline` takes it). `metadata_text` is that of `request_metadata`, empty
    where there is none; it is looked up where it is not given, which takes longer than all the rest.
    """
    value, unreadable = parse(text)
    if unreadable:
        return Refusal(Reason.INVALID, [FieldError(field="", message=unreadable, input=None)])
    if not isinstance(value, dict):
        return Refusal(Reason.INVALID, [FieldError(field="", message="must be an object", input=value)])
    parts = _parts_of(form)
    errors = _schema_errors(parts, value)
    if metadata_text is None:
        metadata_text = _metadata_text(text, form)
    broken = list(_broken_rules(parts, value, metadata_text, window, {error["field"] for error in errors}))
    for reason in (Reason.INVALID, Reason.TOKEN_MISMATCH, Reason.IN_FUTURE, Reason.TOO_OLD):
        found = [_field_error(value, rule) for rule in broken if rule.reason is reason]
        if reason is Reason.INVALID:
            found = errors + found
        if found:
            return Refusal(reason, found)
    return accept(cast("WireEvent", parts.to_wire(value)), metadata_text, window)


def parse(text: bytes) -> tuple[Any, str]:
    """The value of a JSON text, and why it cannot be read where it cannot ("" where it can)."""
    is_read = True
    value: Any = None
    try:
        value = from_json(text)
    except ValueError:
        is_read = False  # a lone surrogate or a very long integer, which the standard library reads, or deep nesting
    # The parser counts no level for an innermost bracket that is empty.
    if not is_read or text.count(b"[") + text.count(b"{") > DEPTH_MAX:
        levels = depth(text)
        if levels > DEPTH_MAX:
            return None, f"is nested {levels} levels deep; the limit is {DEPTH_MAX}"
    return value if is_read else json.loads(text, parse_int=_integer), ""


def _integer(digits: str) -> int | float:
    # `int` refuses long texts; as a double it is infinite, which the field's own rule then names.
    return int(digits) if len(digits) <= _DIGITS_MAX else float(digits)


def _schema_errors(parts: _Parts, value: dict[str, Any]) -> list[FieldError]:
    readable, unknown = _readable_names(value, "")
    if parts.prefix:
        unknown = []  # an envelope's names have a rule of their own
        if isinstance(value.get("data"), dict):
            readable["data"], unknown = _readable_names(value["data"], parts.prefix)
    try:
        parts.validate(readable)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
    else:
        return unknown
    # A near name helps the reader of a few errors; looking for one among thousands would block a worker.
    suggests = len(details) <= SUGGESTIONS_MAX
    errors: dict[tuple[str, str], FieldError] = {}
    for detail in details:
        found = _from_pydantic(detail, suggests=suggests)
        errors.setdefault((found["field"], found["message"]), found)
    return [*errors.values(), *unknown]


def _readable_names(fields: dict[str, Any], prefix: str) -> tuple[dict[str, Any], list[FieldError]]:
    """The fields without those that have a lone surrogate in their name: at one pydantic gives up on all the others."""
    if "".join(fields).isascii():
        return fields, []
    readable: dict[str, Any] = {}
    unknown: list[FieldError] = []
    for name, value in fields.items():
        shown = name.encode("utf-8", "backslashreplace").decode()
        if shown == name:
            readable[name] = value
        else:
            unknown.append(FieldError(field=prefix + shown, message="unknown field", input=value))
    return readable, unknown


def _from_pydantic(detail: ErrorDetails, *, suggests: bool) -> FieldError:
    path = [str(step) for step in detail["loc"]]
    message = detail["msg"]
    if "estimated_cost_usd" in path and detail["type"] != "extra_forbidden":
        path = path[: path.index("estimated_cost_usd") + 1]  # what follows names the members of the union
        message = _WANTED_COST
    elif detail["type"] == "string_pattern_mismatch":
        message = _WANTED_PATTERN.get(path[-1], message)
    elif detail["type"] == "extra_forbidden":
        near = _near_name(path[-1]) if suggests and len(path[-1]) <= _SUGGESTION_CHARACTERS_MAX else None
        message = f"unknown field; did you mean {near}?" if near else "unknown field"
    elif detail["type"] == "missing":
        return FieldError(field=".".join(path), message="required, but absent", input=None)
    return FieldError(field=".".join(path), message=message, input=detail["input"])


@lru_cache(maxsize=1024)
def _near_name(name: str) -> str | None:
    """The field that was probably meant: a producer's mistake is the same in all of its events."""
    near = difflib.get_close_matches(name, _KNOWN_NAMES, n=1)
    return near[0] if near else None


def _broken_rules(
    parts: _Parts, value: dict[str, Any], metadata_text: bytes, window: Window, wrong: set[str]
) -> list[RuleError]:
    """The rules that are broken by the fields that the schema has passed."""
    broken: list[RuleError] = parts.attribute_errors(value)
    data = value.get("data") if parts.prefix else value
    if isinstance(data, dict):
        for names, rule in _RULES:
            if parts.prefix:
                names = tuple(parts.prefix + name for name in names)  # noqa: PLW2901 - as `wrong` has them
            if wrong.isdisjoint(names):
                try:
                    rule(data.get, metadata_text)
                except RuleError as error:
                    broken.append(RuleError(error.reason, parts.prefix + error.field, error.message))
    if parts.time_field not in wrong:
        try:
            check_time(epoch_us(value[parts.time_field]), window)
        except RuleError as error:
            broken.append(RuleError(error.reason, parts.time_field, error.message))
    return broken


def _field_error(value: dict[str, Any], rule: RuleError) -> FieldError:
    if rule.field in value:  # also a wrong name with a dot in it
        return FieldError(field=rule.field, message=rule.message, input=value[rule.field])
    given: Any = value
    for step in rule.field.split("."):
        given = given.get(step) if isinstance(given, dict) else None
    return FieldError(field=rule.field, message=rule.message, input=given)


def _metadata_text(text: bytes, form: Form) -> bytes:
    """The text of `request_metadata` as it was sent; of a key given twice the last counts."""
    if form is Form.CLOUDEVENT:
        text = _member(text, "data")
    return _member(text, "request_metadata")


def _member(text: bytes, name: str) -> bytes:
    found = b""
    if text.lstrip()[:1] == b"{":
        for child in outline(text)[1]:
            if json.loads(child.key) == name:
                found = child.text
    return found
