"""A delivery: one message as the broker handed it over, before anything is made of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class Properties(Protocol):
    """The AMQP properties that matter here, as the producer set them."""

    @property
    def content_type(self) -> str | None:
        """The media type of the body."""

    @property
    def content_encoding(self) -> str | None:
        """How the body is encoded beside that."""

    @property
    def app_id(self) -> str | None:
        """The producer, as it says itself."""

    @property
    def user_id(self) -> str | None:
        """The producer's user, validated by the broker where it is set."""

    @property
    def headers(self) -> Mapping[str, Any]:
        """The table of headers."""


@dataclass(slots=True, frozen=True)
class PlainProperties:
    """Properties that are known already."""

    content_type: str | None = None
    content_encoding: str | None = None
    app_id: str | None = None
    user_id: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Delivery:
    """One message and the right to acknowledge it.

    `tag` means something only on the channel whose `generation` this is. `delivery_count` says how often the broker
    has handed the message out before. Not to be changed; freezing it would cost a microsecond a message.
    """

    tag: int
    generation: int
    body: bytes
    properties: Properties = PlainProperties()
    delivery_count: int = 0
    exchange: str = ""
    routing_key: str = ""
    queue: str = ""
