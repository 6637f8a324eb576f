"""The test of the installed AMQP library at the start: what differs is found, and the library's own path is used."""

import re
from typing import Any

import aiormq.connection
import pytest

from worker.rabbitmq import frames
from worker.rabbitmq.delivery_path import (
    Way,
    Ways,
    find_ways,
    inspect_delivery_path,
    library_version,
    prefetch_max,
)
from worker.settings import DeliveryPath, Settings

FAST = Settings(delivery_path=DeliveryPath.FAST)
LIBRARY = Settings(delivery_path=DeliveryPath.LIBRARY)


class ConnectionWithoutTransports:
    """The library's connection, as of a version without the extension point."""

    def __init__(self, url: str, *, loop: object = None) -> None:
        """Nothing is done."""


class OtherFactory:
    """The extension point with another signature."""

    async def create(self, url: str, reader: object) -> None:
        """Nothing is done."""


class SynchronousFactory:
    """The extension point, not as a coroutine."""

    def create(self, url: str, **kwargs: Any) -> None:
        """Nothing is done."""


class ReceiverOfLines:
    """The library reads in a way that our reader does not offer."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def __aiter__(self) -> "ReceiverOfLines":
        return self

    async def __anext__(self) -> object:
        return await self._reader.readuntil(b"\xce")


async def test_the_installed_version_works() -> None:
    """The reader is used where it is asked for, and for the dead queue in any case."""
    assert await find_ways(FAST) == Ways(Way.FAST, Way.FAST)
    assert await find_ways(LIBRARY) == Ways(Way.LIBRARY, Way.FAST)


@pytest.mark.parametrize(
    ("name", "other", "problem"),
    [
        ("Connection", ConnectionWithoutTransports, "its connection takes no transport_factory"),
        ("TransportFactory", OtherFactory, "TransportFactory.create has the signature (self, url: str, reader: "),
        ("TransportFactory", SynchronousFactory, "TransportFactory.create has the signature (self, url: str, **kw"),
        ("FrameReceiver", ReceiverOfLines, "a test stream of frames failed: AttributeError: 'DeliveryReader' object"),
    ],
)
async def test_a_library_without_the_extension_point(
    monkeypatch: pytest.MonkeyPatch, name: str, other: type, problem: str
) -> None:
    """Where our transport cannot be used, both queues take the library's own, and it is said what differs."""
    monkeypatch.setattr(aiormq.connection, name, other)
    for settings in (FAST, LIBRARY):
        ways = await find_ways(settings)
        assert (ways.events, ways.dead) == (Way.BARE, Way.BARE)
        assert ways.problem is not None
        assert ways.problem.startswith(problem)


@pytest.mark.parametrize("name", ["Connection", "TransportFactory", "FrameReceiver"])
async def test_a_library_that_lacks_a_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What cannot even be imported is a difference like any other."""
    monkeypatch.delattr(aiormq.connection, name)
    ways = await find_ways(FAST)
    assert (ways.events, ways.dead) == (Way.BARE, Way.BARE)
    assert ways.problem is not None
    assert name in ways.problem


async def test_a_reader_that_misses_deliveries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where deliveries would reach the library, it is to deliver them, through a transport that can be paused."""
    monkeypatch.setattr(frames, "_BASIC_DELIVER", b"\x00\x3c\x00\x63")
    ways = await find_ways(FAST)
    assert (ways.events, ways.dead) == (Way.LIBRARY, Way.LIBRARY)
    assert ways.problem == (
        "of a test stream of frames the library saw ['Basic.Deliver', 'ContentHeader', 'ContentBody', 'Heartbeat',"
        " 'ContentBody', 'Basic.Ack'] instead of ['Heartbeat', 'Basic.Ack']"
    )


async def test_a_reader_that_garbles_deliveries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delivery that does not come as it was sent is one that is not taken."""
    made = frames._delivery

    def garbled(channel: int, method: bytes, properties: bytes, _: bytes) -> frames.RawDelivery:
        return made(channel, method, properties, b"")

    monkeypatch.setattr(frames, "_delivery", garbled)
    ways = await find_ways(FAST)
    assert (ways.events, ways.dead) == (Way.LIBRARY, Way.LIBRARY)
    assert ways.problem is not None
    assert ways.problem.startswith("of a test stream of frames the frame reader made [RawDelivery(")


@pytest.mark.parametrize(("way", "expected"), [(Way.FAST, 65_535), (Way.LIBRARY, 65_535), (Way.BARE, 64)], ids=str)
def test_what_cannot_be_paused_is_bounded(way: Way, expected: int) -> None:
    """Without a transport of ours no more messages of 1 MiB are handed out than `USAGE_HELD_BYTES_MAX` allows."""
    assert prefetch_max(FAST, way) == expected
    assert prefetch_max(Settings(prefetch=10), way) == 10


async def test_check_says_which_way_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its line names the way and the versions; where the reader cannot be used, what differs and what to do."""
    assert re.fullmatch(r"aiormq 7\.\d+\.\d+, aio-pika 10\.\d+\.\d+, pamqp \d+\.\d+\.\d+", library_version())
    found = await inspect_delivery_path(FAST)
    assert found.line == f"ok  RabbitMQ: deliveries come by the frame reader, tested with {library_version()}"
    found = await inspect_delivery_path(LIBRARY)
    assert found.line == f"ok  RabbitMQ: deliveries come by the library's own path, tested with {library_version()}"
    monkeypatch.setattr(aiormq.connection, "Connection", ConnectionWithoutTransports)
    found = await inspect_delivery_path(FAST)
    assert found.line == (
        f"--  RabbitMQ: the frame reader does not work with {library_version()}: its connection takes no"
        " transport_factory: deliveries come by the library's own path, which cannot be paused, slower: install the"
        " versions of uv.lock"
    )
