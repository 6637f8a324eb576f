"""Dead letters as values: added up in order, storable whatever a producer sent, with what identity can be read."""

import hashlib
import json
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import ORGANIZATION, USER, array_of, batch_of, body_of, entry_of
from usage_events.cloudevents import event_id
from usage_events.contract import Event, FieldError, Reason, Refusal
from usage_events.ids import event_id_for as id_for
from usage_events.rules import Window

from worker.batch import Batch, Entry, Origin
from worker.dead_letters.letters import (
    ERRORS_MAX,
    HEADERS_CHARACTERS_MAX,
    INPUT_CHARACTERS_MAX,
    DeadLetter,
    add_up,
    fingerprint,
    letter_of_event,
    letters_of_rejects,
    storable,
)
from worker.decode import WHOLE_MESSAGE, Decoded, Reject, decode
from worker.delivery import Delivery, PlainProperties

EVENT_ID = "0198c0de-0000-7000-8000-00000000000a"
CLOUDEVENT = "application/cloudevents+json"
CLOUDEVENTS = "application/cloudevents-batch+json"

ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=30)  # NUL and lone surrogates included
ANY_SCALAR = st.one_of(
    ANY_TEXT,
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**5000), 2**5000),
    st.floats(),
    st.binary(max_size=20),
    st.binary(max_size=20).map(bytearray),
    st.datetimes(timezones=st.just(UTC)),
    st.decimals(),
)
ANY_VALUE = st.recursive(
    ANY_SCALAR,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(ANY_TEXT, values, max_size=4),
    max_leaves=20,
)


def letter_with(refusal: Refusal, body: bytes = b"{}", place: int = 0, **properties: Any) -> DeadLetter:
    """The letter of one reject."""
    batch = Batch(0.0)
    delivery = Delivery(1, 1, body, PlainProperties(**properties), exchange="usage", routing_key="k", queue="q")
    batch.add(Entry(delivery, Decoded([], [], [Reject(place, body, refusal)])))
    (letter,) = letters_of_rejects(batch)
    return letter


def refusal_of(*errors: FieldError) -> Refusal:
    """A refusal with these errors."""
    return Refusal(Reason.INVALID, list(errors))


def rejected(body: bytes, content_type: str | None = None) -> list[DeadLetter]:
    """The letters of what the worker refuses in a message."""
    return letters_of_rejects(batch_of(body, properties=PlainProperties(content_type=content_type)))


def assert_storable(text: str) -> None:
    """What Postgres needs of a text."""
    assert "\x00" not in text
    text.encode()


def assert_jsonb_takes(value: Any) -> None:
    """What `jsonb` needs of a value: nothing in it but storable texts and finite numbers of a bearable size."""
    if isinstance(value, str):
        assert_storable(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            assert_storable(key)
            assert_jsonb_takes(item)
    elif isinstance(value, list):
        for item in value:
            assert_jsonb_takes(item)
    elif isinstance(value, float):
        assert value - value == 0.0
    elif isinstance(value, int):
        assert abs(value) < 2**1024


@given(ANY_TEXT)
def test_any_text_is_made_storable(text: str) -> None:
    """No text is left with a NUL or a lone surrogate; one without them is not touched."""
    made = storable(text)
    assert_storable(made)
    is_sound = "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
    assert (made == text) == is_sound


def test_escapes_are_readable() -> None:
    """NUL and lone surrogates are written out, so an operator sees what was there."""
    assert storable("a\x00b\ud800ü") == "a\\x00b\\ud800ü"


@given(st.dictionaries(ANY_TEXT, ANY_VALUE, max_size=4))
def test_any_headers_are_made_storable(headers: dict[str, Any]) -> None:
    """Whatever a table of headers holds, its JSON is one that a database takes."""
    letter = letter_with(refusal_of(), headers=headers)
    assert_storable(letter.headers_json)
    assert "\\u0000" not in letter.headers_json.replace("\\\\", "")
    assert_jsonb_takes(json.loads(letter.headers_json))


@given(ANY_TEXT, ANY_TEXT, ANY_VALUE)
def test_any_error_is_made_storable(field: str, message: str, given_value: Any) -> None:
    """The same for errors: field, message and input may repeat what the producer sent."""
    letter = letter_with(refusal_of(FieldError(field=field, message=message, input=given_value)))
    assert_storable(letter.errors_json)
    assert_jsonb_takes(json.loads(letter.errors_json))


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_any_property_is_made_storable(content_type: str, app_id: str, user_id: str, key: str, model: str) -> None:
    """So are the properties, the routing key and the model that a refused event names."""
    batch = Batch(0.0)
    body = json.dumps({"model": model, "no_such_field": 1}).encode()
    properties = PlainProperties(content_type=content_type, app_id=app_id, user_id=user_id)
    batch.add(entry_of(body, properties=properties, exchange=key, routing_key=key, queue=key))
    (letter,) = letters_of_rejects(batch)
    texts = (letter.content_type, letter.app_id, letter.amqp_user, letter.exchange, letter.routing_key, letter.queue)
    for text in (*texts, letter.model or ""):
        assert text is not None
        assert_storable(text)


def test_values_of_headers_stay_readable() -> None:
    """Types that JSON lacks are written as texts that say what they were."""
    headers = {"at": datetime(2026, 1, 2, tzinfo=UTC), "raw": b"\xff\x00", "cost": Decimal("1.50"), "nan": float("nan")}
    assert json.loads(letter_with(refusal_of(), headers=headers).headers_json) == {
        "at": "2026-01-02T00:00:00+00:00",
        "raw": "\\xff\\x00",
        "cost": "1.50",
        "nan": "nan",
    }


def test_sizes_are_bounded() -> None:
    """Long inputs, many errors and large or deep headers are cut: the body has the whole."""
    errors = [FieldError(field="f", message="m", input="x" * (INPUT_CHARACTERS_MAX + 1)) for _ in range(ERRORS_MAX + 1)]
    deep: Any = "bottom"
    for _ in range(500):
        deep = [deep]
    letter = letter_with(refusal_of(*errors), headers={"big": "y" * HEADERS_CHARACTERS_MAX})
    shown = json.loads(letter.errors_json)
    assert len(shown) == ERRORS_MAX
    assert shown[0]["input"] == "x" * INPUT_CHARACTERS_MAX + f"… ({INPUT_CHARACTERS_MAX + 1} characters)"
    assert list(json.loads(letter.headers_json)) == ["truncated"]
    assert "bottom" not in letter_with(refusal_of(), headers={"deep": deep}).headers_json


@given(st.lists(st.tuples(st.sampled_from(['"a"', "1", "[]", "{}"]), st.integers(1, 9))))
def test_adding_up(bodies: list[tuple[str, int]]) -> None:
    """One letter a body, in the order of the fingerprints; the sum of the occurrences stays."""
    letters = []
    for body, occurrences in bodies:
        letters += [letter_with(refusal_of(), body.encode())] * occurrences
    added = add_up(letters)
    assert [letter.fingerprint for letter in added] == sorted({letter.fingerprint for letter in letters})
    assert {letter.body.decode(): letter.occurrences for letter in added} == Counter(
        {body: sum(count for other, count in bodies if other == body) for body, _ in bodies}
    )


def test_fingerprint() -> None:
    """SHA-256 of content type, line feed, body: the same body as another type is another letter."""
    assert fingerprint("application/json", b"{}") == hashlib.sha256(b"application/json\n{}").digest()
    assert letter_with(refusal_of()).fingerprint == fingerprint("application/json", b"{}")
    assert letter_with(refusal_of(), content_type="text/plain").fingerprint == fingerprint("text/plain", b"{}")


def test_identity_of_a_native_event() -> None:
    """Ids and model are read where they are readable, whatever else is wrong."""
    (letter,) = rejected(body_of(id=EVENT_ID, model="m-1", input_tokens=-1))
    identity = (letter.event_id, letter.user_id, letter.organization_id, letter.model)
    assert (letter.reason, identity) == (Reason.INVALID, (EVENT_ID, str(USER), str(ORGANIZATION), "m-1"))


def test_identity_of_cloudevents() -> None:
    """The envelope's id is the event's, a name of the source's own by its UUIDv5; the rest is read from `data`."""
    data = {"user_id": str(USER), "organization_id": "no uuid", "model": "m", "input_tokens": "many"}
    bodies = [
        json.dumps({"specversion": "1.0", "type": "t", "source": "/s", "id": identifier, "data": data}).encode()
        for identifier in (EVENT_ID, "call-7")
    ]
    for letters in (
        [*rejected(bodies[0], CLOUDEVENT), *rejected(bodies[1], CLOUDEVENT)],
        rejected(array_of(bodies), CLOUDEVENTS),
    ):
        assert [letter.event_id for letter in letters] == [EVENT_ID, event_id("call-7", "/s")]
        assert [(letter.user_id, letter.organization_id, letter.model) for letter in letters] == [
            (str(USER), None, "m")
        ] * 2
        assert {letter.content_type for letter in letters} == {CLOUDEVENT}, "a piece of a batch is a single one"
        assert [letter.body for letter in letters] == bodies


@pytest.mark.parametrize("suffix", ["\n", " ", "\x00", "}"])
def test_an_id_with_more_than_an_id_in_it_is_none(suffix: str) -> None:
    """A text that only begins like a UUID is no identity, and no error either: it would come again for ever."""
    (letter,) = rejected(body_of(id=EVENT_ID + suffix, user_id=str(USER) + suffix))
    assert (letter.event_id, letter.user_id, letter.reason) == (None, None, Reason.INVALID)


@given(
    st.recursive(
        st.none() | ANY_TEXT | st.integers() | st.just(EVENT_ID), lambda v: st.lists(v) | st.dictionaries(ANY_TEXT, v)
    )
)
def test_identity_never_raises(value: Any) -> None:
    """Whatever stands where an id, a source, `data` or a model should be, the letter is written."""
    for content_type in (None, CLOUDEVENT):
        body = {"id": value, "source": value, "user_id": value, "organization_id": value, "model": value, "data": value}
        assert len(rejected(json.dumps(body).encode(), content_type)) == 1


@pytest.mark.parametrize("body", [b"\xff\xfe", b"[1", b"nonsense"])
def test_a_whole_message_has_no_identity(body: bytes) -> None:
    """A message that is not JSON is kept as it came; ids that may stand in it are not guessed."""
    (letter,) = rejected(body)
    assert (letter.reason, letter.body, letter.event_id) == (Reason.BAD_JSON, body, None)


def test_a_whole_batch_keeps_its_content_type() -> None:
    """A letter that holds a whole batch is of the batch's type, so that it is decoded as one when it is replayed."""
    (letter,) = rejected(b"[1", CLOUDEVENTS)
    assert letter.content_type == CLOUDEVENTS


def test_letter_of_an_accepted_event() -> None:
    """An event that the database's state refuses: its own bytes out of the message, with its identity."""
    bodies = [body_of(), body_of(id=EVENT_ID, model="m-2")]
    entry = entry_of(array_of(bodies), properties=PlainProperties(app_id="app", user_id="amqp"), routing_key="usage.x")
    event: Event = entry.decoded.events[1]
    letter = letter_of_event(Origin(entry.delivery, 1), event, Refusal(Reason.UNKNOWN_USER, []))
    assert (letter.body, UUID(letter.event_id), letter.model) == (bodies[1], UUID(EVENT_ID), "m-2")
    assert (letter.reason, letter.app_id, letter.amqp_user) == (Reason.UNKNOWN_USER, "app", "amqp")
    assert (letter.routing_key, letter.occurrences, letter.user_id) == ("usage.x", 1, USER.hex)


def test_whole_message_rejects_are_letters_too() -> None:
    """The dead queue's messages are never decoded: the letter holds the raw bytes and no identity."""
    refusal = Refusal(Reason.DELIVERY_LIMIT, [FieldError(field="", message="too often", input=None)])
    letter = letter_with(refusal, body_of(id=EVENT_ID), place=WHOLE_MESSAGE)
    assert (letter.reason, letter.event_id, json.loads(letter.errors_json)[0]["message"]) == (
        Reason.DELIVERY_LIMIT,
        None,
        "too often",
    )


def test_a_cloudevents_letter_has_the_id_of_its_row_whatever_its_text_holds() -> None:
    """A NUL in id or source is part of the name that the UUIDv5 is made from, as it is for an accepted event."""
    body = rb'{"specversion":"1.0","id":"a\u0000b","source":"s","type":"t","time":"never","data":{}}'
    decoded = decode(body, "application/cloudevents+json", None, Window(0, 2**62))
    delivery = Delivery(1, 1, body, PlainProperties(content_type="application/cloudevents+json"))
    batch = Batch(0.0)
    batch.add(Entry(delivery, decoded))
    (letter,) = letters_of_rejects(batch)
    assert letter.event_id == str(id_for("s", "a\x00b"))
