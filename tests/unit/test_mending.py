"""Mending: what an edit makes of a body is judged by the worker's rules before anybody saves it."""

import json
from typing import Any
from uuid import uuid4

import pytest
from makers import ANY_TIME, ORGANIZATION, USER, array_of, body_of
from usage_events.rules import Window

from worker.dead_letters.json_edit import parse_rename, parse_set, parse_unset
from worker.dead_letters.letters import Identity
from worker.dead_letters.mending import Change, Mended, Outcome, by_edits, identity_after, mend

RENAME = by_edits([parse_rename("input_token=input_tokens")])
CLOUD = "application/cloudevents+json"


def mended(
    body: bytes, change: Change, content_type: str | None = None, *, is_forced: bool = False, window: Window = ANY_TIME
) -> Mended:
    """What comes out, at any time but for what `window` says."""
    return mend(body, content_type, change, window, is_forced=is_forced)


def misnamed(**fields: Any) -> bytes:
    """An event with a field that the contract does not know; a number in it has to keep its digits."""
    return body_of(**fields).replace(b"input_tokens", b"input_token").replace(b"}", b', "estimated_cost_usd": 1.10}')


def test_a_mended_event() -> None:
    """The result passes the worker's own decoder, and nothing else has changed."""
    before = misnamed()
    done = mended(before, RENAME)
    assert (done.outcome, done.errors) == (Outcome.EDITED, [])
    assert done.after == before.replace(b"input_token", b"input_tokens")
    assert mended(done.after, RENAME) == Mended(Outcome.UNCHANGED, done.after, done.after)


def test_what_would_still_be_refused() -> None:
    """It comes with the contract's errors and reasons, and is saved where that is forced."""
    before = misnamed(output_tokens=-1)
    done = mended(before, RENAME)
    assert done.outcome is Outcome.REFUSED
    assert [(error["reason"], error["place"], error["field"]) for error in done.errors] == [
        ("invalid", None, "output_tokens")
    ]
    forced = mended(before, RENAME, is_forced=True)
    assert (forced.outcome, forced.after, forced.is_forced) == (Outcome.EDITED, done.after, True)


def test_the_time_is_the_callers() -> None:
    """An event is judged inside the window given, not by the clock."""
    done = mended(misnamed(), RENAME, window=Window(0, 10**15))
    assert (done.outcome, done.errors[0]["reason"]) == (Outcome.REFUSED, "in_future")


def test_each_event_of_an_array() -> None:
    """Errors name the element's place; all must pass."""
    every = by_edits([parse_rename("*.input_token=input_tokens")])
    assert mended(array_of([misnamed(), misnamed()]), every).outcome is Outcome.EDITED
    done = mended(array_of([misnamed(), misnamed(model=7), misnamed()]), every)
    assert (done.outcome, [error["place"] for error in done.errors]) == (Outcome.REFUSED, [1])


@pytest.mark.parametrize(
    ("body", "edits", "message"),
    [
        (b"{", [parse_unset("a")], "the body is not JSON (the text ends where a key or }"),
        (array_of([body_of()]), [parse_unset("model")], "'model' in an array: write an index, or *"),
        (array_of([body_of(), body_of()]), [parse_unset("0")], "there are 2 events, and would be 1"),
        (body_of(), [parse_set("id=7")], "the event's id cannot be changed"),
        (body_of(), [parse_rename("input_tokens=output_tokens")], "'output_tokens' is there already"),
        (body_of(), [parse_set("data.model=x")], "--set data.model: nothing is there"),
    ],
)
def test_what_cannot_be_done(body: bytes, edits: list[Any], message: str) -> None:
    """It says why, and force does not help."""
    done = mended(body, by_edits(edits), is_forced=True)
    assert done.outcome is Outcome.IMPOSSIBLE
    assert message in done.message


def test_edits_in_the_order_given() -> None:
    """Each starts from what those before it made; what is not there to rename or remove is passed over."""
    change = by_edits([parse_unset("nothing"), parse_rename("a=b"), parse_set("b=2"), parse_rename("b=c")])
    assert change(b'{"a":1.10, "d":1.10}') == b'{"c":2, "d":1.10}'


def test_who_an_edited_event_is_of() -> None:
    """Filters find it by what it says now; an array, and what is no JSON, says nothing."""
    identifier = str(uuid4())
    event = json.loads(body_of(id=identifier, model="gpt"))
    done = mended(b"garbage", lambda _: json.dumps(event).encode())
    assert identity_after(done, None) == Identity(identifier, str(USER), str(ORGANIZATION), "gpt")
    envelope = {"id": identifier, "source": "/a", "data": event}
    done = mended(b"garbage", lambda _: json.dumps(envelope).encode(), CLOUD, is_forced=True)
    assert identity_after(done, CLOUD) == Identity(identifier, str(USER), str(ORGANIZATION), "gpt")
    for body in (b"[%b]" % json.dumps(event).encode(), b"other garbage"):
        done = Mended(Outcome.EDITED, b"garbage", body)
        assert identity_after(done, None) == Identity()
