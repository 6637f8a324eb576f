"""CloudEvents: whose id is whose, which names are names, and how the envelope becomes an event."""

from uuid import NAMESPACE_URL, UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st
from usage_events.cloudevents import CloudEvent, attribute_errors, event_id, to_wire
from usage_events.contract import Reason
from usage_events.ids import event_id_for as id_for

USER = "019c0000-0000-7000-8000-00000000000a"


def test_id_for_is_the_same_for_ever() -> None:
    """The id made of source and key is fixed: other languages make the same, and so will later versions."""
    assert id_for("urn:example:chat", "call-1") == UUID("53eb1e68-72fd-595b-ac65-4ba3c11538e0")
    assert id_for("a", "b\nc") == uuid5(uuid5(NAMESPACE_URL, "usage-events"), "a\nb\nc")


@given(st.uuids(), st.booleans(), st.text())
def test_uuid_is_its_own_id(identifier: UUID, upper: bool, source: str) -> None:  # noqa: FBT001 - drawn
    """An id that is a UUID is the row's, in either case, whatever the source is."""
    text = str(identifier).upper() if upper else str(identifier)
    assert UUID(event_id(text, source)) == identifier


@pytest.mark.parametrize(
    "identifier",
    ["call-1", f"{{{USER}}}", f"urn:uuid:{USER}", USER.replace("-", ""), USER + "\n", USER + "0", " " + USER],
)
def test_any_other_id_is_made_of_source_and_id(identifier: str) -> None:
    """What is not to the letter a UUID names an event within its source only."""
    assert event_id(identifier, "urn:a") == str(id_for("urn:a", identifier))
    assert event_id(identifier, "urn:a") != event_id(identifier, "urn:b")


@pytest.mark.parametrize("name", ["traceparent", "x1", "0", "data"])
def test_lower_case_letters_and_digits_are_a_name(name: str) -> None:
    """Extension attributes with a proper name are of no interest, whatever they hold."""
    assert attribute_errors({name: {"any": ["thing"]}}) == []


@pytest.mark.parametrize("name", ["", "A", "trace_parent", "trace-parent", "é", "a\n", "٣", "\ud800"])
def test_any_other_name_is_wrong(name: str) -> None:
    """Anything but lower-case letters and digits is no attribute's name, null in it or not."""
    for value in ("x", None):
        (error,) = attribute_errors({"id": "x", name: value})
        assert (error.reason, error.field) == (Reason.INVALID, name)


def test_binary_data_is_not_taken() -> None:
    """`data_base64` is refused, but null in it is the same as absent."""
    (error,) = attribute_errors({"data_base64": "e30="})
    assert (error.field, error.message) == ("data_base64", "is not taken: send `data`, as JSON")
    assert attribute_errors({"data_base64": None}) == []


def test_envelope_becomes_a_native_event() -> None:
    """Id and time come from the envelope, all else from data, which stays as it is."""
    envelope: CloudEvent = {
        "specversion": "1.0",
        "id": USER,
        "source": "urn:a",
        "type": "t",
        "time": "2026-01-31T12:00:00Z",
        "data": {"user_id": USER, "organization_id": USER, "tokens_used": 7},
    }
    assert to_wire(envelope) == {
        "id": USER,
        "created_at": "2026-01-31T12:00:00Z",
        "user_id": USER,
        "organization_id": USER,
        "tokens_used": 7,
    }
    assert "id" not in envelope["data"]
