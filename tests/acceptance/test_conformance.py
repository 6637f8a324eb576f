"""The conformance corpus through the real queue and database: each case gets its exact outcome."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from conformance import Case, Letter, Row, load_cases, load_fixtures, metadata_value
from harness import Message, System
from usage_events.contract import Reason

ROW_COLUMNS = ", ".join(Row.__dataclass_fields__)


def rows_in_order(rows: Iterator[Row]) -> list[Row]:
    """Rows by their id."""
    return sorted(rows, key=lambda row: row.id)


def letters_in_order(letters: Iterator[Letter]) -> list[Letter]:
    """Letters by what makes them one."""
    return sorted(letters, key=lambda letter: (letter.content_type, letter.body))


@pytest.mark.parametrize(
    ("batch_events_max", "delivery_path"),
    [(1, "fast"), (5000, "fast"), pytest.param(1, "library", marks=pytest.mark.slow), (5000, "library")],
)
async def test_every_case_gets_its_outcome(system: System, batch_events_max: int) -> None:
    """Each message alone in its batch, and all of them mixed: the same rows, letters and duplicates."""
    fixtures = load_fixtures()
    await system.database.executemany("INSERT INTO users VALUES ($1)", [(key,) for key in fixtures.users])
    await system.database.executemany(
        "INSERT INTO organizations VALUES ($1)", [(key,) for key in fixtures.organizations]
    )
    worker = await system.start_worker(USAGE_BATCH_MAX_EVENTS=str(batch_events_max))
    cases = load_cases(datetime.now(UTC))
    cases = sorted(cases, key=lambda case: "time" not in case.name)  # first those that hold for 5 s: machines are slow
    await system.publish(*(_message(case) for case in cases))
    expected = {
        "stored": sum(len(case.rows) for case in cases),
        "duplicate": sum(case.duplicates for case in cases),
        "dead": sum(len(case.letters) for case in cases),
    }

    async def all_counted() -> bool:
        return await worker.metric("events_total") >= sum(expected.values())

    await system.until(all_counted, "every case is counted")
    assert {outcome: await worker.metric("events_total", outcome=outcome) for outcome in expected} == expected
    await system.settle()

    for case in cases:  # one by one: a failure shows the case, not thousands of rows
        assert await _stored(system, case) == rows_in_order(iter(case.rows)), case.name
    assert await _letters(system) == letters_in_order(letter for case in cases for letter in case.letters)
    assert await system.stored() == expected["stored"]


def _message(case: Case) -> Message:
    return Message(case.body, content_type=case.content_type, content_encoding=case.content_encoding)


async def _stored(system: System, case: Case) -> list[Row]:
    rows = await system.database.fetch(
        f"SELECT {ROW_COLUMNS} FROM ai_usage_logs WHERE id = ANY($1)", [row.id for row in case.rows]
    )
    return rows_in_order(Row(**_plain(dict(row))) for row in rows)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """The driver's ids and JSON as the corpus has them."""
    for name in ("id", "user_id", "organization_id"):
        row[name] = UUID(str(row[name]))
    if row["request_metadata"] is not None:
        row["request_metadata"] = metadata_value(str(row["request_metadata"]))
    return row


async def _letters(system: System) -> list[Letter]:
    rows = await system.database.fetch("SELECT reason, errors, event_id, content_type, body FROM ai_usage_dead_letters")
    return letters_in_order(
        Letter(
            Reason(row["reason"]),
            tuple(sorted({error["field"] for error in json.loads(row["errors"])})),
            None if row["event_id"] is None else UUID(str(row["event_id"])),
            row["content_type"],
            row["body"],
        )
        for row in rows
    )
