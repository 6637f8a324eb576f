"""Redaction: nothing of the metadata comes through, whatever the body looks like; the contract's fields do."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.dead_letters.redaction import HIDDEN, redact_body, redact_errors, redact_note

SECRET = "ada@example.com"
EVENT = {"id": "1", "model": "gpt", "input_tokens": 5, "request_metadata": {"mail": SECRET}}


@pytest.mark.parametrize(
    "body",
    [
        EVENT,
        [EVENT, EVENT],
        {"specversion": "1.0", "source": "/a", "data": EVENT},
        [{"source": "/a", "data": EVENT}],
        {"request_metadat": {"mail": SECRET}},
        {"metadata": SECRET},
        {"request_metadata": SECRET},
        {"data": json.dumps(EVENT)},
        {"data": [EVENT]},
        {"model": {"mail": SECRET}},
        [[EVENT]],
        [SECRET],
        json.dumps(EVENT),
    ],
)
def test_metadata_is_hidden_wherever_it_is(body: Any) -> None:
    """Under its name, a wrong one, in a CloudEvent, encoded twice, nested: it does not come through."""
    hidden = redact_body(json.dumps(body).encode())
    assert SECRET.encode() not in hidden
    assert HIDDEN in json.dumps(json.loads(hidden))


@pytest.mark.parametrize("body", [b"\xff" + SECRET.encode(), b'{"request_metadata": "' + SECRET.encode(), b""])
def test_what_is_no_json_is_hidden_whole(body: bytes) -> None:
    """Where nobody can tell where the metadata stands, size and place of the error are all that is shown."""
    hidden = redact_body(body).decode()
    assert hidden.startswith(f"{HIDDEN}: {len(body)} bytes that are not JSON: ")
    assert "ada" not in hidden


def test_the_contracts_fields_stay_as_they_were_written() -> None:
    """What can be shown is not written anew."""
    body = b'{"id":"x", "estimated_cost_usd":1.10, "tokens_used" : 12345678901234567890, "retries":3, "flag":true}'
    assert redact_body(body) == (
        b'{"id": "x", "estimated_cost_usd": 1.10, "tokens_used": 12345678901234567890, "retries": 3, "flag": true}'
    )


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_the_result_is_json_without_the_metadata(metadata: Any) -> None:
    """Of any metadata nothing is left, and the rest can be read as before."""
    read = json.loads(redact_body(json.dumps(EVENT | {"request_metadata": [metadata]}).encode()))
    assert read == EVENT | {"request_metadata": HIDDEN}


def error(field: str, given_input: Any, message: str = "is wrong") -> dict[str, Any]:
    """An error as it is kept."""
    return {"field": field, "message": message, "input": given_input}


@pytest.mark.parametrize(
    "wrong",
    [
        error("request_metadata", {"mail": SECRET}),
        error("request_metadata.mail", SECRET),
        error("request_metadata", 5, f"has '{SECRET}'"),
        error("metadata", SECRET),
        error("", SECRET, f"'{SECRET}' where a comma is expected"),
        error("", None, f"'{SECRET}' where a value is expected, at byte 0"),
        error("data", [SECRET]),
        error("model", {"mail": SECRET}),
        error("model", json.dumps({"mail": SECRET})),
    ],
)
def test_inputs_that_may_be_metadata_are_hidden(wrong: dict[str, Any]) -> None:
    """Neither the input nor what the message quotes of it is shown."""
    (hidden,) = redact_errors([wrong])
    assert SECRET not in json.dumps(hidden)
    assert hidden["input"] == HIDDEN
    assert hidden["field"] == wrong["field"]


@pytest.mark.parametrize(
    "shown",
    [
        error("", None, "content_type 'text/plain'"),
        error("model", "gpt"),
        error("data.input_tokens", "5"),
        error("input_token", 5),
    ],
)
def test_other_inputs_are_shown(shown: dict[str, Any]) -> None:
    """What the contract names, and numbers, help to understand and are no metadata."""
    assert redact_errors([shown]) == [shown]


def test_the_note_of_an_edit_is_hidden() -> None:
    """It holds the difference of two bodies; an operator's own note is theirs."""
    assert redact_note("edit", "- mail: ada") == HIDDEN
    assert redact_note("discard", "asked the team") == "asked the team"
    assert redact_note("edit", None) is None
