"""The transport between the socket and aiormq, on its public extension point `aiormq.connection.TransportFactory`.

It lets the frame reader take the deliveries, or passes everything to the library; in both it can stop reading for a
moment, which is what bounds the bytes that are held.
"""

import asyncio
from typing import Any

from aio_pika.abc import ConnectionParameter
from aio_pika.connection import Connection
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from yarl import URL

from worker.rabbitmq.frames import FrameSplitter, OnDeliveries

READ_BYTES = 256 * 1024
HEARTBEAT_SECONDS = 1.0  # while deliveries flow the library must see a sign of life now and then
# A paused reader lets a little through, or the broker's heartbeats would be taken for missing. The library must see a
# whole frame of 128 KiB within its patience of 48 s; the frame reader makes the sign of life itself.
TRICKLE_SECONDS = 5.0
TRICKLE_BYTES = 4096
LIBRARY_TRICKLE_BYTES = 32 * 1024

_HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"


class DeliveryReader:
    """What aiormq reads from in the place of the socket's own reader. It can be paused to bound what is held.

    Args:
        inner: the socket's reader.
        on_deliveries: called with the deliveries of each read; `None`: they pass like everything else.
    """

    def __init__(self, inner: asyncio.StreamReader, on_deliveries: OnDeliveries | None) -> None:
        self._inner = inner
        self._splitter = FrameSplitter(on_deliveries) if on_deliveries is not None else None
        self._passed = bytearray()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._sign_of_life_at = 0.0

    def pause(self) -> None:
        """Read no more than a trickle until `resume`."""
        self._flowing.clear()

    def resume(self) -> None:
        """Read again."""
        self._flowing.set()

    def at_eof(self) -> bool:
        """Whether everything has been read; aiormq asks before each frame."""
        return not self._passed and self._inner.at_eof()

    async def readexactly(self, count: int) -> bytes:
        """The next bytes of what the library is to see."""
        while len(self._passed) < count:
            await self._fill(count)
        taken = bytes(self._passed[:count])
        del self._passed[:count]
        return taken

    async def read(self, count: int = -1) -> bytes:
        """Whatever is there; aiormq asks for it to show what a broken frame was followed by."""
        taken = bytes(self._passed if count < 0 else self._passed[:count])
        del self._passed[: len(taken)]
        return taken

    async def _fill(self, wanted: int) -> None:
        read_bytes = READ_BYTES
        if not self._flowing.is_set():
            try:
                await asyncio.wait_for(self._flowing.wait(), TRICKLE_SECONDS)
            except TimeoutError:
                read_bytes = LIBRARY_TRICKLE_BYTES if self._splitter is None else TRICKLE_BYTES
        data = await self._inner.read(read_bytes)
        if not data:
            raise asyncio.IncompleteReadError(bytes(self._passed), wanted)
        self._passed += data if self._splitter is None else self._splitter.feed(data)
        if self._passed or self._splitter is None or not self._splitter.deliveries:
            return  # before the first delivery the library may be in its handshake, which knows no heartbeat
        now = asyncio.get_running_loop().time()
        if now - self._sign_of_life_at > HEARTBEAT_SECONDS:
            self._sign_of_life_at = now
            self._passed += _HEARTBEAT


class DeliveryTransport(TransportFactory):
    """Makes aiormq's transport, plain or TLS by the URL, and puts the reader in between.

    Args:
        on_deliveries: called with the deliveries of each read, from within the reader, so it must return at once;
            `None`: the library delivers.
    """

    def __init__(self, on_deliveries: OnDeliveries | None) -> None:
        self._on_deliveries = on_deliveries
        self.reader: DeliveryReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See `TransportFactory.create`."""
        library = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        inner, writer = await library.create(url, limit=READ_BYTES, **kwargs)
        self.reader = DeliveryReader(inner, self._on_deliveries)
        self._writer = writer
        return self.reader, writer  # type: ignore[return-value] # aiormq uses these three methods of a reader

    def abort(self) -> None:
        """Leave the socket at once; where it is closed already, nothing happens."""
        if self._writer is not None:
            self._writer.transport.abort()


class TransportConnection(Connection):
    """Passes the transport on to aiormq, which has the extension point."""

    PARAMETERS = (*Connection.PARAMETERS, ConnectionParameter("transport_factory", parser=lambda value: value))
