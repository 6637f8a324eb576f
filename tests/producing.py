"""What tests of the publisher share: events to record, a proxy that cuts, and signals from the log."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from makers import ORGANIZATION, USER
from usage_events.event import UsageEvent


def new_event(**fields: Any) -> UsageEvent:
    """A good event, but for what `fields` say otherwise."""
    given: dict[str, Any] = {"user_id": USER, "organization_id": ORGANIZATION, "input_tokens": 7}
    return UsageEvent(**(given | fields))


def with_parts(amqp_url: str, **parts: str) -> str:
    """The URL with another user, password, host or path."""
    given = urlsplit(amqp_url)
    user, password = parts.get("user", given.username), parts.get("password", given.password)
    host = parts.get("host", f"{given.hostname}:{given.port}")
    return urlunsplit((given.scheme, f"{user}:{password}@{host}", parts.get("path", given.path), "", ""))


class LogSignal(logging.Handler):
    """Set when a message of the publisher holds the words."""

    def __init__(self, words: str) -> None:
        super().__init__(logging.DEBUG)
        self.words = words
        self.seen = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Looks at one message."""
        if self.words in record.getMessage():
            self.seen.set()


class Proxy:
    """Passes bytes to the broker, until it is told to cut every connection."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._pipes: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def before(cls, amqp_url: str) -> AsyncIterator[tuple["Proxy", str]]:
        """A proxy and the URL that leads through it."""
        parts = urlsplit(amqp_url)
        proxy = cls(str(parts.hostname), parts.port or 5672)
        server = await asyncio.start_server(proxy._accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            yield proxy, with_parts(amqp_url, host=f"127.0.0.1:{port}")
            proxy.cut()
        await asyncio.gather(*proxy._pipes)

    def cut(self) -> None:
        """Both sides see a reset, whatever was on its way."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, far_writer}
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            self._pipes.add(asyncio.create_task(self._pipe(source, sink)))

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        except ConnectionError:
            pass  # cut, as a test has asked
        finally:
            sink.close()
            self._writers.discard(sink)
