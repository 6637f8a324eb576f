"""The conformance corpus, judged by the decoder alone; what only the database decides is left to the whole path."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from conformance import Case, Letter, Row, load_cases, load_fixtures, metadata_value
from usage_events.contract import MAX_AGE_SECONDS, MAX_AHEAD_SECONDS, Event, Reason
from usage_events.envelope import MESSAGE_BYTES_MAX
from usage_events.rules import Window

from worker.batch import Batch, Entry
from worker.dead_letters import letters
from worker.decode import Decoded, decode
from worker.delivery import Delivery, PlainProperties

NOW = datetime.now(UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WINDOW = Window.around(
    (NOW - EPOCH) // timedelta(microseconds=1), max_age_seconds=MAX_AGE_SECONDS, max_ahead_seconds=MAX_AHEAD_SECONDS
)
CASES = load_cases(NOW)
DATABASE_REASONS = {Reason.UNKNOWN_USER, Reason.UNKNOWN_ORGANIZATION, Reason.ID_CONFLICT}


def decode_case(case: Case) -> Decoded:
    """What the decoder makes of a case."""
    return decode(case.body, case.content_type, case.content_encoding, WINDOW)


def row_of(event: Event) -> Row:
    """The row that an accepted event becomes."""
    metadata, cost = event.metadata_json, event.cost_micro_usd
    return Row(
        UUID(bytes=event.id),
        UUID(bytes=event.user_id),
        UUID(bytes=event.organization_id),
        event.tokens_used,
        event.input_tokens,
        event.output_tokens,
        event.endpoint,
        event.model,
        event.request_type,
        None if metadata is None else metadata_value(metadata),
        None if cost is None else Decimal(cost).scaleb(-6),
        EPOCH + timedelta(microseconds=event.created_at_us),
    )


def letters_of(case: Case) -> list[Letter]:
    """The letters that the decoder's rejects become."""
    properties = PlainProperties(case.content_type, case.content_encoding)
    batch = Batch(0.0)
    batch.add(Entry(Delivery(1, 1, case.body, properties), decode_case(case)))
    return [
        Letter(
            letter.reason,
            tuple(sorted({error["field"] for error in json.loads(letter.errors_json)})),
            UUID(letter.event_id) if letter.event_id else None,
            letter.content_type,
            letter.body,
        )
        for letter in letters.letters_of_rejects(batch)
    ]


@pytest.mark.parametrize("case", [case for case in CASES if not case.needs_database], ids=lambda case: case.name)
def test_outcome_is_exact(case: Case) -> None:
    """A message becomes exactly the rows and letters that the corpus says, value for value, in order."""
    assert [row_of(event) for event in decode_case(case).events] == case.rows
    assert letters_of(case) == case.letters


@pytest.mark.parametrize("case", [case for case in CASES if case.needs_database], ids=lambda case: case.name)
def test_database_decides_the_rest(case: Case) -> None:
    """Where the database decides, the decoder refuses what it can know and accepts all that may be stored."""
    decoded = decode_case(case)
    decided = [letter for letter in case.letters if letter.reason not in DATABASE_REASONS]
    assert letters_of(case) == decided
    left = len(case.letters) - len(decided)
    assert len(decoded.events) == len(case.rows) + case.duplicates + left
    assert all(row in [row_of(event) for event in decoded.events] for row in case.rows)


def test_corpus_is_large_enough() -> None:
    """At least 45 valid and 110 invalid messages, native and CloudEvents, one and array."""
    valid = [case for case in CASES if not case.letters]
    invalid = [case for case in CASES if case.letters]
    assert len(valid) >= 45
    assert len(invalid) >= 110
    for group in (valid, invalid):
        forms = {
            ((case.content_type or "application/json").partition(";")[0].lower(), case.body[:1] == b"[")
            for case in group
        }
        assert forms >= {
            ("application/json", False),
            ("application/json", True),
            ("application/cloudevents+json", False),
            ("application/cloudevents-batch+json", True),
        }
    assert any(case.rows and case.letters for case in CASES), "no array is mixed"


def test_corpus_has_every_reason_that_an_event_can_cause() -> None:
    """Each reason has a case, but for the two that a body alone cannot bring about."""
    assert set(Reason) - {letter.reason for case in CASES for letter in case.letters} == {
        Reason.REJECTED_BY_DATABASE,
        Reason.DELIVERY_LIMIT,
    }


def test_cases_do_not_meet_in_one_database() -> None:
    """All cases can run against one database: no two have a name, an id or a letter's body in common."""
    names = Counter(case.name for case in CASES)
    ids = Counter(row.id for case in CASES for row in case.rows)
    bodies = Counter((letter.content_type, letter.body) for case in CASES for letter in case.letters)
    assert [twice for counts in (names, ids, bodies) for twice, count in counts.items() if count > 1] == []


def test_rows_belong_to_the_fixtures() -> None:
    """Every row's user and organization is one that the corpus says exists."""
    fixtures = load_fixtures()
    assert {row.user_id for case in CASES for row in case.rows} <= set(fixtures.users)
    assert {row.organization_id for case in CASES for row in case.rows} <= set(fixtures.organizations)


def test_limits_of_size_are_met_to_the_byte() -> None:
    """The largest message that is taken and the smallest that is too large are in the corpus, whatever the time is."""
    sizes = {len(case.body) for case in CASES}
    assert {MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX + 1} <= sizes
