"""A publisher that knows what the broker has confirmed. It is not the project's own: it may send anything."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import UUID

import aio_pika
import aiormq
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, HeadersType

from harness.events import Message

IN_FLIGHT_MAX = 500
RETRY_SECONDS = 0.1
_LOST = (aiormq.exceptions.AMQPError, aio_pika.exceptions.AMQPError, OSError, RuntimeError)


@dataclass(slots=True)
class Ledger:
    """What was sent, and what of it was confirmed.

    `sent` counts the copies of each id; an event that a confirmed message holds is confirmed.
    """

    sent: Counter[UUID] = field(default_factory=Counter)
    confirmed: set[UUID] = field(default_factory=set)
    unreadable: set[bytes] = field(default_factory=set)
    tokens: defaultdict[UUID, set[int]] = field(default_factory=lambda: defaultdict(set))
    confirmed_messages: int = 0

    def note_sent(self, message: Message) -> None:
        """It is on its way: its events may be stored from now on."""
        for event in message.events:
            event_id = UUID(str(event["id"]))
            self.sent[event_id] += 1
            self.tokens[event_id].add(_tokens(event))

    def note_confirmed(self, message: Message) -> None:
        """The broker has it: its events must not be lost."""
        self.confirmed_messages += 1
        self.confirmed.update(UUID(str(event["id"])) for event in message.events)
        self.unreadable.update(message.unreadable)


class Publisher:
    """Publishes until confirmed, through lost connections.

    Args:
        amqp_url: the broker.
        exchange: where to; it must exist.
        ledger: where it is written down.
    """

    def __init__(self, amqp_url: str, exchange: str, ledger: Ledger) -> None:
        self._amqp_url = amqp_url
        self._exchange_name = exchange
        self._ledger = ledger
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._exchange: AbstractExchange | None = None
        self._connecting = asyncio.Lock()
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def publish(self, messages: Sequence[Message], routing_key: str = "usage.recorded") -> None:
        """Return when all are confirmed; they leave in their order."""
        async with asyncio.TaskGroup() as group:
            for message in messages:
                await self._slots.acquire()
                task = group.create_task(self._publish(message, routing_key))
                task.add_done_callback(lambda _: self._slots.release())

    async def _publish(self, message: Message, routing_key: str) -> None:
        self._ledger.note_sent(message)
        outgoing = aio_pika.Message(
            message.body,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            headers=_headers(message),
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        while True:
            try:
                exchange = await self._open_exchange()
                await exchange.publish(outgoing, routing_key, mandatory=True)
            except _LOST:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._ledger.note_confirmed(message)
                return

    async def _open_exchange(self) -> AbstractExchange:
        async with self._connecting:
            if self._exchange is None or self._channel is None or self._channel.is_closed:
                if self._connection is not None:
                    await self._connection.close()
                self._connection = await aio_pika.connect(self._amqp_url)
                self._channel = await self._connection.channel(on_return_raises=True)
                self._exchange = await self._channel.get_exchange(self._exchange_name, ensure=False)
            return self._exchange


def _headers(message: Message) -> HeadersType | None:
    return None if message.headers is None else dict(message.headers)


def _tokens(event: Any) -> int:
    """The total of a valid event; what a bad one says does not matter."""
    given = [event.get(name) for name in ("tokens_used", "input_tokens", "output_tokens")]
    total, *parts = (value if isinstance(value, int) else None for value in given)
    return total if total is not None else sum(part or 0 for part in parts)
