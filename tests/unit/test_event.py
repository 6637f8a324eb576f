"""UsageEvent: whatever can be made is accepted by the worker with the same values, and nothing else can be made."""

import copy
import pickle
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from uuid import UUID

import pytest
import usage_events
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from usage_events import UsageEvent, event_id_for
from usage_events.contract import MAX_AGE_SECONDS, MAX_AHEAD_SECONDS
from usage_events.rules import Window

from worker.decode import decode

USER = UUID("019c0000-0000-7000-8000-00000000000a")
ORGANIZATION = UUID("019c0000-0000-7000-8000-00000000000b")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def make(**fields: Any) -> UsageEvent:
    """A good event, but for what `fields` say."""
    good: dict[str, Any] = {"user_id": USER, "organization_id": ORGANIZATION, "input_tokens": 7}
    return UsageEvent(**good | fields)


def window() -> Window:
    """What the worker accepts now."""
    return Window.around(time.time_ns() // 1000, max_age_seconds=MAX_AGE_SECONDS, max_ahead_seconds=MAX_AHEAD_SECONDS)


TOKENS = st.none() | st.integers(-1, 2**31)
TEXTS = st.none() | st.text(st.characters(), max_size=6) | st.sampled_from(["x" * 50, "x" * 51, "🦉" * 255])
METADATA = st.none() | st.dictionaries(
    st.text(st.characters(), max_size=4),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
        max_leaves=5,
    ),
    max_size=3,
)
COSTS = st.none() | st.floats() | st.floats(0, 10_001) | st.decimals() | st.decimals(0, 10_001) | st.integers(0, 9999)
ZONES = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@settings(max_examples=500)
@given(
    fields=st.fixed_dictionaries(
        {},
        optional={
            "id": st.uuids(), "input_tokens": TOKENS, "output_tokens": TOKENS, "tokens_used": TOKENS, "endpoint": TEXTS,
            "model": TEXTS, "request_type": TEXTS, "request_metadata": METADATA, "estimated_cost_usd": COSTS,
        },
    ),
    age_seconds=st.floats(-310, 310),
    zone=ZONES,
)  # fmt: skip
def test_what_can_be_made_is_accepted_with_its_values(
    fields: dict[str, Any], age_seconds: float, zone: timezone
) -> None:
    """The worker's decoder reads from an event's JSON what the producer put into it, value for value."""
    moment = (datetime.now(UTC) - timedelta(seconds=age_seconds)).astimezone(zone)
    try:
        event = make(created_at=moment, **fields)
    except ValidationError:
        return
    decoded = decode(event.to_json(), "application/json", None, window())
    assert not decoded.rejects
    (read,) = decoded.events
    assert (read.id, read.user_id, read.organization_id) == (event.id.bytes, USER.bytes, ORGANIZATION.bytes)
    assert EPOCH + timedelta(microseconds=read.created_at_us) == moment
    assert (read.endpoint, read.model, read.request_type) == (event.endpoint, event.model, event.request_type)
    for given_tokens, stored in ((event.input_tokens, read.input_tokens), (event.tokens_used, read.tokens_used)):
        assert given_tokens in {None, stored}
    assert (read.metadata_json is None) == (event.request_metadata is None)
    cost = event.estimated_cost_usd
    assert read.cost_given == (cost is not None)
    if cost is not None:
        exact = cost if isinstance(cost, Decimal) else Decimal(repr(cost))
        assert Decimal(read.cost_micro_usd or 0).scaleb(-6) == exact.quantize(Decimal("0.000001"), ROUND_HALF_UP)


def test_defaults() -> None:
    """An id is a fresh UUIDv7, the time is now in UTC, and ids given as text are ids."""
    before = datetime.now(UTC)
    event, other = make(user_id=str(USER).upper()), make()
    assert (event.id.version, event.user_id) == (7, USER)
    assert event.id < other.id
    assert before <= event.created_at <= datetime.now(UTC)


def test_json_is_compact_and_exact() -> None:
    """The JSON has no blanks and no nulls; the cost is text, the time has six digits and a Z."""
    moment = datetime.now(timezone(timedelta(hours=2))).replace(microsecond=120)
    event = make(id=USER, created_at=moment, model="é", estimated_cost_usd=Decimal("0.10"), request_metadata={"a": [1]})
    shown = f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.000120Z"
    assert event.to_json().decode() == (
        f'{{"id":"{USER}","user_id":"{USER}","organization_id":"{ORGANIZATION}","created_at":"{shown}",'
        '"input_tokens":7,"model":"é","estimated_cost_usd":"0.10","request_metadata":{"a":[1]}}'
    )


NOW = datetime.now(UTC)


@pytest.mark.parametrize(
    ("fields", "errors"),
    [
        ({"input_tokens": None}, {"tokens_used": "invalid"}),
        ({"tokens_used": 6}, {"tokens_used": "token_mismatch"}),
        ({"created_at": NOW + timedelta(hours=1)}, {"created_at": "in_future"}),
        ({"created_at": NOW - timedelta(days=36)}, {"created_at": "too_old"}),
        ({"created_at": NOW.replace(tzinfo=None)}, {"created_at": "timezone_aware"}),
        ({"created_at": datetime.max.replace(tzinfo=timezone(-timedelta(hours=1)))}, {"created_at": "value_error"}),
        ({"created_at": "2026-01-31T12:00:00Z"}, {"created_at": "datetime_type"}),
        ({"endpoint": "x" * 256, "model": "\0"}, {"endpoint": "invalid", "model": "invalid"}),
        ({"request_type": "\ud800"}, {"request_type": "invalid"}),
        ({"request_metadata": {"a": 10**5000}}, {"request_metadata": "invalid"}),
        ({"request_metadata": {"a": 10**400}}, {"request_metadata": "invalid"}),
        ({"request_metadata": {"a": "x" * 16384}}, {"request_metadata": "invalid"}),
        ({"estimated_cost_usd": Decimal(10_000)}, {"estimated_cost_usd": "invalid"}),
        ({"estimated_cost_usd": -0.1}, {"estimated_cost_usd": "invalid"}),
        ({"user_id": "{" + str(USER) + "}"}, {"user_id": "string_pattern_mismatch"}),
        ({"id": str(USER) + "\n"}, {"id": "string_pattern_mismatch"}),
        ({"input_tokens": True}, {"input_tokens": "int_type"}),
        ({"input_tokens": 2**31}, {"input_tokens": "less_than_equal"}),
        ({"input_token": 7}, {"input_token": "extra_forbidden"}),
    ],
)  # fmt: skip
def test_what_the_worker_would_refuse_cannot_be_made(fields: dict[str, Any], errors: dict[str, str]) -> None:
    """Each error names its field; where the rules find it, its type is the worker's reason."""
    with pytest.raises(ValidationError) as error:
        make(**fields)
    assert {detail["loc"][0]: detail["type"] for detail in error.value.errors()} == errors


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), Decimal("NaN"), Decimal("-Infinity"), "0.1", True])
def test_cost_is_a_finite_number(cost: object) -> None:
    """What is no finite decimal or float is no cost."""
    with pytest.raises(ValidationError, match="estimated_cost_usd"):
        make(estimated_cost_usd=cost)


@pytest.mark.parametrize("value", [float("nan"), (1,), {1: 2}, Decimal(1), NOW, b"x"])
def test_metadata_is_json(value: object) -> None:
    """What JSON has no word for is refused where it is made, not turned into something else."""
    with pytest.raises(ValidationError, match="request_metadata"):
        make(request_metadata={"a": value})


def test_event_never_changes() -> None:
    """Fields cannot be set, and a list that the caller changes afterwards does not change what is sent."""
    tags = ["a"]
    event = make(request_metadata={"tags": tags})
    before = event.to_json()
    tags.append("b")
    with pytest.raises(ValidationError, match="frozen"):
        event.model = "x"
    assert event.to_json() == before


def test_copies_are_the_same_event_and_changed_ones_are_judged() -> None:
    """A copy sends the same bytes; a copy with other values sends those, and cannot break a rule."""
    event = make(tokens_used=9)
    for same in (event.model_copy(), copy.deepcopy(event), pickle.loads(pickle.dumps(event))):
        assert (same, same.to_json()) == (event, event.to_json())
    changed = event.model_copy(update={"model": "x"})
    assert (changed.id, changed.model) == (event.id, "x")
    assert b'"model":"x"' in changed.to_json()
    with pytest.raises(ValidationError, match="less than its part"):
        event.model_copy(update={"tokens_used": 1})


def test_id_for_is_that_of_a_cloudevent() -> None:
    """An event that is known by another name gets the id that the worker gives to a CloudEvent of that name."""
    assert UsageEvent.id_for("urn:a", "1") == event_id_for("urn:a", "1")


def test_public_names_exist() -> None:
    """Every name that the package promises can be had, and another one cannot."""
    assert set(usage_events.__all__) <= set(dir(usage_events))
    for name in usage_events.__all__:
        assert getattr(usage_events, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        usage_events.nothing  # noqa: B018 - the access is what is tested


def test_making_events_does_not_load_the_brokers_library() -> None:
    """A service that only makes events, or only imports the package, pays for no more."""
    program = "import sys, usage_events; usage_events.UsageEvent; sys.exit('aio_pika' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
