"""The way past the buffer: events that are encoded already, each message with its own confirmation."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from usage_events.books import Books
from usage_events.courier import Courier
from usage_events.errors import MessageTooLargeError, RefusedError, UnroutableError, UsageEventsError
from usage_events.in_flight import Deliveries
from usage_events.messages import Message, pack

# Done when every message of one `send` is confirmed; it holds nothing but that, or the error.
Confirmation: TypeAlias = "asyncio.Future[list[None]]"


class DirectSender:
    """Sends messages that are not tried again once RabbitMQ has refused them."""

    def __init__(self, *, courier: Courier, deliveries: Deliveries, books: Books, routing_key: str) -> None:
        self._courier = courier
        self._deliveries = deliveries
        self._books = books
        self._routing_key = routing_key

    async def send(self, events: Sequence[bytes], check: Callable[[], None]) -> Confirmation:
        """Puts events on their way once there is room in flight; `check` is asked then."""
        deliveries = []
        for message in pack(events, bytes_max=self._courier.bytes_max):
            delivery = await self._deliveries.begin(len(message.body), partial(self._deliver, message), check)
            self._books.recorded += message.events_count
            deliveries.append(delivery)
        confirmation = asyncio.shield(asyncio.gather(*deliveries))

        def note_end(confirmation: Confirmation) -> None:
            # The publisher was ended: whoever does not wait for the result need not hear of it in asyncio's words.
            if not confirmation.cancelled() and any(delivery.cancelled() for delivery in deliveries):
                confirmation.exception()

        confirmation.add_done_callback(note_end)
        return confirmation

    async def _deliver(self, message: Message) -> None:
        try:
            messages = await self._deliver_whole_or_split(message)
        except UsageEventsError as error:
            self._books.given_up += message.events_count
            if isinstance(error, UnroutableError):
                self._books.returned += message.events_count
            elif isinstance(error, RefusedError):
                self._books.refused += message.events_count
            raise
        self._books.confirmed += message.events_count
        self._books.confirmed_messages += messages

    async def _deliver_whole_or_split(self, message: Message) -> int:
        """Returns in how many messages it has gone."""
        parts = [message]
        origin = self._courier.origin()  # this task has begun with the caller's context
        origins = [] if origin is None else [origin]
        try:
            await self._courier.deliver(message, self._routing_key, origins)
        except MessageTooLargeError as error:
            parts = pack(message.events, bytes_max=error.bytes_max)
            for part in parts:
                await self._courier.deliver(part, self._routing_key, origins)
        return len(parts)
