"""The judge: every error of the first reason that applies, each with its field, and texts that parsers cannot read."""

import json
import math
from typing import Any

import pytest
from usage_events.contract import Event, Reason, Refusal
from usage_events.judge import Form, judge, parse
from usage_events.rules import Window

UUID = "019c0000-0000-7000-8000-00000000000a"
TIME = "2026-01-31T12:00:00Z"
ANY_TIME = Window(-(2**62), 2**62)
LATER = Window(2**61, 2**62)
DATA: dict[str, Any] = {"user_id": UUID, "organization_id": UUID, "input_tokens": 1}
NATIVE: dict[str, Any] = DATA | {"id": UUID, "created_at": TIME}
CLOUDEVENT: dict[str, Any] = {
    "specversion": "1.0", "id": UUID, "source": "urn:a", "type": "t", "time": TIME, "data": DATA,
}  # fmt: skip


def refusal_of(event: object, form: Form = Form.NATIVE, window: Window = ANY_TIME) -> tuple[Reason, dict[str, Any]]:
    """The reason, and what was given in each wrong field."""
    verdict = judge(json.dumps(event).encode(), form, window)
    assert isinstance(verdict, Refusal)
    return verdict.reason, {error["field"]: error["input"] for error in verdict.errors}


def test_both_forms_of_an_event_are_one() -> None:
    """A native event and the same one in an envelope are the same row."""
    native = judge(json.dumps(NATIVE).encode(), Form.NATIVE, ANY_TIME)
    assert isinstance(native, Event)
    assert judge(json.dumps(CLOUDEVENT).encode(), Form.CLOUDEVENT, ANY_TIME) == native


def test_errors_of_schema_and_rules_are_listed_together() -> None:
    """One reason lists all of its errors, whichever part of the contract found them, each field once."""
    wrong = {"model": 7, "endpoint": "\0", "request_metadata": {"a": {"b": "\0"}}, "estimated_cost_usd": "x", "x": 1}
    reason, found = refusal_of(NATIVE | wrong)
    assert (reason, found) == (Reason.INVALID, wrong)


def test_field_inside_of_an_envelope_is_named_with_its_path() -> None:
    """In a CloudEvent the event's own fields stand under `data`."""
    reason, found = refusal_of(CLOUDEVENT | {"data": DATA | {"model": 7, "endpoint": "\0"}, "Bad": 1}, Form.CLOUDEVENT)
    assert (reason, found) == (Reason.INVALID, {"data.model": 7, "data.endpoint": "\0", "Bad": 1})


@pytest.mark.parametrize(
    ("fields", "window", "reason"),
    [
        ({"tokens_used": 0, "model": 7}, LATER, Reason.INVALID),
        ({"tokens_used": 0}, LATER, Reason.TOKEN_MISMATCH),
        ({}, LATER, Reason.TOO_OLD),
        ({}, Window(-(2**62), 0), Reason.IN_FUTURE),
    ],
)
def test_first_reason_counts(fields: dict[str, Any], window: Window, reason: Reason) -> None:
    """Of several reasons the gravest is given."""
    assert refusal_of(NATIVE | fields, window=window)[0] is reason


def test_name_that_is_no_text_hides_no_other_error() -> None:
    """A lone surrogate in a field's name is one error among the others, not the end of them."""
    wrong = {"\ud800": 1, "model": 7}
    assert refusal_of(NATIVE | wrong)[1] == {"\\ud800": 1, "model": 7}
    assert refusal_of(CLOUDEVENT | {"data": DATA | wrong}, Form.CLOUDEVENT)[1] == {"data.\\ud800": 1, "data.model": 7}
    assert refusal_of(CLOUDEVENT | {"\ud800": 1, "type": 7}, Form.CLOUDEVENT)[1] == {"\ud800": 1, "type": 7}


def test_wrong_name_with_a_dot_shows_what_was_given() -> None:
    """A dot in a name is no path."""
    assert refusal_of(CLOUDEVENT | {"a.b": 7}, Form.CLOUDEVENT)[1] == {"a.b": 7}


@pytest.mark.parametrize("value", [None, True, 7, "x", [NATIVE]])
def test_event_is_an_object(value: object) -> None:
    """Any other JSON is no event."""
    assert refusal_of(value) == (Reason.INVALID, {"": value})


def test_texts_that_one_parser_refuses_are_read_by_another() -> None:
    """Lone surrogates and integers of thousands of digits are values; the fields' own rules judge them."""
    assert parse(b'{"a":"\\ud800"}') == ({"a": "\ud800"}, "")
    assert parse(b"[" + b"9" * 5000 + b",-" + b"9" * 5000 + b"]") == ([math.inf, -math.inf], "")
    assert parse(b"9" * 400) == (10**400 - 1, "")


def test_nesting_past_the_limit_is_said() -> None:
    """Two hundred levels are read, on every interpreter; more are refused with the number."""
    assert parse(b'"\\ud800"')[1] == ""
    assert parse(b"[" * 199 + b'["\\ud800"]' + b"]" * 199)[1] == ""
    deep = b"[" * 5000 + b"]" * 5000
    assert parse(deep) == (None, "is nested 5000 levels deep; the limit is 200")
    verdict = judge(b'{"a":' + deep + b"}", Form.NATIVE, ANY_TIME)
    assert isinstance(verdict, Refusal)
    assert verdict.errors[0]["message"] == "is nested 5001 levels deep; the limit is 200"
