"""The producers' side: events go to RabbitMQ and are confirmed, whatever happens to the connection meanwhile."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias

from usage_events import backoff
from usage_events.errors import BrokerUnavailableError, UnroutableError
from usage_events.in_flight import InFlightWindow
from usage_events.link import Link, Target
from usage_events.messages import Message, pack

DEFAULT_EXCHANGE = "usage"
DEFAULT_ROUTING_KEY = "usage.recorded"
DEFAULT_IN_FLIGHT_MAX = 64  # more is slower: aiormq looks at all of them for each confirmation
DEFAULT_IN_FLIGHT_BYTES_MAX = 16 * 1024 * 1024

# Done when every message of one `send` is confirmed; it holds nothing but that, or the error.
Confirmation: TypeAlias = "asyncio.Future[list[None]]"

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Books:
    """Events by what became of them; `confirmed_messages` carried the confirmed ones."""

    recorded: int = 0
    confirmed: int = 0
    returned: int = 0
    confirmed_messages: int = 0

    @property
    def open(self) -> int:
        """Events neither confirmed nor returned: under way, or given up with an error that the caller has seen."""
        return self.recorded - self.confirmed - self.returned


class UsagePublisher:
    """Publishes encoded events with many messages in flight, each until RabbitMQ has confirmed it.

    A lost connection or a refusal for lack of room is tried again for as long as it takes: the event's id makes the
    second copy the same event. It belongs to one event loop; its connection is its own.

        async with UsagePublisher("amqp://localhost/", app_id="chat") as publisher:
            confirmed = await publisher.send([event])
            await confirmed
    """

    def __init__(  # noqa: PLR0913 - each is the caller's own choice, and all but the first are named
        self,
        amqp_url: str,
        *,
        exchange: str = DEFAULT_EXCHANGE,
        routing_key: str = DEFAULT_ROUTING_KEY,
        app_id: str | None = None,
        in_flight_max: int = DEFAULT_IN_FLIGHT_MAX,
        in_flight_bytes_max: int = DEFAULT_IN_FLIGHT_BYTES_MAX,
    ) -> None:
        """Nothing is connected yet: the first `send` does it, or `connect`.

        Raises:
            ValueError: an argument that no broker can take, with its limit.
        """
        self.books = Books()
        self._target = Target(amqp_url, exchange, routing_key, app_id)
        self._window = InFlightWindow(messages_max=in_flight_max, bytes_max=in_flight_bytes_max)
        self._link: Link | None = None
        self._linking = asyncio.Lock()
        self._deliveries: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def in_flight(self) -> int:
        """Messages that are sent and not yet confirmed."""
        return self._window.messages

    async def connect(self) -> None:
        """Connects now, and tries only once, for those who want to know before they begin.

        Raises:
            BrokerUnavailableError: RabbitMQ cannot be reached.
            RefusedError: the user is refused, or the exchange does not exist.
        """
        async with self._linking:
            await self._open_link()

    async def send(self, events: Sequence[bytes]) -> Confirmation:
        """Puts events on their way, in as few messages as hold them, once there is room in the window.

        Each event is one JSON object, encoded; its bytes are sent as they are. Messages may overtake each other. The
        result is done when every message is confirmed; it raises `RefusedError` for one that came back or that nobody
        may or can take. To give up waiting for it does not stop the delivery.

        Raises:
            EventTooLargeError: an event alone is larger than a message; none has been sent.
            RuntimeError: the publisher is closed.
        """
        deliveries = [await self._start(message) for message in pack(events)]
        return asyncio.shield(asyncio.gather(*deliveries))

    async def close(self) -> None:
        """Waits until what is in flight is confirmed or refused, for as long as it takes, then disconnects."""
        self._closed = True
        try:
            while self._deliveries:
                await asyncio.wait(self._deliveries)
        finally:
            await self.abort()

    async def abort(self) -> None:
        """Disconnects at once; what is in flight may or may not have arrived, and its results are cancelled."""
        self._closed = True
        deliveries = list(self._deliveries)
        for delivery in deliveries:
            delivery.cancel()
        await asyncio.gather(*deliveries, return_exceptions=True)
        if self._link is not None:
            await self._link.close()
            self._link = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            await self.abort()

    async def _start(self, message: Message) -> "asyncio.Task[None]":
        size_bytes = len(message.body)
        await self._window.enter(size_bytes)
        if self._closed:
            self._window.leave(size_bytes)
            raise RuntimeError("the publisher is closed; make another")
        self.books.recorded += message.events_count
        delivery = asyncio.create_task(self._deliver(message))
        self._deliveries.add(delivery)

        def ended(delivery: "asyncio.Task[None]") -> None:
            self._deliveries.discard(delivery)
            self._window.leave(size_bytes)

        delivery.add_done_callback(ended)
        return delivery

    async def _deliver(self, message: Message) -> None:
        for delay_seconds in backoff.delays():
            try:
                link = await self._live_link()
                await link.publish(message.body)
            except BrokerUnavailableError as error:
                _logger.debug("a message of %d events goes again: %s", message.events_count, error)
                await asyncio.sleep(delay_seconds)
            except UnroutableError:
                self.books.returned += message.events_count
                raise
            else:
                self.books.confirmed += message.events_count
                self.books.confirmed_messages += 1
                return

    async def _live_link(self) -> Link:
        """The link, opened anew where it is lost; one delivery tries, and the others wait for it."""
        if self._link is not None and not self._link.is_lost:
            return self._link
        async with self._linking:
            for delay_seconds in backoff.delays():
                try:
                    return await self._open_link()
                except BrokerUnavailableError as error:
                    _logger.warning("%s; trying again in %.1f s", error, delay_seconds)
                    await asyncio.sleep(delay_seconds)
        raise AssertionError("delays have no end")

    async def _open_link(self) -> Link:
        if self._link is not None:
            if not self._link.is_lost:
                return self._link
            lost, self._link = self._link, None
            await lost.close()
        self._link = await Link.open(self._target)
        return self._link
