"""The source on RabbitMQ: aio-pika connects, the frame reader or aiormq delivers, aiormq's channel acknowledges."""

import asyncio
from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import aiormq
import structlog
from aio_pika.connection import Connection
from aiormq.abc import AbstractChannel, DeliveredMessage

from worker.delivery import Delivery
from worker.errors import SystemUnavailableError
from worker.rabbitmq.calls import calls
from worker.rabbitmq.connection import connect
from worker.rabbitmq.deliveries import Gapless, from_frames, from_library
from worker.rabbitmq.delivery_path import Way
from worker.rabbitmq.frames import RawDelivery
from worker.rabbitmq.topology import ensure_topology
from worker.settings import Settings
from worker.settle import Ack
from worker.source import Receiver

if TYPE_CHECKING:  # it does not import where the library has no extension point
    from worker.rabbitmq.transport import DeliveryTransport

CALL_SECONDS_MAX = 20.0
# A node that is cut off from its cluster goes on with heartbeats and answers no declaration: another is asked instead.
TOPOLOGY_SECONDS_MAX = 20.0
CLOSE_SECONDS_MAX = 2.0
GOODBYE_SECONDS_MAX = 1.0  # for each of two calls
IDLE_SECONDS_MAX = 30.0  # nothing delivered for so long while messages are ready: the consumer is lost

log = structlog.get_logger(__name__)


class RabbitSource:
    """Consumes one queue. See `worker.source.Source`.

    Args:
        settings: where the broker is and what the topology is called.
        queue: the queue to consume.
        name: how the connection shows in the broker's own lists.
        way: how deliveries come.
    """

    def __init__(self, settings: Settings, *, queue: str, name: str, way: Way = Way.FAST) -> None:
        self.queue = queue
        self._way = way
        self._settings = settings
        self._name = name
        self._receiver: Receiver | None = None
        self._transport: DeliveryTransport | None = None
        self._connection: Connection | None = None
        self._channel: AbstractChannel | None = None
        self._consumer_tag: str | None = None
        self._lost: asyncio.Future[str] | None = None
        self._delivered_at = 0.0
        self._generation = 0

    async def open(self, generation: int, prefetch: int, receiver: Receiver) -> None:
        """See `Source.open`."""
        self._receiver = Gapless(receiver, generation, self._lose)
        self._lost = asyncio.get_running_loop().create_future()
        self._transport = self._make_transport(generation)
        try:
            with calls(self._settings):
                await self._open(generation, prefetch)
        except BaseException:
            await self.close()
            raise

    async def lost(self) -> str:
        """See `Source.lost`."""
        assert self._lost is not None  # noqa: S101 - the pipeline waits for what it has opened
        while True:
            done, _ = await asyncio.wait({self._lost}, timeout=IDLE_SECONDS_MAX / 2)
            if done:
                return self._lost.result()
            if why := await self._why_deaf():
                return f"{why} for {IDLE_SECONDS_MAX:.0f} s"

    async def set_prefetch(self, prefetch: int, acks: Sequence[Ack]) -> None:
        """See `Source.set_prefetch`. A live consumer on a quorum queue does not take a new prefetch."""
        with self._losing(), calls(self._settings):
            await self._unless_lost(self._consume_again(prefetch, acks))

    async def acknowledge(self, acks: Sequence[Ack]) -> None:
        """See `Source.acknowledge`. The library's queue of what is to be sent may be full when its connection ends."""
        channel = self._require_channel()
        with self._losing(), calls(self._settings):
            await self._unless_lost(_send(channel, acks))

    def pause(self) -> None:
        """See `Source.pause`."""
        if self._transport is not None and self._transport.reader is not None:
            self._transport.reader.pause()

    def resume(self) -> None:
        """See `Source.resume`."""
        if self._transport is not None and self._transport.reader is not None:
            self._transport.reader.resume()

    async def stop_consuming(self) -> None:
        """See `Source.stop_consuming`."""
        with calls(self._settings):
            await self._unless_lost(self._cancel())

    async def give_back(self, last_tag: int) -> None:
        """See `Source.give_back`. From 4.3 a nack does not count as a delivery, where a lost connection does."""
        channel = self._channel
        if channel is None or channel.is_closed:
            return
        try:
            with calls(self._settings):
                async with asyncio.timeout(CLOSE_SECONDS_MAX):
                    await channel.basic_nack(last_tag, multiple=True, requeue=True)
        except SystemUnavailableError as error:
            log.debug("could not give deliveries back: the broker does so itself", why=str(error))

    async def close(self) -> None:
        """See `Source.close`."""
        self.resume()  # a paused reader would not see the broker's answers
        connection, channel, transport = self._connection, self._channel, self._transport
        self._connection = self._channel = self._transport = self._consumer_tag = None
        try:
            if channel is not None and not channel.is_closed:
                # A quorum queue may ignore what arrives just before the channel closes: an answer from the
                # broker says that the acknowledgements before it have been processed.
                await self._politely(channel.queue_declare(self.queue, passive=True))
            if connection is not None:
                await self._politely(connection.close())
        finally:
            # Whatever the broker answered: a connection that stayed open would hold its deliveries for ever.
            if transport is not None:
                transport.abort()

    async def _declare(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(TOPOLOGY_SECONDS_MAX):
                await ensure_topology(connection, self._settings)
        except TimeoutError as error:
            why = f"nothing declared within {TOPOLOGY_SECONDS_MAX:g} s: the node may be cut off from its cluster"
            raise TimeoutError(why) from error

    async def _open(self, generation: int, prefetch: int) -> None:
        self._connection = await connect(self._settings, self._name, transport=self._transport)
        await self._declare(self._connection)
        self._connection.close_callbacks.add(self._on_connection_closed)
        channel = self._connection.channel(publisher_confirms=False)
        async with asyncio.timeout(CALL_SECONDS_MAX):  # the library's own argument for it is not looked at
            await channel.initialize()
        channel.close_callbacks.add(self._on_channel_closed)
        self._channel = await channel.get_underlay_channel()
        self._channel.on_consumer_cancel_callbacks.add(self._on_cancelled)
        self._keep = channel
        self._generation = generation
        await self._consume(prefetch)

    def _make_transport(self, generation: int) -> "DeliveryTransport | None":
        """Each connection's deliveries are of its own generation: it may outlive its loss for a moment."""
        if self._way is Way.BARE:
            return None
        from worker.rabbitmq.transport import DeliveryTransport

        def on_deliveries(raws: list[RawDelivery]) -> None:
            self._receive([from_frames(raw, generation, self.queue) for raw in raws])

        return DeliveryTransport(on_deliveries if self._way is Way.FAST else None)

    def _receive(self, deliveries: list[Delivery]) -> None:
        self._delivered_at = monotonic()  # asking for the running loop is a system call in CPython 3.11
        assert self._receiver is not None  # noqa: S101 - `open` has set it
        self._receiver.receive(deliveries)

    async def _consume(self, prefetch: int) -> None:
        channel = self._require_channel()
        await channel.basic_qos(prefetch_count=prefetch, timeout=CALL_SECONDS_MAX)
        self._delivered_at = monotonic()
        generation = self._generation

        async def on_message(message: DeliveredMessage) -> None:  # the frame reader leaves it nothing
            self._receive([from_library(message, generation, self.queue)])

        answer = await channel.basic_consume(self.queue, on_message, timeout=CALL_SECONDS_MAX)
        self._consumer_tag = answer.consumer_tag

    async def _consume_again(self, prefetch: int, acks: Sequence[Ack]) -> None:
        await self._cancel()
        await _send(self._require_channel(), acks)
        await self._consume(prefetch)

    async def _unless_lost(self, call: Coroutine[Any, Any, None]) -> None:
        """Make a call to the broker, and give it up when the channel is lost.

        The library cancels a call whose channel dies, but it may go on to wait for its time-out: `asyncio.wait_for`
        loses a cancellation that comes together with a result, before Python 3.12.
        """
        assert self._lost is not None  # noqa: S101 - `open` has set it
        calling = asyncio.ensure_future(call)
        either: set[asyncio.Future[Any]] = {calling, self._lost}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not calling.done():
                raise SystemUnavailableError(self._lost.result())
            await calling
        finally:
            calling.cancel()

    async def _cancel(self) -> None:
        tag, self._consumer_tag = self._consumer_tag, None
        if tag is not None:
            await self._require_channel().basic_cancel(tag, timeout=CALL_SECONDS_MAX)

    @contextmanager
    def _losing(self) -> Iterator[None]:
        """Around what has left the channel half way where it fails, such as a consumer that is cancelled already."""
        try:
            yield
        except SystemUnavailableError as error:
            self._lose(str(error))
            raise

    async def _politely(self, call: Awaitable[object]) -> None:
        """Part of a goodbye: the broker may be gone, or not answer."""
        try:
            with calls(self._settings):
                async with asyncio.timeout(GOODBYE_SECONDS_MAX):
                    await call
        except SystemUnavailableError as error:
            log.debug("the connection to RabbitMQ was gone before it was closed", why=str(error))

    async def _why_deaf(self) -> str:
        """Are there messages for us that do not come? Other clients have been found so after reconnects. Else empty.

        A queue whose leader cannot be reached is counted as an empty one; but then our own consumer is not counted.
        """
        idle = monotonic() - self._delivered_at
        held = self._receiver.held() if self._receiver is not None else 0
        if idle < IDLE_SECONDS_MAX or self._consumer_tag is None or held:
            return ""
        try:
            with calls(self._settings):
                answer = await self._require_channel().queue_declare(self.queue, passive=True, timeout=CALL_SECONDS_MAX)
        except SystemUnavailableError:
            return "the broker says nothing of the queue, and nothing came"
        if not answer.consumer_count:
            return "the broker does not know us as a consumer, and nothing came"
        return "messages are ready but none came" if answer.message_count else ""

    def _require_channel(self) -> AbstractChannel:
        if self._channel is None or self._channel.is_closed:
            raise SystemUnavailableError("the channel to RabbitMQ is closed")
        return self._channel

    def _lose(self, why: str) -> None:
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(why)

    # These run inside the library's reader: a call to the broker from here would wait for itself.
    def _on_connection_closed(self, _: Any, error: BaseException | None) -> None:
        self._lose(f"the connection was closed: {error}{self._hint(error)}")

    def _on_channel_closed(self, _: Any, error: BaseException | None) -> None:
        self._lose(f"the channel was closed: {error}{self._hint(error)}")

    def _on_cancelled(self, _: Any) -> None:
        self._lose("the broker cancelled the consumer")

    def _hint(self, error: BaseException | None) -> str:
        """The library reads every property; one that it cannot read looks like a broken frame to it."""
        if self._way is Way.FAST or not isinstance(error, aiormq.exceptions.InvalidFrameError):
            return ""
        return "; where a message's properties are the reason, USAGE_DELIVERY_PATH=fast can read it"


async def _send(channel: AbstractChannel, acks: Sequence[Ack]) -> None:
    for ack in acks:
        await channel.basic_ack(ack.tag, multiple=ack.multiple, wait=False)
