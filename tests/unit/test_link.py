"""What a link makes of its library's endings, on a channel that behaves as aiormq's does; no broker."""

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any, cast

import pytest
from aio_pika.connection import Connection, make_url
from aio_pika.exceptions import ChannelInvalidStateError, ChannelNotFoundEntity
from usage_events import silence
from usage_events.errors import BrokerUnavailableError, ExchangeMissingError
from usage_events.link import Link, Target

TARGET = Target("amqp://guest:guest@rabbit/", "usage", "usage.recorded", None)


class FakeConnection:
    """Says when the broker takes messages: at once, unless it has blocked the connection."""

    def __init__(self) -> None:
        self.unblocked = asyncio.Event()
        self.unblocked.set()

    async def ready(self) -> None:
        """As the library's."""
        await self.unblocked.wait()


class FakeChannel:
    """Publishes by waiting for `answer`; `end` closes it as aiormq does: what waits for an answer gets the cause."""

    def __init__(self) -> None:
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.began = asyncio.Event()
        self.connection = FakeConnection()

    @property
    def is_closed(self) -> bool:
        """As the library's."""
        return self.closing.done()

    async def basic_publish(self, _body: bytes, **_properties: Any) -> None:
        """Waits for the broker's answer."""
        self.began.set()
        await self.answer

    def end(self, cause: BaseException | type[BaseException], *, answers: bool) -> None:
        """Closes the channel; without `answers` the message was still waiting to be written."""
        self.closing.set_exception(cause)
        if answers:
            self.answer.set_exception(cause)


class FakeTransport:
    """The connection's other side, which does not answer."""

    def __init__(self) -> None:
        self.ends = 0

    async def close(self, _error: object) -> None:
        """As the library's."""
        self.ends += 1
        await asyncio.Event().wait()


def link_over(channel: FakeChannel) -> Link:
    """A link over this channel."""
    return Link(TARGET, cast("Any", None), cast("Any", channel))


async def begin(channel: FakeChannel, link: Link | None = None) -> "asyncio.Task[None]":
    """A message on its way."""
    link = link or link_over(channel)
    publishing = asyncio.create_task(link.publish(b"{}", "usage.recorded"))
    await channel.began.wait()
    return publishing


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("cause", [Exception, ConnectionResetError("reset by peer"), asyncio.CancelledError()])
async def test_a_lost_channel_means_try_again(cause: BaseException | type[BaseException], *, answers: bool) -> None:
    """Whatever aiormq rejects with, and also where it forgets a message that waits to be written: send it again."""
    channel = FakeChannel()
    publishing = await begin(channel)
    channel.end(cause, answers=answers)
    with pytest.raises(BrokerUnavailableError, match=r"^RabbitMQ at amqp://rabbit:5672/ cannot be reached: "):
        await publishing


@pytest.mark.parametrize("answers", [True, False])
async def test_the_brokers_reason_reaches_every_message(*, answers: bool) -> None:
    """Where the broker closes the channel for a reason, messages that were not yet written learn it too."""
    channel = FakeChannel()
    publishing = await begin(channel)
    channel.end(ChannelNotFoundEntity("no exchange 'usage'"), answers=answers)
    with pytest.raises(ExchangeMissingError, match=r"^exchange 'usage' at amqp://rabbit:5672/ does not exist"):
        await publishing


async def test_a_closed_channel_means_try_again() -> None:
    """A message that comes after the end, to which aiormq says so, is sent again by the next link."""
    channel = FakeChannel()
    channel.answer.set_exception(ChannelInvalidStateError("closed"))
    channel.end(Exception, answers=False)
    publishing = await begin(channel)
    with pytest.raises(BrokerUnavailableError):
        await publishing


async def test_a_callers_cancellation_stays_one() -> None:
    """Who cancels a delivery gets a cancellation, also while the channel ends at the same moment."""
    channel = FakeChannel()
    publishing = await begin(channel)
    publishing.cancel()
    channel.end(asyncio.CancelledError(), answers=False)
    with pytest.raises(asyncio.CancelledError):
        await publishing


async def test_an_error_of_the_program_stays_one() -> None:
    """What is not the broker's doing is not tried again for ever."""
    channel = FakeChannel()
    publishing = await begin(channel)
    channel.answer.set_exception(TypeError("a bug"))
    with pytest.raises(TypeError, match="a bug"):
        await publishing


async def test_a_broker_that_no_longer_confirms_is_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nothing is confirmed, all that waits for it goes again, over another link; the log says so."""
    monkeypatch.setattr(silence, "SILENCE_SECONDS_MAX", 0)
    channel = FakeChannel()
    link = link_over(channel)
    publishing = [await begin(channel, link) for _ in range(2)]
    for one in publishing:
        with pytest.raises(BrokerUnavailableError, match=r"/ cannot be reached: it has confirmed nothing for 30 s$"):
            await one
    assert link.is_lost
    assert "rabbit:5672/ has confirmed nothing for 30 s; the messages that wait for it, 2 now, go again" in caplog.text


@pytest.mark.parametrize("ends", ["cancelled", "lost"])
async def test_a_link_that_does_not_come_about_leaves_nothing_behind(ends: str) -> None:
    """Cancelled or lost while it connects, its connection is closed then, and not in a task when its memory is freed.

    The loop may have ended by then: "coroutine 'Connection.close' was never awaited".
    """
    begun: list[str] = []

    def note(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **given: Any) -> asyncio.Task[Any]:
        begun.append(repr(coroutine))
        return asyncio.Task(coroutine, loop=loop, **given)

    accepted = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        if ends == "cancelled":
            await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        asyncio.get_running_loop().set_task_factory(cast("Any", note))
        opening = asyncio.create_task(Link.open(Target(f"amqp://127.0.0.1:{port}/", "usage", "usage.recorded", None)))
        await accepted.wait()
        if ends == "cancelled":
            opening.cancel()
        with pytest.raises((asyncio.CancelledError, BrokerUnavailableError)):
            await opening
        del opening
        for _ in range(5):  # the library's own tasks end
            await asyncio.sleep(0)
            gc.collect()
        asyncio.get_running_loop().set_task_factory(None)
    assert [one for one in begun if "Connection.connect " in one]
    assert not [one for one in begun if "Connection.close " in one]


async def test_an_end_that_is_not_answered_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is silent when the connection ends: it is given up after the time-out, and not begun again."""
    connection = Connection(make_url("amqp://rabbit/"))
    transport = FakeTransport()
    monkeypatch.setattr(connection, "transport", transport)
    await Link(TARGET, connection, cast("Any", FakeChannel())).close(0.01)
    assert transport.ends == 1
    assert connection.is_closed
