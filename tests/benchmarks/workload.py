"""What is measured with: events that look like real ones, as messages for a queue and as rows for COPY."""

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from usage_events.ids import uuid7

MODELS = ("gpt-4o-mini", "gpt-4o", "claude-sonnet", "gemini-flash")
ENDPOINTS = ("/v1/chat/completions", "/v1/embeddings", "/v1/responses")
WITNESSES = 20

COLUMNS = (
    "id", "user_id", "organization_id", "tokens_used", "input_tokens", "output_tokens", "endpoint", "model",
    "request_type", "request_metadata", "estimated_cost_usd", "created_at",
)  # fmt: skip

MakeId = Callable[[], UUID]
RawEvent = dict[str, Any]


class People(NamedTuple):
    """The users and organizations that exist."""

    users: list[UUID]
    organizations: list[UUID]


class Totals(NamedTuple):
    """What has to be in the table when all is written: a fast wrong answer is no answer."""

    rows: int
    input_tokens: int
    output_tokens: int
    tokens_used: int
    cost_usd: Decimal

    @classmethod
    def of(cls, rows: int, input_tokens: int, output_tokens: int) -> "Totals":
        """The sums that follow, at the prices that apply where an event gives no cost."""
        cost_usd = Decimal(input_tokens + 3 * output_tokens).scaleb(-6)
        return cls(rows, input_tokens, output_tokens, input_tokens + output_tokens, cost_usd)


def totals_of(events: Iterable[RawEvent]) -> Totals:
    """Rows and sums of these events."""
    rows = spent = came = 0
    for event in events:
        rows += 1
        spent += event["input_tokens"]
        came += event["output_tokens"]
    return Totals.of(rows, spent, came)


@dataclass(slots=True, frozen=True)
class Workload:
    """A backlog and what has to become of it. `events` counts what is delivered, refused and repeated ones too."""

    bodies: list[bytes]
    events: int
    stored: list[RawEvent]
    refused: int
    begin: datetime

    @property
    def totals(self) -> Totals:
        """Rows and sums that the table must hold."""
        return totals_of(self.stored)

    def first_ids(self) -> list[UUID]:
        """Some of the rows that come first."""
        return [UUID(event["id"]) for event in self.stored[:WITNESSES]]

    def witnesses(self) -> list[UUID]:
        """Some rows, the last ones among them."""
        chosen = self.stored[:: max(1, len(self.stored) // WITNESSES)] + self.stored[-WITNESSES:]
        return list({UUID(event["id"]) for event in chosen})

    def rows(self) -> list[tuple[Any, ...]]:
        """The same as rows for asyncpg's COPY, in the order of `COLUMNS`."""
        return [row_of(event) for event in self.stored]


def make_workload(
    people: People,
    events: int,
    events_per_message: int = 1,
    *,
    make_id: MakeId = uuid7,
    repeated: float = 0.0,
    refused: float = 0.0,
) -> Workload:
    """A backlog of so many events.

    Args:
        people: whose events.
        events: delivered in all.
        events_per_message: 1 makes objects, more makes arrays.
        make_id: UUIDv7 as recommended, or `uuid4`.
        repeated: the share that comes a second time with the same content, anywhere after the first.
        refused: the share that is to become dead letters.
    """
    dice = random.Random(events)
    begin = datetime.now(UTC)
    repeats, bad = round(events * repeated), round(events * refused)
    stored = make_events(people, events - repeats - bad, dice, begin, make_id)
    spoilt = [spoil(event, kind) for kind, event in enumerate(make_events(people, bad, dice, begin, uuid7))]
    delivered = stored + [dice.choice(stored) for _ in range(repeats)] + spoilt
    if repeats or bad:
        dice.shuffle(delivered)
    return Workload(messages_of(delivered, events_per_message), events, stored, bad, begin)


def make_events(people: People, count: int, dice: random.Random, begin: datetime, make_id: MakeId) -> list[RawEvent]:
    """Events as producers write them, a microsecond apart: two runs never share a time."""
    return [
        {
            "id": str(make_id()),
            "user_id": str(dice.choice(people.users)),
            "organization_id": str(dice.choice(people.organizations)),
            "input_tokens": dice.randrange(10, 4000),
            "output_tokens": dice.randrange(1, 1000),
            "endpoint": dice.choice(ENDPOINTS),
            "model": dice.choice(MODELS),
            "request_type": "chat",
            "request_metadata": {"trace": f"{dice.getrandbits(64):016x}", "region": "eu", "cached": 0},
            "created_at": (begin + timedelta(microseconds=number)).isoformat(timespec="microseconds"),
        }
        for number in range(count)
    ]


def spoil(event: RawEvent, kind: int) -> RawEvent:
    """An event that is refused: for a wrong type, for tokens that do not add up, for a user whom nobody knows."""
    wrong: tuple[RawEvent, ...] = ({"input_tokens": "many"}, {"tokens_used": 1}, {"user_id": str(uuid4())})
    return event | wrong[kind % len(wrong)]


def messages_of(events: Sequence[RawEvent], events_per_message: int) -> list[bytes]:
    """The bodies: one object each, or arrays."""
    if events_per_message == 1:
        return [json.dumps(event, separators=(",", ":")).encode() for event in events]
    return [
        json.dumps(events[start : start + events_per_message], separators=(",", ":")).encode()
        for start in range(0, len(events), events_per_message)
    ]


def row_of(event: RawEvent) -> tuple[Any, ...]:
    """An event as a row."""
    return (
        UUID(event["id"]), UUID(event["user_id"]), UUID(event["organization_id"]),
        event["input_tokens"] + event["output_tokens"], event["input_tokens"], event["output_tokens"],
        event["endpoint"], event["model"], event["request_type"], json.dumps(event["request_metadata"]),
        Decimal(event["input_tokens"] + 3 * event["output_tokens"]).scaleb(-6),
        datetime.fromisoformat(event["created_at"]),
    )  # fmt: skip
