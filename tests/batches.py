"""Batches for tests that call a store directly, and the books of what it made of them."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
from harness.events import ORGANIZATION, USER, event
from usage_events.rules import Window

from worker.batch import Batch, Entry
from worker.decode import decode
from worker.delivery import Delivery

_ANY_TIME = Window(-(2**62), 2**62)


def events(count: int, **changes: Any) -> list[dict[str, Any]]:
    """So many good events, with some fields changed."""
    return [event(**changes) for _ in range(count)]


def batch_of(bodies: Sequence[Mapping[str, Any]]) -> Batch:
    """One batch, a message for each event."""
    batch = Batch(opened_at=0.0)
    for tag, body in enumerate(bodies, 1):
        raw = json.dumps(body).encode()
        batch.add(Entry(Delivery(tag, 1, raw), decode(raw, None, None, _ANY_TIME)))
    return batch


def ids(bodies: Sequence[Mapping[str, Any]]) -> set[UUID]:
    """The ids of these events."""
    return {UUID(body["id"]) for body in bodies}


@dataclass(slots=True, frozen=True)
class Outcomes:
    """What the tables hold. By event id: the reason, and the errors, of each letter."""

    stored: set[UUID]
    dead: dict[UUID | None, str]
    errors: dict[UUID | None, list[dict[str, Any]]]

    @classmethod
    async def read(cls, connection: asyncpg.Connection) -> "Outcomes":
        """Read both tables."""
        stored = await connection.fetch("SELECT id FROM ai_usage_logs")
        letters = await connection.fetch("SELECT event_id, reason, errors FROM ai_usage_dead_letters")
        return cls(
            {UUID(bytes=row["id"].bytes) for row in stored},  # asyncpg's ids are of a class of its own
            {letter["event_id"]: letter["reason"] for letter in letters},
            {letter["event_id"]: json.loads(letter["errors"]) for letter in letters},
        )


@asynccontextmanager
async def host(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the host application, which has a user and an organization."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("INSERT INTO users VALUES ($1) ON CONFLICT DO NOTHING", USER)
        await connection.execute("INSERT INTO organizations VALUES ($1) ON CONFLICT DO NOTHING", ORGANIZATION)
        yield connection
    finally:
        await connection.close()
