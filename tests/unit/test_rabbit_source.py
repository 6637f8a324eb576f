"""The source on RabbitMQ, on a broker that stays connected and does not answer; no server."""

import asyncio
from typing import Any

import pytest

from worker.errors import SystemUnavailableError
from worker.rabbitmq import source
from worker.rabbitmq.source import RabbitSource
from worker.settings import Settings


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
