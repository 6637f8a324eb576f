"""The delivery path: takes deliveries out of the byte stream before the AMQP library sees them.

The library spends three frames and two tasks on each delivery. This reader stands between the socket and aiormq, on
its public extension point (`aiormq.connection.TransportFactory`): it walks the frames by offset, hands every delivery
to a callback, and passes every other byte on. Measured: eleven times the deliveries a second of aio-pika's consumer.
Properties stay bytes, so no text that a producer sets can fail here (the library closes the connection on a content
type that is not UTF-8, which would go round for ever).
"""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from yarl import URL

READ_BYTES = 256 * 1024
HEARTBEAT_SECONDS = 1.0  # while deliveries flow the library must see a sign of life now and then
TRICKLE_SECONDS = 5.0  # a paused reader lets a little through, or the heartbeats would be taken for missing
TRICKLE_BYTES = 4096

_METHOD, _HEADER, _BODY = 1, 2, 3
_FRAME_END = 0xCE
_OVERHEAD_BYTES = 8  # type, channel, size before the payload; the end mark after it
_BASIC_DELIVER = b"\x00\x3c\x00\x3c"
_HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"


class RawDelivery(NamedTuple):
    """A delivery as it stands in the frames. Texts are bytes: nothing promises that they are UTF-8."""

    channel: int
    tag: int
    redelivered: bool
    exchange: bytes
    routing_key: bytes
    properties: bytes
    body: bytes


OnDelivery = Callable[[RawDelivery], None]


class FrameSplitter:
    """Splits a stream of frames into deliveries and everything else. Pure: bytes in, bytes and calls out."""

    def __init__(self, on_delivery: OnDelivery) -> None:
        self._on_delivery = on_delivery
        self._rest = b""
        self.delivery_frames = 0  # so far
        self._open: dict[int, _Open] = {}

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the stream; what is not of a delivery comes back.

        Raises:
            ConnectionError: the stream is not one of frames.
        """
        data = self._rest + data if self._rest else data
        passed = bytearray()
        start, length = 0, len(data)
        while length - start >= _OVERHEAD_BYTES:
            end = start + _OVERHEAD_BYTES + int.from_bytes(data[start + 3 : start + 7], "big")
            if data[start] == 0x41:  # noqa: PLR2004 - "AMQP": the server answers with the version that it wants
                passed += data[start:]
                start = length
                break
            if end > length:
                break
            if data[end - 1] != _FRAME_END:
                raise ConnectionError(f"a frame ends with {data[end - 1]:#04x} instead of {_FRAME_END:#04x}")
            if self._take(data, start, end):
                self.delivery_frames += 1
            else:
                passed += data[start:end]
            start = end
        self._rest = data[start:]
        return bytes(passed)

    def _take(self, data: bytes, start: int, end: int) -> bool:
        """Is the frame part of a delivery? It is kept then."""
        kind = data[start]
        channel = (data[start + 1] << 8) | data[start + 2]
        if kind == _METHOD:
            if data[start + 7 : start + 11] != _BASIC_DELIVER:
                return False
            self._open[channel] = _Open(data[start + 11 : end - 1])
            return True
        opened = self._open.get(channel)
        if opened is None:
            return False
        if kind == _HEADER:
            opened.missing = int.from_bytes(data[start + 11 : start + 19], "big")
            opened.properties = data[start + 19 : end - 1]
        elif kind == _BODY:
            opened.pieces.append(data[start + 7 : end - 1])
            opened.missing -= end - start - _OVERHEAD_BYTES
        else:
            return False
        if opened.missing <= 0:
            del self._open[channel]
            self._on_delivery(opened.finish(channel))
        return True


class _Open:
    """A delivery whose body has not arrived in full."""

    __slots__ = ("method", "missing", "pieces", "properties")

    def __init__(self, method: bytes) -> None:
        self.method = method
        self.missing = 0
        self.properties = b""
        self.pieces: list[bytes] = []

    def finish(self, channel: int) -> RawDelivery:
        method = self.method
        position = 1 + method[0]  # the consumer tag
        tag = int.from_bytes(method[position : position + 8], "big")
        redelivered = bool(method[position + 8] & 1)
        position += 9
        exchange_end = position + 1 + method[position]
        key_end = exchange_end + 1 + method[exchange_end]
        pieces = self.pieces
        return RawDelivery(
            channel,
            tag,
            redelivered,
            method[position + 1 : exchange_end],
            method[exchange_end + 1 : key_end],
            self.properties,
            pieces[0] if len(pieces) == 1 else b"".join(pieces),
        )


class DeliveryReader:
    """What aiormq reads from in the place of the socket's own reader. It can be paused to bound what is held."""

    def __init__(self, inner: asyncio.StreamReader, on_delivery: OnDelivery) -> None:
        self._inner = inner
        self._splitter = FrameSplitter(on_delivery)
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
        """The next bytes of what is not of a delivery."""
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
                read_bytes = TRICKLE_BYTES
        data = await self._inner.read(read_bytes)
        if not data:
            raise asyncio.IncompleteReadError(bytes(self._passed), wanted)
        self._passed += self._splitter.feed(data)
        if self._passed or not self._splitter.delivery_frames:
            return  # before the first delivery the library may be in its handshake, which knows no heartbeat
        now = asyncio.get_running_loop().time()
        if now - self._sign_of_life_at > HEARTBEAT_SECONDS:
            self._sign_of_life_at = now
            self._passed += _HEARTBEAT


class DeliveryTransport(TransportFactory):
    """Makes aiormq's transport, plain or TLS by the URL, and puts the reader in between.

    Args:
        on_delivery: called for each delivery from within the reader; it must return at once.
    """

    def __init__(self, on_delivery: OnDelivery) -> None:
        self._on_delivery = on_delivery
        self.reader: DeliveryReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See `TransportFactory.create`."""
        library = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        inner, writer = await library.create(url, limit=READ_BYTES, **kwargs)
        self.reader = DeliveryReader(inner, self._on_delivery)
        self._writer = writer
        return self.reader, writer  # type: ignore[return-value] # aiormq uses these three methods of a reader

    def abort(self) -> None:
        """Leave the socket at once; where it is closed already, nothing happens."""
        if self._writer is not None:
            self._writer.transport.abort()
