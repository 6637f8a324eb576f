"""The options of a publisher as a type, so that a checker sees a misspelt one wherever they are handed on."""

import os
from typing import TypedDict

from usage_events.buffer_options import Durability, Sync, WhenFull
from usage_events.complaints import OnError


class PublisherOptions(TypedDict, total=False):
    """What `UsagePublisher` takes by name, and explains."""

    app_id: str | None
    exchange: str
    routing_key: str
    partition_by_organization: bool
    durability: Durability
    when_full: WhenFull
    spool_path: str | os.PathLike[str] | None
    spool_bytes_max: int
    spool_sync: Sync
    buffer_events_max: int
    buffer_bytes_max: int
    events_per_message_max: int
    linger_seconds: float
    in_flight_max: int
    in_flight_bytes_max: int
    on_error: OnError | None
    traces: bool
