"""One input through the worker's decoder, held against the second reading of the contract and the producers' model."""

import re
from typing import NamedTuple

from usage_events.contract import Event, Reason
from usage_events.judge import Form, judge
from usage_events.rules import Window

from chaos.fuzz.inputs import Input
from chaos.fuzz.plain_json import loose, same
from chaos.fuzz.reference import CLOUDEVENT, CLOUDEVENTS, Row, Verdict, media_type, verdicts
from worker import app
from worker.batch import Entry
from worker.decode import Decoded, Reject, event_text

DETAIL_CHARACTERS_MAX = 2000
_EVENTS_SHOWN_MAX = _REJECTS_SHOWN_MAX = 5
_MESSAGE_CHARACTERS_MAX = 40
_DIGITS = re.compile(r"[0-9]+")
_KNOWN = re.compile(r"(data\.)?[a-z_]{0,24}")


class WrongError(Exception):
    """A promise was not kept: which, and by what."""


class Checked(NamedTuple):
    """What the worker has made of an input, and what it has to become."""

    entry: Entry
    verdicts: list[Verdict]


def check(one: Input, tag: int, window: Window) -> Checked:
    """Decode it.

    Raises:
        WrongError: the decoder raises, loses or makes up an event, or judges one in another way than the contract.
    """
    delivery = one.delivery(tag)
    try:
        decoded = app.decode_delivery(delivery, window)
    except Exception as error:
        raise WrongError(f"the decoder raises {error!r}") from error
    content_type, content_encoding = delivery.properties.content_type, delivery.properties.content_encoding
    wanted = verdicts(one.body, content_type, content_encoding, window)
    _check_places(decoded, wanted)
    media = media_type(content_type, content_encoding)
    form = Form.CLOUDEVENT if media in {CLOUDEVENT, CLOUDEVENTS} else Form.NATIVE
    events = dict(zip(decoded.places, decoded.events, strict=True))
    rejects = {reject.place: reject for reject in decoded.rejects}
    for verdict in wanted:
        if verdict.place in events:
            _check_event(events[verdict.place], verdict, form, window)
        else:
            _check_reject(rejects[verdict.place], verdict)
        if verdict.place >= 0 and event_text(one.body, verdict.place) != verdict.text:
            raise _wrong(f"other text is at {verdict.place}")
    return Checked(Entry(delivery, decoded), wanted)


def shown(checked: Checked) -> set[tuple[object, ...]]:
    """What may be new about an input: each rule that it breaks in a field, and what its events have."""
    decoded = checked.entry.decoded
    found: set[tuple[object, ...]] = {
        (event.cost_given, *(value is None for value in event)) for event in decoded.events[:_EVENTS_SHOWN_MAX]
    }
    for reject in decoded.rejects[:_REJECTS_SHOWN_MAX]:
        reason = reject.refusal.reason
        found.add((reason, len(decoded.rejects) > 1))
        if reason is not Reason.UNSUPPORTED_CONTENT_TYPE:
            for error in reject.refusal.errors[:_REJECTS_SHOWN_MAX]:
                message = error["message"].rpartition(" where ")[2]
                field = error["field"] if _KNOWN.fullmatch(error["field"]) else "?"
                found.add((reason, field, _DIGITS.sub("#", message)[:_MESSAGE_CHARACTERS_MAX]))
    return found


def is_same_metadata(sent: bytes | None, stored: bytes | str | None) -> bool:
    """Whether the text that was sent says the same as the other."""
    if sent is None or stored is None:
        return sent is stored
    text = stored if isinstance(stored, str) else stored.decode()
    return sent.decode() == text or same(loose(sent.decode()), loose(text))


def _check_places(decoded: Decoded, wanted: list[Verdict]) -> None:
    """Each event of the message ends once."""
    if len(decoded.events) != len(decoded.places):
        raise _wrong(f"{len(decoded.events)} events at {len(decoded.places)} places")
    found = sorted([*decoded.places, *(reject.place for reject in decoded.rejects)])
    due = [verdict.place for verdict in wanted]
    if found != due:
        raise _wrong(f"events and rejects are of the places {found[:20]}, and the message has {due[:20]}")


def _check_event(event: Event, verdict: Verdict, form: Form, window: Window) -> None:
    row = verdict.outcome
    if not isinstance(row, Row):
        raise _wrong(f"{event} where {_outcome(verdict)} was due")
    is_row = event[:9] == row[:9] and event[10:] == row[10:] and is_same_metadata(row.metadata, event.metadata_json)
    if not is_row:
        raise _wrong(f"{event} where {_outcome(verdict)} was due")
    model = judge(verdict.text, form, window, row.metadata or b"")
    if event != model:
        raise _wrong(f"{event}, and the producers' model says {model}")


def _check_reject(reject: Reject, verdict: Verdict) -> None:
    if reject.refusal.reason is not verdict.outcome:
        raise _wrong(f"{reject.refusal} where {_outcome(verdict)} was due")
    if not reject.refusal.errors:
        raise _wrong(f"a reject says nothing: {reject.refusal}")
    if reject.body != verdict.text:
        raise _wrong(f"the reject at {verdict.place} has another text: {reject.body!r}")


def _outcome(verdict: Verdict) -> str:
    return f"{verdict.outcome!r} of {verdict.text[:DETAIL_CHARACTERS_MAX]!r}"


def _wrong(what: str) -> WrongError:
    return WrongError(what[:DETAIL_CHARACTERS_MAX])
