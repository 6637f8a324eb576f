"""The contract's own consistency: with the table, with CloudEvents, with the order of reasons, with its patterns."""

import re
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError
from usage_events import contract
from usage_events.cloudevents import CloudEvent
from usage_events.contract import EventData, Reason, WireEvent

MIGRATION = Path(__file__).parent.parent.parent / "schema" / "migrations" / "0001_usage_logs.sql"
UUID = "019c0000-0000-7000-8000-00000000000A"
TIME = "2026-01-31T12:00:00Z"
GOOD = {"id": UUID, "user_id": UUID, "organization_id": UUID, "input_tokens": 1, "created_at": TIME}


@pytest.mark.parametrize(
    ("column", "characters_max"),
    [
        ("endpoint", contract.ENDPOINT_CHARACTERS_MAX),
        ("model", contract.MODEL_CHARACTERS_MAX),
        ("request_type", contract.REQUEST_TYPE_CHARACTERS_MAX),
    ],
)
def test_text_is_as_long_as_its_column(column: str, characters_max: int) -> None:
    """The longest text that is accepted fits the column, and no shorter limit is set than the column's."""
    table = MIGRATION.read_text(encoding="utf-8")
    widths = re.findall(rf"^\s*{column}\s+VARCHAR\((\d+)\)", table, re.MULTILINE | re.IGNORECASE)
    assert [int(width) for width in widths] == [characters_max]


def test_cost_fits_its_column() -> None:
    """The limit of the cost is what NUMERIC(10,6) holds."""
    ((precision, scale),) = re.findall(
        r"estimated_cost_usd\s+NUMERIC\((\d+),\s*(\d+)\)", MIGRATION.read_text(encoding="utf-8"), re.IGNORECASE
    )
    assert scale == "6"
    assert 10 ** int(precision) == contract.COST_MICRO_USD_LIMIT


def test_reasons_stand_in_the_order_of_precedence() -> None:
    """Where several reasons apply the first counts; their order is part of the contract."""
    assert [reason.value for reason in Reason] == [
        "unsupported_content_type", "too_large", "bad_json", "invalid", "token_mismatch", "in_future", "too_old",
        "unknown_user", "unknown_organization", "id_conflict", "rejected_by_database", "delivery_limit",
    ]  # fmt: skip


def test_cloudevent_holds_the_native_event() -> None:
    """`data` has every field of the native event but id and time, which stand in the envelope."""
    assert set(WireEvent.__annotations__) - set(EventData.__annotations__) == {"id", "created_at"}
    assert {"id", "time", "data"} <= set(CloudEvent.__annotations__)


def errors_of(adapter: TypeAdapter[WireEvent], event: dict[str, object]) -> set[tuple[str, str]]:
    """The field and the kind of each error that the schema finds."""
    try:
        adapter.validate_python(event)
    except ValidationError as error:
        return {(str(detail["loc"][0]), detail["type"]) for detail in error.errors()}
    return set()


def test_good_event_passes_and_null_is_absent() -> None:
    """The schema takes an event with its required fields, and null in each of the others."""
    optional = set(WireEvent.__annotations__) - set(WireEvent.__required_keys__)
    assert errors_of(contract.WIRE_EVENT, GOOD) == set()
    assert errors_of(contract.WIRE_EVENT, dict.fromkeys(optional, None) | GOOD) == set()


@pytest.mark.parametrize("name", sorted(WireEvent.__required_keys__))
def test_required_field_is_required(name: str) -> None:
    """Without a required field, and with null in it, an event does not pass."""
    absent = {key: value for key, value in GOOD.items() if key != name}
    assert errors_of(contract.WIRE_EVENT, absent) == {(name, "missing")}
    assert errors_of(contract.WIRE_EVENT, absent | {name: None}) == {(name, "string_type")}


@pytest.mark.parametrize("name", ["id", "user_id", "organization_id", "created_at"])
@pytest.mark.parametrize("around", ["{}\n", " {}", "{} ", "\n{}", "{}x"])
def test_patterns_are_anchored(name: str, around: str) -> None:
    """A text with anything before or after it does not pass, a line feed included."""
    text = around.format(GOOD[name])
    assert errors_of(contract.WIRE_EVENT, GOOD | {name: text}) == {(name, "string_pattern_mismatch")}


def test_unknown_field_is_forbidden() -> None:
    """A field of no version is refused, never ignored."""
    assert errors_of(contract.WIRE_EVENT, GOOD | {"input_token": 1}) == {("input_token", "extra_forbidden")}
