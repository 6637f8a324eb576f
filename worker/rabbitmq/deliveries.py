"""A message as either delivery path has it becomes a `Delivery`: what is above sees no difference."""

from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic

from worker.delivery import Delivery, PlainProperties
from worker.rabbitmq.frames import RawDelivery
from worker.rabbitmq.properties import DELIVERY_COUNT_HEADER, read_properties, text_of


def from_frames(raw: RawDelivery, generation: int, queue: str) -> Delivery:
    """Of the frame reader."""
    properties = read_properties(raw.properties)
    return Delivery(
        raw.tag,
        generation,
        raw.body,
        properties,
        properties.delivery_count if raw.redelivered else 0,
        text_of(raw.exchange),
        text_of(raw.routing_key),
        queue,
    )


def from_library(message: DeliveredMessage, generation: int, queue: str) -> Delivery:
    """Of the library."""
    deliver = message.delivery
    assert isinstance(deliver, Basic.Deliver)  # noqa: S101 - a consumer is given nothing else
    given = message.header.properties
    headers = given.headers or {}
    count = headers.get(DELIVERY_COUNT_HEADER, 0) if deliver.redelivered else 0
    return Delivery(
        deliver.delivery_tag or 0,
        generation,
        message.body,
        PlainProperties(given.content_type, given.content_encoding, given.app_id, given.user_id, headers),
        count if isinstance(count, int) else 0,
        deliver.exchange or "",
        deliver.routing_key or "",
        queue,
    )
