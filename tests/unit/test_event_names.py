"""An edit keeps the names of events: readable ids stay, missing ones may be given, none is added or removed."""

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.dead_letters.event_names import names_problem

A = "0190a1b2-7c11-7d3e-8f00-5d6a3f0b9c2e"
B = "0190a1b2-7c11-7d3e-8f00-5d6a3f0b9c2f"
CLOUD = "application/cloudevents+json"
CLOUDS = "application/cloudevents-batch+json; charset=utf-8"


def problem(before: Any, after: Any, content_type: str | None = None) -> str:
    """The problem of an edit between two values, or two bodies."""
    was, is_now = (one if isinstance(one, bytes) else json.dumps(one).encode() for one in (before, after))
    return names_problem(was, is_now, content_type)


@pytest.mark.parametrize(
    ("before", "after", "content_type"),
    [
        ({"id": A, "x": 1}, {"id": A}, None),
        ({"id": A}, {"id": A.upper()}, None),
        ({"x": 1}, {"id": A}, None),
        ({"id": "call-7"}, {"id": A}, None),
        ({"id": 7}, {"id": A}, None),
        ({"id": A, "source": "/a"}, {"id": A, "source": "/b"}, None),
        ({"id": A}, [{"id": A}], None),
        ([{"id": A}, {}], [{"id": A}, {"id": B}], None),
        ([{"id": A}, 7], [{"id": A}, {"id": B}], None),
        ({"id": "call-7", "source": "/a"}, {"id": "call-7", "source": "/a", "data": {}}, CLOUD),
        ({"id": "call-7", "source": ""}, {"id": "call-7", "source": "/a"}, CLOUD),
        ({"id": 7, "source": "/a"}, {"id": "7", "source": "/a"}, CLOUD),
        ([{"id": A, "source": "/a"}], [{"id": A, "source": "/a", "x": 1}], CLOUDS),
        (b'{"id": "%b", ' % A.encode(), {"id": A}, None),
        (json.dumps({"id": A}), {"id": A.upper()}, None),
        (b"garbage", [{"id": A}, {"id": B}], None),
        (b"garbage", b"other garbage", None),
        ({}, b"garbage", None),
    ],
)
def test_what_is_kept_or_given(before: Any, after: Any, content_type: str | None) -> None:
    """Ids in either case, given where none could be read; a source only names a CloudEvent."""
    assert problem(before, after, content_type) == ""


@pytest.mark.parametrize(
    ("before", "after", "content_type", "said"),
    [
        ({"id": A}, {"id": B}, None, f"the event's id cannot be changed: '{A}' would become '{B}'"),
        ({"id": A}, {}, None, f"the event's id cannot be changed: '{A}' would become 'absent'"),
        ({"id": A}, {"id": "call-7"}, None, f"the event's id cannot be changed: '{A}' would become 'absent'"),
        (
            [{"id": A}, {"id": B}],
            [{"id": B}, {"id": A}],
            None,
            f"the event's id of element 0 cannot be changed: '{A}' would become '{B}'",
        ),
        ([{"id": A}, {}], [{"id": A}], None, "there are 2 events, and would be 1: an edit adds and removes none"),
        ({"id": A}, [{"id": A}, {}], None, "there is 1 event, and would be 2: an edit adds and removes none"),
        ({"id": A}, [], None, "there is 1 event, and would be 0: an edit adds and removes none"),
        (
            {"id": "call-7", "source": "/a"},
            {"id": "call-8", "source": "/a"},
            CLOUD,
            "the event's id cannot be changed: 'call-7' would become 'call-8'",
        ),
        (
            {"id": A, "source": "/a"},
            {"id": A, "source": "/b"},
            CLOUD,
            "the event's source cannot be changed: '/a' would become '/b'",
        ),
        ({"id": A}, b"garbage", None, "no event could be read any more"),
        (b'{"id": "%b", ' % A.encode(), {"id": B}, None, f"'{A}' stands in the body, and would not any more"),
        (json.dumps({"id": A}), {"id": B}, None, f"'{A}' stands in the body, and would not any more"),
    ],
)
def test_what_is_refused(before: Any, after: Any, content_type: str | None, said: str) -> None:
    """Both names are told; also where no parser reads the body but a reader sees the id."""
    assert said in problem(before, after, content_type)


@given(st.lists(st.none() | st.uuids(), min_size=1, max_size=4), st.lists(st.none() | st.uuids(), max_size=4))
def test_the_rule(before: list[UUID | None], after: list[UUID | None]) -> None:
    """An edit passes exactly where there are as many events as before, and each id that was there stays in place."""
    was, is_now = ([{"id": None if one is None else str(one)} for one in ids] for ids in (before, after))
    passes = len(before) == len(after) and all(
        old is None or old == new for old, new in zip(before, after, strict=False)
    )
    assert (problem(was, is_now) == "") is passes
