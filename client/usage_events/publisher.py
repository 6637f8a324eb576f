"""The producers' side: events go to RabbitMQ and are confirmed, whatever happens to the connection meanwhile."""

import asyncio
import logging
import os
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from usage_events.books import Books
from usage_events.buffer import Buffer, Entry
from usage_events.buffer_options import (
    DEFAULT_BUFFER_BYTES_MAX,
    DEFAULT_BUFFER_EVENTS_MAX,
    DEFAULT_SPOOL_BYTES_MAX,
    BufferOptions,
    Durability,
    Sync,
    WhenFull,
)
from usage_events.complaints import Complaints, OnError
from usage_events.courier import ABORT_TIMEOUT_SECONDS, Courier, seconds_to_close
from usage_events.direct import Confirmation, DirectSender
from usage_events.errors import UnconfirmedError
from usage_events.home import Home
from usage_events.in_flight import Deliveries, InFlightWindow
from usage_events.link import Target
from usage_events.sender import Packing, Sender

if TYPE_CHECKING:
    from usage_events.event import UsageEvent  # who has one has loaded it, and pydantic

DEFAULT_EXCHANGE = "usage"
DEFAULT_ROUTING_KEY = "usage.recorded"
DEFAULT_EVENTS_PER_MESSAGE_MAX = 100
DEFAULT_LINGER_SECONDS = 0.05
DEFAULT_IN_FLIGHT_MAX = 64  # more is slower: aiormq looks at all of them for each confirmation
DEFAULT_IN_FLIGHT_BYTES_MAX = 16 * 1024 * 1024
ERROR_TIMEOUT_SECONDS = 5.0  # for what a block that an error ends has recorded

_logger = logging.getLogger(__name__)


class UsagePublisher:
    """Sends recorded events in the background, many messages at once, each until RabbitMQ has confirmed it.

    A lost connection, a refusal for lack of room, and one that somebody can mend (no queue is bound, no exchange, no
    permission) are tried again for as long as it takes: the event's id makes a second copy the same event. It belongs
    to one event loop and its thread; its connection is its own.

        async with UsagePublisher("amqp://localhost/", app_id="chat") as publisher:
            publisher.record(event)

    Args:
        amqp_url: the broker, with user, password and vhost.
        app_id: the service's name, on every message: what is stored or refused can be counted by it.
        exchange: where to; it must exist.
        routing_key: of every message.
        partition_by_organization: a message holds one organization's events, and its routing key ends with
            the organization's id: `usage.recorded.<organization_id>`.
        durability: where events wait: in `memory`, or in the `spool`, a file that outlives the process.
        when_full: what `record` does while as much waits as the buffer holds: `raise`, `drop_oldest`, or, from memory,
            `spool`, which puts what does not fit into the file.
        spool_path: the file, on a local disk; any number of processes may share it.
        spool_bytes_max: how long the events in it may be together.
        spool_sync: what a power cut may cost: with `normal` the last moments, with `full` nothing, and each `record`
            waits for the disk.
        buffer_events_max: how many events may wait.
        buffer_bytes_max: how long they may be together; what is in flight comes on top.
        events_per_message_max: events sent together; a message is also full at 1 MiB.
        linger_seconds: how long an event waits for others before a message goes that is not full.
        in_flight_max: messages that are sent and not yet confirmed.
        in_flight_bytes_max: how long they may be together.
        on_error: hears, once for each message, what RabbitMQ has refused, with its events' JSON. After an
            `EventTooLargeError` they are given up; after any other error they are tried again.
        traces: a span for each message, whose context the worker links to; needs `usage-events[otel]`.
    """

    def __init__(  # noqa: PLR0913 - each is the caller's own choice, and all but the first are named
        self,
        amqp_url: str,
        *,
        app_id: str | None = None,
        exchange: str = DEFAULT_EXCHANGE,
        routing_key: str = DEFAULT_ROUTING_KEY,
        partition_by_organization: bool = False,
        durability: Durability = "memory",
        when_full: WhenFull = "raise",
        spool_path: str | os.PathLike[str] | None = None,
        spool_bytes_max: int = DEFAULT_SPOOL_BYTES_MAX,
        spool_sync: Sync = "normal",
        buffer_events_max: int = DEFAULT_BUFFER_EVENTS_MAX,
        buffer_bytes_max: int = DEFAULT_BUFFER_BYTES_MAX,
        events_per_message_max: int = DEFAULT_EVENTS_PER_MESSAGE_MAX,
        linger_seconds: float = DEFAULT_LINGER_SECONDS,
        in_flight_max: int = DEFAULT_IN_FLIGHT_MAX,
        in_flight_bytes_max: int = DEFAULT_IN_FLIGHT_BYTES_MAX,
        on_error: OnError | None = None,
        traces: bool = False,
    ) -> None:
        """Nothing is connected yet: the first event does it, or `connect`.

        Raises:
            ValueError: an argument that no broker can take, with its limit.
            SpoolError: the spool's file cannot be used.
        """
        self._buffering = BufferOptions(
            durability, when_full, buffer_events_max, buffer_bytes_max, spool_path, spool_bytes_max, spool_sync
        )
        self._target = Target(amqp_url, exchange, routing_key, app_id, by_organization=partition_by_organization)
        self._courier = Courier(self._target, traces=traces)
        self._complaints = Complaints(on_error)
        self._books = Books()
        self._deliveries = Deliveries(InFlightWindow(messages_max=in_flight_max, bytes_max=in_flight_bytes_max))
        packing = Packing(routing_key, partition_by_organization, events_per_message_max, linger_seconds)
        self._buffer = self._make_buffer()
        self._sender = Sender(
            buffer=self._buffer,
            courier=self._courier,
            deliveries=self._deliveries,
            books=self._books,
            packing=packing,
            complaints=self._complaints,
        )
        self._direct = DirectSender(
            courier=self._courier, deliveries=self._deliveries, books=self._books, routing_key=routing_key
        )
        self._home = Home()
        self._sending: asyncio.Task[None] | None = None
        self._closed = False
        self._ends = False
        self._ended = False

    @property
    def books(self) -> Books:
        """What became of the events so far."""
        self._books.buffered = self._buffer.events + self._sender.events
        return self._books

    @property
    def in_flight(self) -> int:
        """Messages that are sent and not yet confirmed."""
        return self._deliveries.messages

    async def connect(self) -> None:
        """Connects now, and tries only once, for those who want to know before they begin.

        Raises:
            BrokerUnavailableError: RabbitMQ cannot be reached.
            RefusedError: the user is refused, or the exchange does not exist.
        """
        self._home.enter()
        await self._courier.connect()

    async def start(self) -> None:
        """Begins to send what is recorded. The broker need not be there yet.

        Raises:
            RuntimeError: the publisher is closed.
        """
        self._refuse_if_closed()
        self._begin_sending()

    def record(self, event: "UsageEvent") -> None:
        """Takes an event, and sends it in the background. Never waits.

        Raises:
            BufferFullError: there is no room, and `when_full` is `raise`: the event has not been taken.
            RuntimeError: the publisher is closed, or belongs to another thread or to a loop that has ended.
        """
        self._refuse_if_closed()
        self._home.refuse_strangers()
        self._buffer.put(Entry(event.to_json(), event.organization_id, self._courier.origin()))
        self._note_recorded()
        self._sender.notify()

    async def flush(self, timeout_seconds: float | None = None) -> None:
        """Returns when all that is recorded by now is confirmed, or given up with an error that `on_error` heard.

        Raises:
            UnconfirmedError: that takes longer than `timeout_seconds`, and sending goes on; or `abort` ends it.
            RuntimeError: the publisher is closed, or belongs to another loop.
        """
        self._refuse_if_closed()
        self._begin_sending()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._sender.drain(self._keep_sending)
        except UnconfirmedError:
            raise
        except TimeoutError:
            raise self._unconfirmed(timeout_seconds, "they are tried again") from None

    async def send(self, events: Sequence[bytes]) -> Confirmation:
        """For events that are encoded already: puts them on their way past the buffer, once there is room in flight.

        Each is one JSON object; its bytes are sent as they are, in as few messages as hold them, all with the plain
        routing key. Messages may overtake each other. The result is done when every message is confirmed; it raises
        `RefusedError` for one that came back or that nobody may or can take, and that is not tried again. To give up
        waiting for it does not stop the delivery.

        Raises:
            EventTooLargeError: an event alone is larger than a message; none has been sent.
            RuntimeError: the publisher is closed.
        """
        self._home.enter()
        return await self._direct.send(events, self._refuse_if_closed)

    async def close(self, timeout_seconds: float | None = None) -> None:
        """Takes no more events, waits until all that it has is confirmed or given up, and disconnects.

        Raises:
            UnconfirmedError: that takes longer than `timeout_seconds`; what is left may or may not have arrived, and
                stays in the spool, if there is one.
        """
        self._home.enter()
        self._closed = True
        if self._ended:
            return
        try:
            async with asyncio.timeout(timeout_seconds) as deadline:
                if self._buffer.events:
                    self._begin_sending()
                await self._sender.drain(self._keep_sending)
                await self._deliveries.wait()
        except UnconfirmedError:
            raise
        except TimeoutError:
            fate = "they stay in the spool" if self._buffering.uses_spool else "they may or may not have arrived"
            raise self._unconfirmed(timeout_seconds, fate) from None
        else:
            await self._courier.close(seconds_to_close(deadline.when()))
        finally:
            await self.abort()

    async def abort(self) -> None:
        """Disconnects at once; what is in flight may or may not have arrived, and results of `send` are cancelled."""
        self._closed = self._ends = True
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        await self._deliveries.cancel()
        if not self._ended:
            self._ended = True
            self._sender.give_back()
            _logger.info("usage events at the end: %s", self.books)
            self._buffer.close()
        await self._courier.close(ABORT_TIMEOUT_SECONDS)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
            return
        try:  # what happened stays the error; what was recorded before it counts
            await self.close(ERROR_TIMEOUT_SECONDS)
        except UnconfirmedError as unconfirmed:
            _logger.error("the publisher ends: %s", unconfirmed)  # noqa: TRY400 - the trace says nothing more

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the publisher is closed; make another")

    def _keep_sending(self) -> None:
        if self._ends:
            raise self._unconfirmed(None, "the publisher has been ended meanwhile")
        self._begin_sending()

    def _begin_sending(self) -> None:
        self._home.enter()
        if self._sending is None or self._sending.done():  # somebody may have cancelled every task of the loop
            self._sending = asyncio.create_task(self._sender.run(), name="usage_events sender")

    def _make_buffer(self) -> Buffer:
        return self._buffering.make(self._note_dropped, self._books.note_spooled, self._books.note_damaged)

    def _note_recorded(self) -> None:
        self._books.recorded += 1
        if self._buffering.durability == "spool":
            self._books.spooled += 1

    def _note_dropped(self, count: int) -> None:
        self._books.dropped += count
        self._complaints.dropped(count)

    def _unconfirmed(self, timeout_seconds: float | None, fate: str) -> UnconfirmedError:
        # A spool may hold what others have recorded, or this service before it was started again.
        count = self.books.buffered if self._buffering.uses_spool else self.books.open
        why = self._courier.trouble or f"RabbitMQ at {self._target.broker} has not answered"
        after = "" if timeout_seconds is None else f" after {timeout_seconds} s"
        return UnconfirmedError(f"events not confirmed{after}: {count:,}; {fate}. {why}", count)
