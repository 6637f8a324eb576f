"""Makers of events, deliveries and batches: good ones, but for what a test says otherwise."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from usage_events.contract import Event
from usage_events.ids import uuid7
from usage_events.rules import Window

from worker.batch import Batch, Entry
from worker.decode import Decoded, decode
from worker.delivery import Delivery

USER = UUID("0198c0de-0000-7000-8000-000000000001")
ORGANIZATION = UUID("0198c0de-0000-7000-8000-000000000002")
ANY_TIME = Window(-(2**62), 2**62)


def body_of(**fields: Any) -> bytes:
    """An event as it stands in a message: a good one, but for what `fields` say otherwise."""
    return json.dumps(
        {
            "id": str(uuid7()),
            "user_id": str(USER),
            "organization_id": str(ORGANIZATION),
            "input_tokens": 10,
            "output_tokens": 20,
            "created_at": datetime.now(UTC).isoformat(),
        }
        | fields
    ).encode()


def array_of(bodies: Iterable[bytes]) -> bytes:
    """One message of several events."""
    return b"[" + b",".join(bodies) + b"]"


def decoded(delivery: Delivery, window: Window = ANY_TIME) -> Decoded:
    """What the worker makes of a delivery."""
    return decode(delivery.body, delivery.properties.content_type, delivery.properties.content_encoding, window)


def entry_of(body: bytes, tag: int = 1, **delivery: Any) -> Entry:
    """A decoded delivery."""
    made = Delivery(tag, delivery.pop("generation", 1), body, **delivery)
    return Entry(made, decoded(made))


def batch_of(*bodies: bytes, **delivery: Any) -> Batch:
    """A batch with one message for each body."""
    batch = Batch(0.0)
    for tag, body in enumerate(bodies, 1):
        batch.add(entry_of(body, tag, **delivery))
    return batch


def event_of(number: int = 0, **fields: Any) -> Event:
    """An accepted event; the number stands in its id and its tokens."""
    event = Event(
        id=number.to_bytes(16, "big"),
        user_id=USER.bytes,
        organization_id=ORGANIZATION.bytes,
        tokens_used=number,
        input_tokens=number,
        output_tokens=0,
        endpoint=None,
        model=None,
        request_type=None,
        metadata_json=None,
        cost_micro_usd=number,
        cost_given=False,
        created_at_us=1_772_000_000_000_000,
    )
    return event._replace(**fields)
