"""A real trace of a language model's traffic, through queue and worker, against sums over its file."""

import csv
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import NAMESPACE_URL, UUID, uuid5

import pytest
from azure_trace import HAVE_TRACE, ROWS, TRACE
from harness import ORGANIZATION, USER, Message, System, event, message

OTHER_USER = UUID("33333333-3333-4333-8333-333333333333")
OTHER_ORGANIZATION = UUID("44444444-4444-4444-8444-444444444444")
ONE_MESSAGE_OF_100 = 100


class Call(NamedTuple):
    """A row of the trace. `time` is RFC 3339, moved by whole days into the accepted window."""

    time: str
    day: date
    input_tokens: int
    output_tokens: int
    user_id: UUID
    organization_id: UUID


class Day(NamedTuple):
    """A row of `ai_usage_daily` without what it is grouped by."""

    total_tokens: int = 0
    total_input: int = 0
    total_output: int = 0
    request_count: int = 0
    total_cost: Decimal = Decimal(0)


def read_trace() -> Iterator[Call]:
    """The trace's calls, given in turn to two users and two organizations."""
    with TRACE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    newest = max(datetime.fromisoformat(row["TIMESTAMP"][:26]) for row in rows)
    shift = datetime.now(UTC).date() - timedelta(days=1) - newest.date()
    for number, row in enumerate(rows):
        day = date.fromisoformat(row["TIMESTAMP"][:10]) + shift
        yield Call(
            f"{day}T{row['TIMESTAMP'][11:]}Z",  # seven digits of a second, as they stand in the trace
            day,
            int(row["ContextTokens"]),
            int(row["GeneratedTokens"]),
            (USER, OTHER_USER)[number % 2],
            (ORGANIZATION, OTHER_ORGANIZATION)[number % 3 == 0],
        )


def messages(calls: list[Call], events_per_message: int) -> list[Message]:
    """The trace packed into messages; a row's id is always the same."""
    events = [
        event(
            id=str(uuid5(NAMESPACE_URL, f"trace row {number}")),
            user_id=str(call.user_id),
            organization_id=str(call.organization_id),
            input_tokens=call.input_tokens,
            output_tokens=call.output_tokens,
            request_type="conversation",
            created_at=call.time,
        )
        for number, call in enumerate(calls)
    ]
    return [message(*events[start : start + events_per_message]) for start in range(0, len(events), events_per_message)]


def daily_sums(calls: list[Call]) -> dict[tuple[date, UUID, UUID], Day]:
    """What `ai_usage_daily` must say."""
    sums: defaultdict[tuple[date, UUID, UUID], Day] = defaultdict(Day)
    for call in calls:
        key = (call.day, call.user_id, call.organization_id)
        day = sums[key]
        sums[key] = Day(
            day.total_tokens + call.input_tokens + call.output_tokens,
            day.total_input + call.input_tokens,
            day.total_output + call.output_tokens,
            day.request_count + 1,
            day.total_cost + (call.input_tokens + 3 * call.output_tokens) * Decimal("0.000001"),
        )
    return dict(sums)


@HAVE_TRACE
@pytest.mark.parametrize("events_per_message", [1, ONE_MESSAGE_OF_100])
async def test_the_trace_twice_gives_the_sums_of_its_file(system: System, events_per_message: int) -> None:
    """Each row's event comes twice: rows, tokens, costs and days are those of the file, once."""
    await system.database.execute("INSERT INTO users VALUES ($1)", OTHER_USER)
    await system.database.execute("INSERT INTO organizations VALUES ($1)", OTHER_ORGANIZATION)
    calls = list(read_trace())
    assert len(calls) == ROWS

    worker = await system.start_worker()
    await system.publish(*messages(calls, events_per_message) * 2)

    async def all_counted() -> bool:
        return await worker.metric("events_total") == 2 * ROWS

    await system.until(all_counted, "all events are counted", seconds_max=60)
    assert await worker.metric("events_total", outcome="stored") == ROWS
    assert await worker.metric("events_total", outcome="duplicate") == ROWS
    await system.settle()

    books = await system.books()
    books.check()
    assert len(books.stored) == ROWS
    assert books.letters == {}
    assert await _daily(system) == daily_sums(calls)


async def _daily(system: System) -> dict[tuple[date, UUID, UUID], Day]:
    rows = await system.database.fetch("SELECT * FROM ai_usage_daily")
    assert {row["request_type"] for row in rows} == {"conversation"}
    return {
        (row["usage_date"], UUID(str(row["user_id"])), UUID(str(row["organization_id"]))): Day(
            **{name: row[name] for name in Day._fields}
        )
        for row in rows
    }
