"""Carry: a set of dead letters through the worker's own decoder and merge, in one transaction of the caller's.

Committed it is a replay, rolled back it is a trial; the worker heals by it. It cannot be half done, doubled or
overtaken, and reaches no other consumer of the exchange.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

import asyncpg
from usage_events.contract import Event, Refusal
from usage_events.rules import Window

from worker.batch import Batch, Entry, Origin
from worker.dead_letters.letters import DeadLetter, add_up, letter_of_event, letters_of_rejects, refusal_of
from worker.decode import WHOLE_MESSAGE, Decoded, decode
from worker.postgres.dead_letters.table import Action, Filter, Status, StoredLetter, note_actions
from worker.postgres.merge import merge, record

NONE_REFUSED: Mapping[Event, Refusal] = MappingProxyType({})


class Answer(StrEnum):
    """What became of a letter."""

    STORED = "stored"
    DUPLICATE = "duplicate"  # its event, with the same content, was there already
    SAME_REASON = "same reason"
    OTHER_REASON = "other reason"


class Carried(NamedTuple):
    """A letter's answer; the refusal where it was not recovered.

    `apart` are the elements of its array that are refused, and get letters of their own.
    """

    letter: StoredLetter
    answer: Answer
    refusal: Refusal | None
    apart: int = 0


@dataclass(slots=True, frozen=True)
class CarryOptions:
    """How letters are judged and who carries them. The ages are in seconds, as in the contract."""

    who: str
    max_age_seconds: int
    max_ahead_seconds: int
    chosen: Filter | None = None
    action: str = "replay"


@dataclass(slots=True)
class _Case:
    """One letter on its way: what was decoded from it, and the refusals of its parts."""

    letter: StoredLetter
    decoded: Decoded
    refused: list[tuple[Origin, Event, Refusal]] = field(default_factory=list)
    is_new: bool = False  # an event of it was stored just now


async def carry(
    connection: asyncpg.Connection,
    letters: Sequence[StoredLetter],
    options: CarryOptions,
    *,
    now: datetime,
    refusals: Mapping[Event, Refusal] = NONE_REFUSED,
) -> list[Carried]:
    """Store what can be stored of these letters and settle each; nothing is committed here.

    A letter is judged at its `first_seen`. One of a whole message is recovered when each event in it is stored, a known
    duplicate, or has a letter of its own.

    Args:
        connection: in a transaction, with stages.
        letters: locked in this transaction.
        options: how they are judged, and who does it.
        now: when this is.
        refusals: events that the database is known to refuse.

    Raises:
        asyncpg.PostgresError: the database refuses a row; roll back, and find it among `events_of` the letters.
    """
    cases = [_open(letter, options) for letter in letters]
    await _merge(connection, cases, refusals)
    carried = [_answer(case) for case in cases]
    await _settle(connection, cases, carried, options, now)
    return carried


def events_of(letters: Sequence[StoredLetter], options: CarryOptions) -> list[Event]:
    """The events that `carry` would bring to the database."""
    return [event for letter in letters for event in _open(letter, options).decoded.events]


def _open(letter: StoredLetter, options: CarryOptions) -> _Case:
    window = Window.around(
        round(letter.first_seen.timestamp() * 1e6),
        max_age_seconds=options.max_age_seconds,
        max_ahead_seconds=options.max_ahead_seconds,
    )
    decoded = decode(letter.body, letter.content_type, None, window)
    return _Case(letter, decoded)


async def _merge(connection: asyncpg.Connection, cases: Sequence[_Case], refusals: Mapping[Event, Refusal]) -> None:
    events = []
    for case in cases:
        for place, event in zip(case.decoded.places, case.decoded.events, strict=True):
            if event in refusals:
                case.refused.append((Origin(case.letter.delivery, place), event, refusals[event]))
            else:
                events.append((case, place, event))
    if not events:
        return
    ids = [UUID(bytes=event.id) for _, _, event in events]
    known = {row["id"] for row in await connection.fetch("SELECT id FROM ai_usage_logs WHERE id = ANY($1)", ids)}
    merged = await merge(connection, [(ordinal, event) for ordinal, (_, _, event) in enumerate(events)])
    for ordinal, (case, place, event) in enumerate(events):
        reason = merged.refused.get(ordinal)
        if reason is not None:
            origin = Origin(case.letter.delivery, place)
            case.refused.append((origin, event, refusal_of(reason, event)))
        elif ids[ordinal] not in known:
            case.is_new = True
            known.add(ids[ordinal])  # a second letter of the same event is a duplicate


def _answer(case: _Case) -> Carried:
    refusal = _refusal(case)
    if refusal is None:
        apart = len(case.decoded.rejects) + len(case.refused)
        return Carried(case.letter, Answer.STORED if case.is_new else Answer.DUPLICATE, None, apart)
    answer = Answer.SAME_REASON if refusal.reason is case.letter.reason else Answer.OTHER_REASON
    return Carried(case.letter, answer, refusal)


def _refusal(case: _Case) -> Refusal | None:
    """Why the letter itself stays; the refused elements of an array get letters of their own."""
    rejects = case.decoded.rejects
    if any(reject.place == WHOLE_MESSAGE for reject in rejects):
        return rejects[0].refusal
    if _is_array(case.letter.body):
        return None
    if rejects:
        return rejects[0].refusal
    return case.refused[0][2] if case.refused else None


def _is_array(body: bytes) -> bool:
    return body.lstrip(b" \t\r\n")[:1] == b"["


def _letters_of_refusals(case: _Case) -> list[DeadLetter]:
    """What is refused of a letter, as letters that were seen when it was: itself, or elements of its array."""
    batch = Batch(0.0)
    batch.add(Entry(case.letter.delivery, case.decoded))
    letters = letters_of_rejects(batch)
    letters += [letter_of_event(origin, event, refusal) for origin, event, refusal in case.refused]
    return [letter._replace(first_seen=case.letter.first_seen) for letter in letters]


async def _settle(
    connection: asyncpg.Connection,
    cases: Sequence[_Case],
    carried: Sequence[Carried],
    options: CarryOptions,
    now: datetime,
) -> None:
    recovered = [each.letter for each in carried if each.refusal is None]
    refused = [
        (each, _letters_of_refusals(case)[0])
        for case, each in zip(cases, carried, strict=True)
        if each.refusal is not None
    ]
    await connection.execute(
        "UPDATE ai_usage_dead_letters SET status = 'recovered' WHERE id = ANY($1)", [letter.id for letter in recovered]
    )
    # A letter that could not be read before bears its event's id from now on, or the books by id would miss it. An
    # edited body may be refused for the same reason with other errors.
    await connection.executemany(
        "UPDATE ai_usage_dead_letters SET reason = $2, errors = $3, event_id = coalesce(event_id, $4),"
        " user_id = coalesce(user_id, $5), organization_id = coalesce(organization_id, $6), model = coalesce(model, $7)"
        " WHERE id = $1 AND (reason, errors) IS DISTINCT FROM ($2, $3::jsonb)",
        [
            (
                each.letter.id, now_is.reason.value, now_is.errors_json, now_is.event_id, now_is.user_id,
                now_is.organization_id, now_is.model,
            )
            for each, now_is in refused
        ],
    )  # fmt: skip
    elements = [
        letter for case, each in zip(cases, carried, strict=True) if each.apart for letter in _letters_of_refusals(case)
    ]
    await record(connection, add_up(elements), worker=options.who, seen_at=now)
    actions = [_recovery(letter, options.action) for letter in recovered]
    # What an operator tried in vain belongs to the audit; a round of healing that changes nothing does not.
    actions += [
        _refusal_again(each, options.action)
        for each, _ in refused
        if each.answer is Answer.OTHER_REASON or options.chosen is not None
    ]
    await note_actions(connection, actions, who=options.who, chosen=options.chosen)


def _recovery(letter: StoredLetter, action: str) -> Action:
    return Action(letter.id, action, from_status=letter.status.value, to_status=Status.RECOVERED.value)


def _refusal_again(carried: Carried, action: str) -> Action:
    reason = carried.refusal.reason.value if carried.refusal else None
    return Action(carried.letter.id, action, from_reason=carried.letter.reason.value, to_reason=reason)
