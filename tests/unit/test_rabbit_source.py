"""The source on RabbitMQ, on a broker that does not answer, or whose connection ends under a call; no server."""

import asyncio
from typing import Any

import pytest

from worker.errors import ConfigurationError, SystemUnavailableError
from worker.rabbitmq import source
from worker.rabbitmq.source import RabbitSource
from worker.settings import Settings, load_settings


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
        await source.connect(settings, "tests")
    assert "vogel" not in str(caught.value)


class EndingChannel:
    """A channel on which every call ends by this, as the library ends what waits when a connection is lost."""

    is_closed = False

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def call(self, *_: Any, **__: Any) -> None:
        """Any of them."""
        raise self._error

    basic_cancel = basic_ack = basic_nack = queue_declare = call


class Nobody:
    """A receiver that holds nothing."""

    def receive(self, deliveries: Any) -> None:
        """Nothing comes."""

    def held(self) -> int:
        """As it says."""
        return 0


def consuming(error: BaseException) -> RabbitSource:
    """A source that has consumed since long ago, on a channel that is about to end."""
    rabbit = RabbitSource(Settings(), queue="usage.events", name="tests")
    rabbit._channel = EndingChannel(error)  # type: ignore[assignment] # it has what is called
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
        assert "none came" in await consuming(error).lost()


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
