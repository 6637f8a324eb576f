"""One suite for every source: the one in memory, on which the pipeline's tests stand, and the one on RabbitMQ."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from fakes import MemoryQueue, MemorySource
from harness.waiting import until
from pydantic import SecretStr
from signals import Signal

from worker.delivery import Delivery
from worker.errors import SystemUnavailableError
from worker.rabbitmq.delivery_path import Way
from worker.rabbitmq.source import RabbitSource
from worker.settings import Settings
from worker.settle import Ack
from worker.source import Source

MANY = 100


class Inbox:
    """A receiver that keeps what it is given."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self._signal = Signal()

    def receive(self, deliveries: Sequence[Delivery]) -> None:
        """See `Receiver`."""
        self.deliveries.extend(deliveries)
        self._signal.notify()

    def held(self) -> int:
        """See `Receiver`."""
        return len(self.deliveries)

    async def until(self, count: int) -> None:
        """Wait for so many."""
        await self._signal.until(lambda: len(self.deliveries) >= count)

    async def next(self, count: int) -> list[Delivery]:
        """Wait for so many, and take them."""
        await self.until(count)
        taken, self.deliveries = self.deliveries[:count], self.deliveries[count:]
        return taken


class Backend(Protocol):
    """A queue, from outside the source."""

    def source(self) -> Source:
        """A source on it; closed at the end of the test."""

    async def publish(self, *bodies: bytes) -> None:
        """Put messages into it; they are there when this returns."""

    async def ready(self) -> int:
        """How many messages wait in it."""

    async def break_connection(self, source: Source) -> None:
        """The broker ends the source's connection."""

    async def delete_queue(self) -> None:
        """The queue goes away."""

    def unreachable(self) -> Source:
        """A source whose broker does not answer."""


class MemoryBackend:
    """A queue in memory."""

    def __init__(self) -> None:
        self._queue = MemoryQueue()
        self._source = MemorySource(self._queue)

    def source(self) -> Source:
        """See `Backend`."""
        return self._source

    async def publish(self, *bodies: bytes) -> None:
        """See `Backend`."""
        self._queue.publish(*bodies)

    async def ready(self) -> int:
        """See `Backend`."""
        return len(self._queue.ready)

    async def break_connection(self, _: Source) -> None:
        """See `Backend`."""
        self._source.cut()

    async def delete_queue(self) -> None:
        """See `Backend`."""
        self._source.delete_queue()

    def unreachable(self) -> Source:
        """See `Backend`."""
        queue = MemoryQueue()
        queue.is_down = True
        return MemorySource(queue)


class RabbitBackend:
    """A queue of a real broker."""

    def __init__(self, settings: Settings, channel: AbstractChannel, way: Way) -> None:
        self.settings = settings
        self._way = way
        self._channel = channel
        self.sources: list[Source] = []

    def source(self) -> Source:
        """See `Backend`."""
        self.sources.append(RabbitSource(self.settings, queue=self.settings.queue, name="contract", way=self._way))
        return self.sources[-1]

    async def publish(self, *bodies: bytes) -> None:
        """See `Backend`."""
        for body in bodies:
            await self._channel.default_exchange.publish(aio_pika.Message(body), self.settings.queue)

    async def publish_message(self, message: aio_pika.Message) -> None:
        """The same with properties."""
        await self._channel.default_exchange.publish(message, self.settings.queue)

    async def ready(self) -> int:
        """See `Backend`."""
        queue = await self._channel.declare_queue(self.settings.queue, passive=True)
        return queue.declaration_result.message_count or 0

    async def break_connection(self, source: Source) -> None:
        """See `Backend`. A frame of a type that does not exist makes the broker close the connection."""
        assert isinstance(source, RabbitSource)
        transport: Any = source._connection and source._connection.transport
        connection = transport.connection
        connection.write_queue.put_nowait(_broken_frame())

    async def delete_queue(self) -> None:
        """See `Backend`."""
        await self._channel.queue_delete(self.settings.queue)

    def unreachable(self) -> Source:
        """See `Backend`. Port 9 discards: nothing listens there."""
        settings = self.settings.model_copy(update={"amqp_url": SecretStr("amqp://guest:secret@127.0.0.1:9/")})
        return RabbitSource(settings, queue=settings.queue, name="contract", way=self._way)


def _broken_frame() -> Any:
    from aiormq.abc import ChannelFrame

    return ChannelFrame(payload=b"\x09\x00\x00\x00\x00\x00\x00\xce", should_close=False, drain_future=None)


def bodies_of(deliveries: list[Delivery]) -> list[bytes]:
    """What was delivered."""
    return [delivery.body for delivery in deliveries]


async def nothing_comes(inbox: Inbox, count: int) -> None:
    """So many deliveries do not come in a moment; those that have come stay."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await inbox.until(count)


class SourceContract:
    """What every source keeps."""

    @pytest.fixture
    def inbox(self) -> Inbox:
        """Where deliveries go."""
        return Inbox()

    @pytest.fixture
    async def source(self, backend: Backend, inbox: Inbox) -> AsyncIterator[Source]:
        """A source that is open, with a prefetch of 10."""
        made = backend.source()
        await made.open(1, 10, inbox)
        yield made
        await made.close()

    async def until_ready(self, backend: Backend, count: int) -> None:
        """Wait until so many messages are in the queue."""
        seen = -1

        async def there_are() -> bool:
            nonlocal seen
            seen = await backend.ready()
            return seen == count

        await until(there_are, f"{count} messages are ready", details=lambda: f"there are {seen}")

    @pytest.mark.usefixtures("source")
    async def test_receives_in_order(self, backend: Backend, inbox: Inbox) -> None:
        """Deliveries come in order, with rising tags from 1, the generation, the queue and no earlier delivery."""
        bodies = [b"%d" % number for number in range(10)]
        await backend.publish(*bodies)
        deliveries = await inbox.next(10)
        assert bodies_of(deliveries) == bodies
        assert [delivery.tag for delivery in deliveries] == list(range(1, 11))
        assert {(one.generation, one.delivery_count) for one in deliveries} == {(1, 0)}
        assert {one.queue for one in deliveries} == {backend.source().queue}

    async def test_bodies_of_every_size(self, backend: Backend, inbox: Inbox, source: Source) -> None:
        """An empty body, and one of several frames."""
        await backend.publish(b"", b"x" * 700_000, b"y")
        deliveries = await inbox.next(3)
        assert [(len(one.body), one.body[:1]) for one in deliveries] == [(0, b""), (700_000, b"x"), (1, b"y")]
        await source.acknowledge([Ack(3, multiple=True)])

    async def test_prefetch_bounds_what_is_handed_out(self, backend: Backend, inbox: Inbox, source: Source) -> None:
        """No more than the prefetch is out; an acknowledgement of one, and of all up to one, lets so many more come."""
        await backend.publish(*(b"%d" % number for number in range(30)))
        await inbox.next(10)
        await self.until_ready(backend, 20)
        await source.acknowledge([Ack(2, multiple=False)])
        assert bodies_of(await inbox.next(1)) == [b"10"]
        await source.acknowledge([Ack(5, multiple=True)])
        assert bodies_of(await inbox.next(4)) == [b"11", b"12", b"13", b"14"]
        await self.until_ready(backend, 15)
        assert inbox.deliveries == []

    async def test_only_what_is_acknowledged_is_gone(self, backend: Backend, inbox: Inbox, source: Source) -> None:
        """After a close only what was not acknowledged is in the queue, also where that was out of order."""
        await backend.publish(*(b"%d" % number for number in range(8)))
        await inbox.next(8)
        await source.acknowledge([Ack(3, multiple=True), Ack(6, multiple=False), Ack(7, multiple=False)])
        await source.close()
        await self.until_ready(backend, 3)
        again = backend.source()
        await again.open(2, 10, inbox)
        deliveries = await inbox.next(3)
        assert sorted(bodies_of(deliveries)) == [b"3", b"4", b"7"]
        assert {(one.generation, one.delivery_count) for one in deliveries} == {(2, 1)}
        assert [one.tag for one in deliveries] == [1, 2, 3]

    async def test_another_prefetch(self, backend: Backend, inbox: Inbox, source: Source) -> None:
        """Up and down, while messages are held: what is held stays so, can be acknowledged, and nothing comes twice."""
        bodies = [b"%d" % number for number in range(MANY)]
        await backend.publish(*bodies)
        deliveries = await inbox.next(10)
        await source.set_prefetch(25, [Ack(deliveries[4].tag, multiple=True)])
        deliveries += await inbox.next(20)
        await source.set_prefetch(2, [Ack(deliveries[-1].tag, multiple=True)])
        while len(deliveries) < MANY:
            found = await inbox.next(1)
            deliveries += found
            await source.acknowledge([Ack(found[0].tag, multiple=False)])
        assert bodies_of(deliveries) == bodies
        await source.close()
        await self.until_ready(backend, 0)

    async def test_paused_and_resumed(self, backend: Backend, inbox: Inbox, source: Source) -> None:
        """A paused source reads nothing more, but for what it was just reading; resumed, it gives everything."""
        source.pause()
        await backend.publish(b"0")
        await nothing_comes(inbox, 2)
        await backend.publish(b"1", b"2", b"3", b"4")
        await nothing_comes(inbox, 2)
        source.resume()
        assert bodies_of(await inbox.next(5)) == [b"0", b"1", b"2", b"3", b"4"]

    async def test_closed_while_paused(self, backend: Backend, source: Source) -> None:
        """A paused source leaves like any other: what is held is in the queue again."""
        source.pause()
        await backend.publish(b"0", b"1", b"2")
        await source.close()
        await self.until_ready(backend, 3)

    async def test_stopped_it_can_still_acknowledge(self, backend: Backend, inbox: Inbox, source: Source) -> None:
        """After `stop_consuming` no delivery comes; what is held can be acknowledged."""
        await backend.publish(b"0", b"1")
        await inbox.next(2)
        await source.stop_consuming()
        await backend.publish(b"2")
        await self.until_ready(backend, 1)
        await source.acknowledge([Ack(2, multiple=True)])
        await source.close()
        await self.until_ready(backend, 1)
        assert inbox.deliveries == []

    async def test_gives_back(self, backend: Backend, inbox: Inbox, source: Source) -> None:
        """Everything up to a tag returns to the queue, for another to take; acknowledged ones do not."""
        await backend.publish(b"0", b"1", b"2", b"3")
        deliveries = await inbox.next(4)
        await source.acknowledge([Ack(deliveries[1].tag, multiple=False)])
        await source.stop_consuming()
        await source.give_back(deliveries[-1].tag)
        await self.until_ready(backend, 3)
        other = backend.source()
        await source.close()
        await other.open(2, 10, inbox)
        assert bodies_of(await inbox.next(3)) == [b"0", b"2", b"3"]

    async def test_close_returns_what_is_held(self, backend: Backend, inbox: Inbox, source: Source) -> None:
        """Leaving without an acknowledgement leaves everything to others; a second close does nothing."""
        await backend.publish(b"0", b"1")
        await inbox.next(2)
        await source.close()
        await source.close()
        await self.until_ready(backend, 2)

    async def test_a_broken_connection_is_noticed(self, backend: Backend, inbox: Inbox, source: Source) -> None:
        """`lost` ends and says why; nothing can be done on the channel; a new generation gets everything again."""
        await backend.publish(b"0", b"1")
        await inbox.next(2)
        lost = asyncio.ensure_future(source.lost())
        await backend.break_connection(source)
        async with asyncio.timeout(20):
            assert await lost
        for call in (source.acknowledge([Ack(1, multiple=False)]), source.set_prefetch(5, [])):
            with pytest.raises(SystemUnavailableError):
                await call
        await source.give_back(2)
        await source.close()
        await self.until_ready(backend, 2)
        await source.open(2, 10, inbox)
        deliveries = await inbox.next(2)
        assert [(one.tag, one.generation) for one in deliveries] == [(1, 2), (2, 2)]
        assert {one.delivery_count for one in deliveries} == {1}

    async def test_a_deleted_queue_is_noticed(self, backend: Backend, inbox: Inbox, source: Source) -> None:
        """`lost` ends when the broker cancels the consumer; opened again, it consumes again."""
        await backend.delete_queue()
        async with asyncio.timeout(20):
            assert "cancelled" in await source.lost()
        await source.close()
        await source.open(2, 10, inbox)
        await backend.publish(b"0")
        assert bodies_of(await inbox.next(1)) == [b"0"]

    async def test_waiting_for_a_loss_can_be_given_up(self, backend: Backend, inbox: Inbox, source: Source) -> None:
        """Who waits for a loss may stop to: the source goes on, and the next one who waits is told."""
        waiting = asyncio.ensure_future(source.lost())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        await backend.publish(b"0")
        await inbox.next(1)
        await backend.break_connection(source)
        async with asyncio.timeout(20):
            assert await source.lost()

    async def test_a_broker_that_does_not_answer(self, backend: Backend, inbox: Inbox) -> None:
        """One try, one error, without the password in it; a close after it does nothing."""
        source = backend.unreachable()
        with pytest.raises(SystemUnavailableError) as caught:
            await source.open(1, 1, inbox)
        assert "secret" not in str(caught.value)
        await source.close()


class TestMemorySource(SourceContract):
    """The source that the pipeline's tests use."""

    @pytest.fixture
    async def backend(self) -> Backend:
        """A queue in memory."""
        return MemoryBackend()


class RabbitSourceContract(SourceContract):
    """The source on a real broker, whichever way its deliveries come."""

    way: Way

    @pytest.fixture
    async def backend(self, amqp_url: str, names: Any) -> AsyncIterator[Backend]:
        """A queue under a name of its own."""
        settings = Settings(amqp_url=SecretStr(amqp_url), exchange=names.exchange, queue=names.queue)
        connection = await aio_pika.connect(amqp_url)
        made = RabbitBackend(settings, await connection.channel(), self.way)
        yield made
        for source in made.sources:
            await source.close()
        await connection.close()


class TestRabbitSource(RabbitSourceContract):
    """Where the frame reader delivers."""

    way = Way.FAST

    async def test_a_broker_that_does_not_answer_a_goodbye(
        self, backend: Backend, source: Source, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The connection goes away all the same: what it holds would be out of reach for ever."""
        assert isinstance(source, RabbitSource)
        await backend.publish(b"0", b"1")
        await inbox.next(2)

        async def never(*_: Any, **__: Any) -> None:
            await asyncio.get_running_loop().create_future()

        monkeypatch.setattr("worker.rabbitmq.source.GOODBYE_SECONDS_MAX", 0.01)
        monkeypatch.setattr(source._channel, "queue_declare", never)
        monkeypatch.setattr(source._connection, "close", never)
        await source.close()
        await self.until_ready(backend, 2)

    async def test_paused_it_leaves_politely(self, source: Source) -> None:
        """A paused source still sees the broker's answers to its goodbye, and leaves no open connection behind."""
        assert isinstance(source, RabbitSource)
        connection, channel = source._connection, source._channel
        assert connection is not None
        assert channel is not None
        answered = False
        ask = channel.queue_declare

        async def note(*arguments: Any, **options: Any) -> Any:
            nonlocal answered
            answer = await ask(*arguments, **options)
            answered = True
            return answer

        channel.queue_declare = note  # type: ignore[method-assign]
        source.pause()
        await source.close()
        assert (answered, connection.is_closed) == (True, True)


class TestLibraryRabbitSource(TestRabbitSource):
    """The same where the library delivers."""

    way = Way.LIBRARY

    async def test_what_the_library_says_of_a_message(self, backend: Backend, inbox: Inbox, source: Source) -> None:
        """Each property, name and count comes as the frame reader gives it."""
        assert isinstance(backend, RabbitBackend)
        sent = aio_pika.Message(
            b"0", content_type="a/b", content_encoding="c", app_id="d", user_id="guest", headers={"e": 1, "f": "g"}
        )
        expected = ("a/b", "c", "d", "guest", {"e": 1, "f": "g"})
        await backend.publish_message(sent)
        await inbox.next(1)
        for generation in (2, 3):
            for way in (Way.FAST, Way.LIBRARY):
                await source.close()
                source = RabbitSource(backend.settings, queue=backend.settings.queue, name="contract", way=way)
                backend.sources.append(source)
                await source.open(generation, 1, inbox)
                (found,) = await inbox.next(1)
                given = found.properties
                headers = {
                    key: value for key, value in given.headers.items() if not key.startswith("x-")
                }  # the broker's own
                assert (given.content_type, given.content_encoding, given.app_id, given.user_id, headers) == expected
                assert (found.exchange, found.routing_key) == ("", backend.settings.queue)
                assert (found.generation, found.queue) == (generation, backend.settings.queue)
                assert found.delivery_count == given.headers.get("x-delivery-count", 0)
        assert found.delivery_count == 4


@pytest.mark.slow
class TestBareRabbitSource(RabbitSourceContract):
    """The same without a transport of ours, as where the installed library has no extension point."""

    way = Way.BARE

    async def test_paused_and_resumed(self, backend: Backend, inbox: Inbox, source: Source) -> None:
        """It cannot be paused: the prefetch bounds what comes, which is why the worker caps it there."""
        source.pause()
        await backend.publish(*(b"%d" % number for number in range(30)))
        assert len(await inbox.next(10)) == 10
        await nothing_comes(inbox, 1)
        source.resume()
