"""The source on RabbitMQ, on a broker that does not answer, or whose connection ends under a call; no server."""

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

import aiormq
import pytest

from worker.delivery import Delivery
from worker.errors import ConfigurationError, SystemUnavailableError
from worker.rabbitmq import source
from worker.rabbitmq.connection import connect
from worker.rabbitmq.deliveries import Gapless
from worker.rabbitmq.frames import RawDelivery
from worker.rabbitmq.source import RabbitSource
from worker.settings import Settings, load_settings
from worker.settle import Ack


class SilentConnection:
    """A connection whose broker declares nothing."""

    def __init__(self) -> None:
        self.is_closed = False

    async def close(self) -> None:
        """As the library's."""
        self.is_closed = True


async def test_a_broker_that_answers_no_declaration_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that is cut off from its cluster may say nothing for ever: the worker tries again, on another one."""
    connection = SilentConnection()

    async def connect(*_: Any, **__: Any) -> SilentConnection:
        return connection

    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(source, "connect", connect)
    monkeypatch.setattr(source, "ensure_topology", never)
    monkeypatch.setattr(source, "TOPOLOGY_SECONDS_MAX", 0.0)
    rabbit = RabbitSource(Settings(), queue="usage.events", name="tests")
    receiver: Any = None  # nothing comes
    async with asyncio.timeout(30):
        with pytest.raises(
            SystemUnavailableError, match="nothing declared within 0 s: the node may be cut off from its cluster"
        ):
            await rabbit.open(1, 1, receiver)
    assert connection.is_closed


async def test_a_parameter_that_cannot_be_read_is_a_mistake_of_the_settings() -> None:
    """And no traceback, which would show it."""
    settings = load_settings(amqp_url="amqp://127.0.0.1:1/?cadata=vogel")
    with pytest.raises(ConfigurationError, match="USAGE_AMQP_URL") as caught:
        await connect(settings, "tests")
    assert "vogel" not in str(caught.value)


class EndingChannel:
    """A channel on which every call ends by this, as the library ends what waits when a connection is lost.

    Or it answers this, or, for an event, waits for it.
    """

    is_closed = False

    def __init__(self, end: object) -> None:
        self._end = end
        self.looked = asyncio.Semaphore(0)  # a call more

    async def call(self, *_: Any, **__: Any) -> object:
        """Any of them."""
        self.looked.release()
        if isinstance(self._end, BaseException):
            raise self._end
        if isinstance(self._end, asyncio.Event):
            await self._end.wait()
        return self._end

    basic_cancel = basic_ack = basic_nack = queue_declare = call


class Nobody:
    """A receiver that holds nothing."""

    def receive(self, deliveries: Any) -> None:
        """Nothing comes."""

    def held(self) -> int:
        """As it says."""
        return 0


def consuming(end: object) -> RabbitSource:
    """A source that has consumed since long ago, on a channel that is about to end."""
    rabbit = RabbitSource(Settings(), queue="usage.events", name="tests")
    rabbit._channel = EndingChannel(end)  # type: ignore[assignment] # it has what is called
    rabbit._consumer_tag, rabbit._receiver = "tag", Nobody()
    rabbit._lost = asyncio.get_running_loop().create_future()
    return rabbit


# Without heartbeats, after a polite goodbye, without an answer.
ENDS = [asyncio.CancelledError(), Exception(), TimeoutError()]


@pytest.mark.parametrize("error", ENDS, ids=repr)
async def test_a_connection_that_ends_under_the_look_for_silence_is_lost(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Whatever the library ends the call by: a cancellation of nobody's had ended the watch over the broker."""
    monkeypatch.setattr(source, "IDLE_SECONDS_MAX", 0.01)
    async with asyncio.timeout(30):
        assert "nothing came" in await consuming(error).lost()


@pytest.mark.parametrize(
    ("ready", "consumers", "why"),
    [(1, 1, "messages are ready but none came"), (0, 0, "does not know us as a consumer"), (1, 0, "does not know us")],
)
async def test_a_consumer_that_gets_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch, ready: int, consumers: int, why: str
) -> None:
    """Also where the broker knows of no messages: so does a node that cannot reach the queue's leader."""
    monkeypatch.setattr(source, "IDLE_SECONDS_MAX", 0.01)
    async with asyncio.timeout(30):
        assert why in await consuming(aiormq.spec.Queue.DeclareOk("usage.events", ready, consumers)).lost()


async def test_a_consumer_of_an_empty_queue_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at again and again, and kept."""
    monkeypatch.setattr(source, "IDLE_SECONDS_MAX", 0.01)
    rabbit = consuming(aiormq.spec.Queue.DeclareOk("usage.events", 0, 1))
    watching = asyncio.ensure_future(rabbit.lost())
    channel: Any = rabbit._channel
    async with asyncio.timeout(30):
        await channel.looked.acquire()
        await channel.looked.acquire()
    assert not watching.done()
    watching.cancel()


async def test_acknowledgements_that_cannot_leave_are_given_up_with_their_connection() -> None:
    """What the library has to send may be full for ever then: who waits for a place in it would hang."""
    rabbit = consuming(asyncio.Event())
    acknowledging = asyncio.ensure_future(rabbit.acknowledge([Ack(1, multiple=False)]))
    await asyncio.sleep(0)
    rabbit._on_connection_closed(None, ConnectionResetError("reset"))
    async with asyncio.timeout(30):
        with pytest.raises(SystemUnavailableError, match="reset"):
            await acknowledging


async def test_a_broker_that_opens_no_channel_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may still send heartbeats: the worker tries again."""

    class Channel:
        async def initialize(self) -> None:
            await asyncio.Event().wait()

    class Opened(SilentConnection):
        close_callbacks: ClassVar[set[Any]] = set()

        def channel(self, **_: Any) -> Channel:
            return Channel()

    connection = Opened()

    async def connect(*_: Any, **__: Any) -> Opened:
        return connection

    async def nothing(*_: Any) -> None:
        return

    monkeypatch.setattr(source, "connect", connect)
    monkeypatch.setattr(source, "ensure_topology", nothing)
    monkeypatch.setattr(source, "CALL_SECONDS_MAX", 0.0)
    rabbit = RabbitSource(Settings(), queue="usage.events", name="tests")
    async with asyncio.timeout(30):
        with pytest.raises(SystemUnavailableError):
            await rabbit.open(1, 1, Nobody())
    assert connection.is_closed


@pytest.mark.parametrize("error", ENDS, ids=repr)
async def test_a_connection_that_ends_under_a_change_of_the_prefetch_is_lost(error: BaseException) -> None:
    """The consumer may be cancelled by then: a worker that went on would never get anything again."""
    rabbit = consuming(error)
    with pytest.raises(SystemUnavailableError):
        await rabbit.set_prefetch(10, [])
    async with asyncio.timeout(30):
        assert "does not answer" in await rabbit.lost()


async def test_a_stop_under_a_call_is_a_stop() -> None:
    """What is cancelled by its own starter says so."""
    rabbit = consuming(TimeoutError())
    waiting = asyncio.ensure_future(rabbit.lost())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


# A delivery that gets lost on the way.


class Receiving(Nobody):
    """Remembers the tags that it was given."""

    def __init__(self) -> None:
        self.tags: list[int] = []

    def receive(self, deliveries: Sequence[Delivery]) -> None:
        """They come."""
        self.tags += [delivery.tag for delivery in deliveries]


@pytest.mark.parametrize(
    ("reads", "passed", "why"),
    [
        ([[1, 2], [3], [4, 5]], [1, 2, 3, 4, 5], []),
        ([[1, 2], [4], [5]], [1, 2], ["of what was delivered from tag 3 to 4 something is missing"]),
        ([[1], [2, 3, 5, 6]], [1], ["of what was delivered from tag 2 to 6 something is missing"]),
        ([[2]], [], ["of what was delivered from tag 1 to 2 something is missing"]),
    ],
)
def test_nothing_is_taken_behind_a_delivery_that_is_missing(
    reads: list[list[int]], passed: list[int], why: list[str]
) -> None:
    """It would be acknowledged with its successors and be lost: the channel is given up, and all comes again."""
    receiving, said = Receiving(), list[str]()
    gapless = Gapless(receiving, 7, said.append)
    for tags in reads:
        gapless.receive([Delivery(tag, 7, b"") for tag in tags])
    assert (receiving.tags, said[:1]) == (passed, why)


def test_what_is_late_of_another_channel_is_not_counted() -> None:
    """Its tags are its own; whoever receives knows its generation."""
    receiving, said = Receiving(), list[str]()
    gapless = Gapless(receiving, 7, said.append)
    for generation, tag in ((7, 1), (6, 40), (7, 2)):
        gapless.receive([Delivery(tag, generation, b"")])
    assert (receiving.tags, said) == ([1, 40, 2], [])


@pytest.mark.parametrize("path", ["fast", "library"])
async def test_a_source_whose_channel_has_a_gap_is_lost(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """On either path the worker connects again: from there on nothing would be right."""
    receiving = Receiving()
    rabbit = RabbitSource(Settings(), queue="usage.events", name="tests")

    async def opened(*_: Any) -> None:
        """The broker is there."""

    monkeypatch.setattr(rabbit, "_open", opened)
    await rabbit.open(1, 10, receiving)
    for tag in (1, 3, 4):
        if path == "fast":
            assert rabbit._transport is not None
            assert rabbit._transport._on_deliveries is not None
            rabbit._transport._on_deliveries([RawDelivery(1, tag, False, b"", b"", b"\0\0", b"{}")])
        else:
            rabbit._receive([Delivery(tag, 1, b"{}")])
    async with asyncio.timeout(30):
        assert "from tag 2 to 3 something is missing" in await rabbit.lost()
    assert receiving.tags == [1]
