"""The frame reader: takes deliveries out of the byte stream before the AMQP library sees them. Pure.

The library spends three frames and two tasks on each delivery. This walks the frames by offset, hands every delivery to
a callback, and returns every other byte for the library. Properties stay bytes, so no text that a producer sets can
fail here (the library closes the connection on a content type that is not UTF-8).
"""

from collections.abc import Callable
from typing import NamedTuple

_METHOD, _HEADER, _BODY = 1, 2, 3
_FRAME_END = 0xCE
_OVERHEAD_BYTES = 8  # type, channel, size before the payload; the end mark after it
_BASIC_DELIVER = b"\x00\x3c\x00\x3c"


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
