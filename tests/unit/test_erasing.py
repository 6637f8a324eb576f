"""Erasing: whose a letter is, what is cut out of it, what is masked, and when nobody can tell."""

import json
from typing import Any
from uuid import UUID

import pytest

from worker.dead_letters.erasing import Fate, Field, Subject, Verdict

ADA = UUID("0198c0de-0000-7000-8000-00000000abcd")
BOB = UUID("0198c0de-0000-7000-8000-00000000b0b0")
MASKED = "00000000-0000-0000-0000-000000000000"
SUBJECT = Subject(Field.USER, ADA)


def body(user: object = ADA, **fields: Any) -> bytes:
    """An event of this user."""
    return json.dumps({"user_id": str(user), **fields}).encode()


def judge(
    text: bytes | None, edited: bytes | None = None, others: tuple[str | None, ...] = (), owner: UUID | None = None
) -> Verdict:
    """The verdict on a letter."""
    return SUBJECT.judge(text, edited, others, owner)


def escaped(text: str) -> str:
    """Each character as one of JSON's escapes."""
    return "".join(f"\\u{ord(character):04x}" for character in text)


@pytest.mark.parametrize(
    "text",
    [
        str(ADA).encode(),
        str(ADA).upper().encode(),
        b"\xff\xfe" + str(ADA).encode() + b"\x80",
        str(ADA).encode("utf-16"),
        str(ADA).upper().encode("utf-32-be"),
        ADA.hex.encode(),
        escaped(str(ADA)).encode(),
        escaped(str(ADA)).encode("utf-16-le"),
    ],
)
def test_an_id_is_found_in_any_form(text: bytes) -> None:
    """Either case, without dashes, among bytes that are no text, in wide encodings, in JSON's escapes."""
    assert SUBJECT.is_named(b"before " + text + b" behind")
    assert not SUBJECT.is_named(str(BOB).encode())


@pytest.mark.parametrize(
    "text",
    [
        body(),
        body(str(ADA).upper()),
        b'{"user_id": "' + escaped(str(ADA)).encode() + b'"}',
        b'{"user_id": "x", "user_id": "%s"}' % str(ADA).encode(),
        json.dumps({"specversion": "1.0", "data": {"user_id": str(ADA)}}).encode(),
        json.dumps({"userid": str(ADA)}).encode(),
        json.dumps([{"user_id": str(ADA)}]).encode(),
        json.dumps(str(ADA)).encode(),
        body()[:-1],
        body().decode().encode("utf-16"),
        b"\x80" + str(ADA).encode(),
    ],
)
def test_what_is_theirs_is_deleted(text: bytes) -> None:
    """An event of theirs, also as a CloudEvent, with a misnamed field, in an array of its own, or not readable."""
    assert judge(text) == Verdict(Fate.DELETED)


def test_the_letters_own_column_decides() -> None:
    """What could be read when it came is theirs, also where nothing can be found in the body now."""
    assert judge(b"{}", owner=ADA).fate is Fate.DELETED


def test_an_array_loses_their_events_alone() -> None:
    """The others keep each byte of theirs; one that only names them is masked."""
    precise = b'{"user_id":"%s", "estimated_cost_usd": 1.10}' % str(BOB).encode()
    manager = body(BOB, request_metadata={"manager": str(ADA).upper()})
    whole = b"[ " + precise + b" ,\n" + body() + b"," + manager + b"," + body() + b", 7]"
    masked = manager.replace(str(ADA).upper().encode(), MASKED.encode())
    assert judge(whole) == Verdict(Fate.CUT, b"[" + precise + b", " + masked + b", 7]")


def test_an_array_that_only_names_them() -> None:
    """All events stay."""
    whole = b"[" + body(BOB, model=str(ADA)) + b"]"
    assert judge(whole) == Verdict(Fate.MASKED, b"[" + body(BOB, model=MASKED) + b"]")


def test_anothers_letter_is_masked() -> None:
    """As long as before; also where only something else than the body names them."""
    assert judge(body(BOB, model=f"gpt {ADA}")) == Verdict(Fate.MASKED, body(BOB, model=f"gpt {MASKED}"))
    assert judge(body(BOB), others=(None, f"usage.{ADA}")) == Verdict(Fate.MASKED, body(BOB))


def test_edited_bodies() -> None:
    """What a replay would take decides: made theirs by an edit it goes, made another's the edit stays alone."""
    assert judge(body(BOB), body(BOB, model=str(ADA))) == Verdict(Fate.MASKED, body(BOB), body(BOB, model=MASKED))
    assert judge(body(BOB), body()) == Verdict(Fate.DELETED)
    assert judge(body(), body(BOB)) == Verdict(Fate.CUT, body(BOB), body(BOB))
    assert judge(body()[:-1], body(BOB, model=str(ADA))).edited_body == body(BOB, model=MASKED)
    assert judge(b"{", body(BOB), others=(str(ADA),)) == Verdict(Fate.MASKED, b"{", body(BOB))
    both = b"[" + body() + b"," + body(BOB) + b"]"
    assert judge(both, both) == Verdict(Fate.CUT, b"[" + body(BOB) + b"]", b"[" + body(BOB) + b"]")


@pytest.mark.parametrize(
    "text",
    [
        b"[" + body() + b", " + body(BOB),
        b"[" + str(ADA).encode(),
        body() + b"\n" + body(BOB),
        json.dumps({"events": [{"user_id": str(ADA)}, {"user_id": str(BOB)}]}).encode(),
        b"[" + body() + b"," + body(BOB) + b"]\x80",
        json.dumps([{"user_id": str(ADA)}, {"user_id": str(BOB)}]).encode("utf-16"),
        b'{"user_id": "%s", "x": "%s"}' % (str(BOB).encode(), escaped(str(ADA)).encode()),
    ],
)
def test_what_may_hold_other_peoples_events_is_not_guessed(text: bytes) -> None:
    """Cut off, glued together, wrapped, in a wide encoding, or named in a form that no mask fits."""
    assert judge(text) == Verdict(Fate.UNSURE)


def test_a_body_that_was_given_up() -> None:
    """Theirs goes, and so does one that names them and is nobody's; another's is masked; an edit is judged as ever."""
    assert judge(None, owner=ADA).fate is Fate.DELETED
    assert judge(None, others=(str(ADA),)).fate is Fate.DELETED
    assert judge(None, others=(str(ADA),), owner=BOB) == Verdict(Fate.MASKED, None)
    assert judge(None, body(BOB, model=str(ADA)), owner=BOB) == Verdict(Fate.MASKED, None, body(BOB, model=MASKED))
    assert judge(None).fate is Fate.NOTHING


def test_what_does_not_name_them_is_left_alone() -> None:
    """Escapes of other letters are no id."""
    assert judge(b'{"user_id": "x", "model": "\\u0041"}', others=("unknown_user",)) == Verdict(Fate.NOTHING)


def test_a_text_that_hides_the_id_goes_as_a_whole() -> None:
    """Masked where it can be, else what is given instead; others stay as they are."""
    assert SUBJECT.masked_text(f"of {ADA}") == f"of {MASKED}"
    assert SUBJECT.masked_text(escaped(str(ADA)), "[]") == "[]"
    assert SUBJECT.masked_text("of nobody") == "of nobody"
    assert SUBJECT.masked_text(None) is None


def test_an_organization() -> None:
    """The same by its own field."""
    subject = Subject(Field.ORGANIZATION, ADA)
    theirs = json.dumps({"organization_id": str(ADA), "user_id": str(BOB)}).encode()
    assert subject.judge(theirs, None, (), None) == Verdict(Fate.DELETED)
    others = json.dumps({"organization_id": str(BOB), "user_id": str(ADA)}).encode()
    assert subject.judge(others, None, (), None).fate is Fate.MASKED
