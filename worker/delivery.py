"""A delivery: one message as the broker handed it over, before anything is made of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, frozen=True)
class Properties:
    """The AMQP properties that matter here, as the producer set them."""

    content_type: str | None = None
    content_encoding: str | None = None
    app_id: str | None = None
    user_id: str | None = None  # validated by the broker where it is set
    headers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True, frozen=True, eq=False)
class Delivery:
    """One message and the right to acknowledge it.

    `tag` means something only on the channel whose `generation` this is. `delivery_count` says how often the broker
    has handed the message out before.
    """

    tag: int
    generation: int
    body: bytes
    properties: Properties = Properties()
    delivery_count: int = 0
    redelivered: bool = False
    exchange: str = ""
    routing_key: str = ""
    queue: str = ""

    @property
    def body_bytes(self) -> int:
        """The size of the body."""
        return len(self.body)
