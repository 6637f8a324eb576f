"""Events and messages as producers send them."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

USER = UUID("11111111-1111-4111-8111-111111111111")
ORGANIZATION = UUID("22222222-2222-4222-8222-222222222222")


class Message(NamedTuple):
    """A message, and what a ledger has to know of it.

    `events` are those whose id can be read. `unreadable` are the bytes of the others, as a dead letter keeps them.
    """

    body: bytes
    events: tuple[Mapping[str, Any], ...] = ()
    unreadable: tuple[bytes, ...] = ()
    content_type: str | None = "application/json"
    content_encoding: str | None = None
    headers: Mapping[str, Any] | None = None


def event(**changes: Any) -> dict[str, Any]:
    """A valid event of `USER` and `ORGANIZATION`, made a minute ago, with these fields changed."""
    return {
        "id": str(uuid4()),
        "user_id": str(USER),
        "organization_id": str(ORGANIZATION),
        "input_tokens": 100,
        "output_tokens": 20,
        "endpoint": "/v1/chat",
        "model": "test-model",
        "request_type": "chat",
        "created_at": (datetime.now(UTC) - timedelta(minutes=1)).isoformat(),
    } | changes


def message(*events: Mapping[str, Any]) -> Message:
    """One event alone, or several as an array."""
    body = json.dumps(events[0] if len(events) == 1 else events).encode()
    return Message(body, events)


def raw(body: bytes, content_type: str | None = "application/json") -> Message:
    """A message that nobody can read: it must become one dead letter with this body."""
    return Message(body, unreadable=(body,), content_type=content_type)
