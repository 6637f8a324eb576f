"""Decode: whatever bytes arrive become events and rejects, each element judged alone, both paths by one contract."""

import itertools
import json
from datetime import datetime

import pytest
from event_texts import NOW_TEXT, UUID_TEXT, damaged, event_texts, json_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from usage_events.contract import MAX_AGE_SECONDS, MAX_AHEAD_SECONDS, Event, Reason
from usage_events.envelope import CONTENT_TYPE_CLOUDEVENT, CONTENT_TYPE_CLOUDEVENTS_BATCH, CONTENT_TYPE_JSON
from usage_events.json_text import Child, Kind, NotJsonError, outline
from usage_events.judge import Form, judge
from usage_events.rules import Window

from worker.decode import WHOLE_MESSAGE, Decoded, Media, decode, event_text, media_of
from worker.fast_path import CLOUDEVENT, NATIVE

WINDOW = Window.around(
    round(datetime.fromisoformat(NOW_TEXT).timestamp()) * 1_000_000,
    max_age_seconds=MAX_AGE_SECONDS,
    max_ahead_seconds=MAX_AHEAD_SECONDS,
)
ONE = {Form.NATIVE: CONTENT_TYPE_JSON, Form.CLOUDEVENT: CONTENT_TYPE_CLOUDEVENT}
FAST = {Form.NATIVE: NATIVE, Form.CLOUDEVENT: CLOUDEVENT}
MANY = {Form.NATIVE: CONTENT_TYPE_JSON, Form.CLOUDEVENT: CONTENT_TYPE_CLOUDEVENTS_BATCH}
FORMS = pytest.mark.parametrize("form", list(Form))
CONTENT_TYPES = st.sampled_from([None, *(media.value for media in Media)])


def is_json(body: bytes) -> bool:
    """Is it JSON to the letter?"""
    try:
        outline(body)
    except NotJsonError:
        return False
    return True


def check_books(body: bytes, decoded: Decoded) -> None:
    """Each event of the message is in exactly one place, or the whole message is refused once."""
    places = sorted([*decoded.places, *(reject.place for reject in decoded.rejects)])
    if WHOLE_MESSAGE in places:
        assert places == [WHOLE_MESSAGE]
        assert decoded.rejects[0].body == body
    else:
        assert places == list(range(len(places)))
        assert len(decoded.events) == len(decoded.places)
        assert places
        for reject in decoded.rejects:
            assert reject.body == event_text(body, reject.place)
    for reject in decoded.rejects:
        assert reject.refusal.errors, "a reject says what is wrong"
        assert (reject.refusal.reason is Reason.BAD_JSON) == (reject.place == WHOLE_MESSAGE and not is_json(body))


@settings(max_examples=1000)
@given(st.binary(max_size=60) | json_texts() | damaged(json_texts()), CONTENT_TYPES)
def test_any_bytes_become_events_or_rejects(body: bytes, content_type: str | None) -> None:
    """No bytes make it raise, and what is not JSON, and only that, is `bad_json`."""
    check_books(body, decode(body, content_type, None, WINDOW))


@FORMS
@settings(max_examples=600)
@given(data=st.data())
def test_damaged_events_become_events_or_rejects(form: Form, data: st.DataObject) -> None:
    """Nor does an event that was damaged on the way, alone or in an array."""
    body = data.draw(damaged(event_texts(form)))
    check_books(body, decode(body, ONE[form], None, WINDOW))
    array = b"[" + body + b" , " + data.draw(event_texts(form)) + b"]"
    check_books(array, decode(array, MANY[form], None, WINDOW))


@FORMS
@settings(max_examples=1000)
@given(data=st.data())
def test_fast_and_careful_path_agree(form: Form, data: st.DataObject) -> None:
    """For every event the decoder and the rules' own judge come to one verdict: the same event or the same errors."""
    body = data.draw(event_texts(form))
    verdict = judge(body, form, WINDOW)
    decoded = decode(body, ONE[form], None, WINDOW)
    if isinstance(verdict, Event):
        assert ([*decoded.events], [*decoded.rejects]) == ([verdict], [])
    else:
        assert not decoded.events
        assert repr(decoded.rejects[0].refusal) == repr(verdict)  # as text: an input may be NaN, equal to nothing


@FORMS
@settings(max_examples=1000)
@given(data=st.data())
def test_fast_path_accepts_nothing_of_its_own(form: Form, data: st.DataObject) -> None:
    """What the fast path accepts of damaged texts is JSON, and the judge reads the same event from it."""
    body = data.draw(damaged(event_texts(form)))
    event = FAST[form].one(body, WINDOW)
    if event is not None:
        assert is_json(body)
        assert event == judge(body, form, WINDOW)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("019c00000-000-7000-8000-000000000001", UUID_TEXT[1:-1]),  # a dash in a wrong place
        ("019c0000000000007000800000000000000001", UUID_TEXT[1:-1]),
        ("019c00000000700080000000000000000001", UUID_TEXT[1:-1]),  # 36 digits
        ("019c0000-0000-7000-8000-00000000 001", UUID_TEXT[1:-1]),
        ("019c0000-0000-7000-8000-00000000000g", UUID_TEXT[1:-1]),
        ("019c0000-0000-7000-8000-00000000000", "1019c0000-0000-7000-8000-000000000001"),  # together they look like two
        ("019c0000-0000-7000-8000-0000000000\u06611", UUID_TEXT[1:-1]),
        ("019c0000-0000-7000-8000--00000000001", UUID_TEXT[1:-1]),
        ("019c0000-0000-7000-8000--0000000000-", UUID_TEXT[1:-1]),  # of two digits
        ("019c0000-0000-7000-8000-0000000000--", UUID_TEXT[1:-1]),
    ],
)
@pytest.mark.parametrize("names", list(itertools.permutations(("id", "user_id", "organization_id"))), ids=str)
def test_ids_are_checked_to_the_letter(first: str, second: str, names: tuple[str, str, str]) -> None:
    """The fast path checks three ids together; none that is wrong gets through in any place, nor by its neighbour."""
    fields = dict(zip(names, (first, second, UUID_TEXT[1:-1]), strict=True))
    body = json.dumps(fields | {"created_at": NOW_TEXT, "input_tokens": 1}, ensure_ascii=False).encode()
    decoded = decode(body, None, None, WINDOW)
    assert not decoded.events
    assert decoded.rejects[0].refusal == judge(body, Form.NATIVE, WINDOW)


@pytest.mark.parametrize(
    ("ordinary", "wrong"),
    [
        (b"00.000000Z", "00.00000\u0661Z".encode()),  # `int` reads it
        (b"00.000000Z", b"00.00 000Z"),
        (b"00.000000Z", b"00,000000Z"),
        (b'{"a":1}', b'{"a":"\xff"}'),
        (b'{"a":1}', b'{"a":"\xff"},"request_metadata":{"a":1}'),
        (b'{"a":1}', b'{"a":"\\u0000"},"request_metadata":{"a":"\xed\xa0\x80"}'),
    ],
)
@pytest.mark.parametrize("around", [(b"", b""), (b"[", b"]")], ids=["alone", "in an array"])
def test_what_only_looks_right_is_refused(ordinary: bytes, wrong: bytes, around: tuple[bytes, bytes]) -> None:
    """Digits of other scripts and bytes that are no UTF-8, also where the parser only skips them."""
    good = (
        f'{{"id":{UUID_TEXT},"user_id":{UUID_TEXT},"organization_id":{UUID_TEXT},"created_at":"{NOW_TEXT}",'
        '"input_tokens":1,"request_metadata":{"a":1}}'
    ).encode()
    bad = good.replace(ordinary, wrong)
    assert decode(good.join(around), None, None, WINDOW).rejects == ()
    assert not decode(bad.join(around), None, None, WINDOW).events


@pytest.mark.parametrize("deep", ["[" * 300 + "]" * 300, '{"a":' * 300 + "1" + "}" * 300], ids=["arrays", "objects"])
@pytest.mark.parametrize("events", [1, 2, 1000])
def test_what_a_second_key_replaces_is_judged_too(deep: str, events: int) -> None:
    """The judge refuses what is nested too deep, also where the same key follows once more: so does the decoder."""
    good = (
        f'{{"id":{UUID_TEXT},"user_id":{UUID_TEXT},"organization_id":{UUID_TEXT},"created_at":"{NOW_TEXT}",'
        '"input_tokens":1,"request_metadata":{"a":[{"b":[]}]}}'
    )
    bad = good.replace('"request_metadata":', f'"request_metadata":{{"a":{deep}}},"request_metadata":')
    assert decode(good.encode(), None, None, WINDOW).rejects == ()
    for body in (bad, "[" + ",".join([good] * (events - 1) + [bad]) + "]"):
        decoded = decode(body.encode(), None, None, WINDOW)
        assert [reject.body for reject in decoded.rejects] == [bad.encode()]
        assert decoded.rejects[0].refusal == judge(bad.encode(), Form.NATIVE, WINDOW)


@pytest.mark.parametrize("innermost", ["", "1", "{}"])
@pytest.mark.parametrize("levels", range(195, 203))
@pytest.mark.parametrize("around", [(b"", b""), (b"[", b"]")], ids=["alone", "in an array"])
def test_what_a_second_key_of_the_metadata_replaces_is_as_deep_as_in_its_event(
    levels: int, around: tuple[bytes, bytes], innermost: str
) -> None:
    """Both paths refuse the same depth, also where a second key leaves nothing of it to be stored."""
    deep = "[" * levels + innermost + "]" * levels
    body = (
        f'{{"id":{UUID_TEXT},"user_id":{UUID_TEXT},"organization_id":{UUID_TEXT},"created_at":"{NOW_TEXT}",'
        f'"input_tokens":1,"request_metadata":{{"a":{deep},"a":null}}}}'
    ).encode()
    verdict = judge(body, Form.NATIVE, WINDOW)
    decoded = decode(body.join(around), None, None, WINDOW)
    found = [*decoded.events, *(reject.refusal for reject in decoded.rejects)]
    assert found == [verdict]
    assert isinstance(verdict, Event) == (levels + 2 + innermost.count("{") <= 200)


@pytest.mark.parametrize("innermost", ["", "1"])
@pytest.mark.parametrize("levels", range(197, 202))
@pytest.mark.parametrize("many", [False, True], ids=["alone", "in an array"])
def test_a_cloudevent_may_be_as_deep_on_both_paths(levels: int, innermost: str, many: bool) -> None:  # noqa: FBT001
    """An extension attribute is not stored, but its depth counts."""
    body = (
        f'{{"specversion":"1.0","id":{UUID_TEXT},"source":"s","type":"t","time":"{NOW_TEXT}",'
        f'"data":{{"user_id":{UUID_TEXT},"organization_id":{UUID_TEXT},"input_tokens":1}},'
        f'"extension":{"[" * levels}{innermost}{"]" * levels}}}'
    ).encode()
    message, content_type = (b"[" + body + b"]", MANY) if many else (body, ONE)
    decoded = decode(message, content_type[Form.CLOUDEVENT], None, WINDOW)
    found = [*decoded.events, *(reject.refusal for reject in decoded.rejects)]
    assert found == [judge(body, Form.CLOUDEVENT, WINDOW)]
    assert bool(decoded.events) == (levels + 1 <= 200)


@FORMS
@settings(max_examples=200)
@given(data=st.data())
def test_each_event_is_judged_alone(form: Form, data: st.DataObject) -> None:
    """In an array each event gets the verdict that it gets alone, and its bytes are cut out as they were sent."""
    bodies = data.draw(st.lists(event_texts(form), min_size=1, max_size=5))
    between = data.draw(st.sampled_from([b",", b" , ", b"\n,\t"]))
    array = decode(b" [\r\n" + between.join(bodies) + b"] ", MANY[form], None, WINDOW)
    events, rejects = [], []
    for place, body in enumerate(bodies):
        alone = decode(body, ONE[form], None, WINDOW)
        events += [(place, event) for event in alone.events]
        rejects += [(place, body, repr(reject.refusal)) for reject in alone.rejects]
    assert list(zip(array.places, array.events, strict=True)) == events
    assert [(reject.place, reject.body, repr(reject.refusal)) for reject in array.rejects] == rejects


@FORMS
def test_generated_events_are_good_and_bad(form: Form) -> None:
    """The generator of these tests makes events that are accepted and events that are refused."""
    found: set[bool] = set()

    @settings(max_examples=100, database=None)
    @given(event_texts(form))
    def collect(body: bytes) -> None:
        found.add(bool(decode(body, ONE[form], None, WINDOW).rejects))

    collect()
    assert found == {True, False}


def test_metadata_is_stored_as_it_was_sent() -> None:
    """Blanks, the order of keys and the digits of a fraction stay, where the database can only read it in one way."""
    metadata = '{ "b" : 1.50, "a":{"é":[]}}'
    body = (
        f'{{"id":"019c0000-0000-7000-8000-000000000001","user_id":"019c0000-0000-7000-8000-000000000002",'
        f'"organization_id":"019c0000-0000-7000-8000-000000000003","created_at":"{NOW_TEXT}","input_tokens":1,'
        f'"request_metadata" :  {metadata} }}'
    ).encode()
    for message in (body, b"[" + body + b"]", b"[{}," + body + b"]"):
        assert decode(message, None, None, WINDOW).events[0].metadata_json == metadata.encode()


def test_text_of_an_event_is_found_again() -> None:
    """`event_text` gives the bytes of an event of an array, also of one that the quick parser cannot read."""
    elements = [b'{"a" : 1}', b'"\\ud800"', b"[" * 2000 + b"]" * 2000]
    body = b"[ " + b" ,\n".join(elements) + b"]"
    assert [event_text(body, place) for place in range(3)] == elements
    assert event_text(elements[0], 0) == elements[0]


@pytest.mark.parametrize(
    ("content_type", "content_encoding", "media"),
    [
        (None, None, Media.NATIVE),
        ("application/json", None, Media.NATIVE),
        (" Application/JSON ; charset=utf-8", "UTF-8", Media.NATIVE),
        ('application/json;profile=x;CHARSET="UTF-8"', "Identity", Media.NATIVE),
        ("application/cloudevents+json", "", Media.CLOUDEVENT),
        ("APPLICATION/CLOUDEVENTS-BATCH+JSON;charset=utf-8", "utf-8", Media.CLOUDEVENTS_BATCH),
        ("application/json; charset=utf-16", None, None),
        ("application/json; profile=x; charset=latin-1", None, None),
        ("application/json", "gzip", None),
        ("application/json", "utf-16", None),
        ("text/json", None, None),
        ("", None, None),
        ("json", None, None),
    ],
)
def test_media_of_properties(content_type: str | None, content_encoding: str | None, media: Media | None) -> None:
    """What is taken, by its content type and encoding, in any case and with parameters; all else is unsupported."""
    assert media_of(content_type, content_encoding) is media


def test_unsupported_content_is_named() -> None:
    """The letter of an unsupported message names what was given, and what to send instead."""
    (reject,) = decode(b"x", "text/plain", "gzip", WINDOW).rejects
    assert reject.refusal.errors[0]["message"] == (
        "content_type 'text/plain', content_encoding 'gzip': send application/json, application/cloudevents+json, "
        "application/cloudevents-batch+json in UTF-8, without compression"
    )


def test_reject_names_every_error_and_a_near_name() -> None:
    """A refused event lists each wrong field with what was given, and a misspelt one with the name that was meant."""
    body = json.dumps({"id": "x", "input_token": 7, "created_at": NOW_TEXT}).encode()
    (reject,) = decode(body, None, None, WINDOW).rejects
    errors = {error["field"]: (error["message"], error["input"]) for error in reject.refusal.errors}
    assert errors == {
        "id": ("must be a UUID: 8-4-4-4-12 hexadecimal digits", "x"),
        "input_token": ("unknown field; did you mean input_tokens?", 7),
        "user_id": ("required, but absent", None),
        "organization_id": ("required, but absent", None),
        "tokens_used": ("give at least one of input_tokens, output_tokens and tokens_used", None),
    }


@pytest.mark.parametrize("odd", [b'"\\ud800"', b"[" * 2000 + b"]" * 2000])
def test_a_message_is_cut_once_for_all_its_letters(odd: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """An element that the fast parser gives up on makes no refused neighbour cut the whole message again."""
    body = b"[" + b",".join([*(b"%d" % number for number in range(700)), odd]) + b"]"
    cuts: list[bytes] = []

    def counting(text: bytes) -> tuple[Kind, list[Child]]:
        cuts.append(text)
        return outline(text)

    monkeypatch.setattr("worker.decode.outline", counting)
    texts = [event_text(body, place) for place in range(701)]
    assert texts == [*(b"%d" % number for number in range(700)), odd]
    assert cuts == [body]
