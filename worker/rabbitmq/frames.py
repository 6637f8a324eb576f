"""The frame reader: takes deliveries out of the byte stream before the AMQP library sees them. Pure.

The library spends three frames and two tasks on each delivery. This walks the frames by offset, hands the deliveries of
each read to a callback, and returns every other byte for the library. Properties stay bytes, so no text that a producer
sets can fail here (the library closes the connection on a content type that is not UTF-8).
"""

import struct
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

_METHOD, _HEADER, _BODY = 1, 2, 3
_PROTOCOL_HEADER = 0x41  # "AMQP": the server answers with the version that it wants
_FRAME_END = 0xCE
_OVERHEAD_BYTES = 8  # type, channel, size before the payload; the end mark after it
_HEADER_HEAD_BYTES = 19  # up to the properties
_BASIC_DELIVER = b"\x00\x3c\x00\x3c"
_frame_head = struct.Struct(">BHI").unpack_from  # type, channel, size of the payload
_header_head = struct.Struct(">BHI4xQ").unpack_from  # and the size of the body
_deliver_middle = struct.Struct(">QBB").unpack_from  # tag, redelivered, length of the exchange's name


class RawDelivery(NamedTuple):
    """A delivery as it stands in the frames. Nothing promises that its texts are UTF-8."""

    channel: int
    tag: int
    redelivered: bool
    exchange: bytes
    routing_key: bytes
    properties: bytes
    body: bytes


OnDeliveries = Callable[[list[RawDelivery]], None]


# What follows a delivery's method frame: its properties, its body, where it ends, and frames of others that stand in
# it. The body is `None` where the next delivery begins before this one ends.
_Content = tuple[bytes, bytes | None, int, bytes]


# Called with what stands in a tuple; a named tuple's own constructor is a function written in Python, and dearer.
_raw_delivery = cast("Callable[[tuple[Any, ...]], RawDelivery]", partial(tuple.__new__, RawDelivery))


class FrameSplitter:
    """Splits a stream of frames into deliveries and everything else: bytes in, bytes and calls out."""

    def __init__(self, on_deliveries: OnDeliveries) -> None:
        self._on_deliveries = on_deliveries
        self._rest = b""
        self.deliveries = 0  # so far

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the stream; what is not of a delivery comes back.

        A delivery that has not arrived in full waits, with all behind it, for the rest of its bytes.

        Raises:
            ConnectionError: the stream is not one of frames.
        """
        data = self._rest + data if self._rest else data
        passed = bytearray()
        found: list[RawDelivery] = []
        start, length = 0, len(data)
        while length - start >= _OVERHEAD_BYTES:
            kind, channel, size = _frame_head(data, start)
            end = start + _OVERHEAD_BYTES + size
            if kind == _PROTOCOL_HEADER:
                passed += data[start:]
                start = length
                break
            if end > length:
                break
            _require_end(data, end)
            if kind == _METHOD and data[start + 7 : start + 11] == _BASIC_DELIVER:
                content = _whole(data, end, channel) or _gathered(data, end, channel)
                if content is None:
                    break
                properties, body, content_end, between = content
                if body is not None:
                    found.append(_delivery(channel, data[start + 11 : end - 1], properties, body))
                end = content_end
                if between:
                    data, end = between + data[end:], 0
                    length = len(data)
            else:
                passed += data[start:end]
            start = end
        self._rest = data[start:]
        if found:
            self.deliveries += len(found)
            self._on_deliveries(found)
        return bytes(passed)


def _delivery(channel: int, method: bytes, properties: bytes, body: bytes) -> RawDelivery:
    tag_at = 1 + method[0]  # behind the consumer tag
    tag, redelivered, exchange_bytes = _deliver_middle(method, tag_at)
    key_at = tag_at + 10 + exchange_bytes
    if key_at + 1 + method[key_at] != len(method):
        raise ConnectionError("a delivery's frame is longer or shorter than what stands in it")
    exchange, routing_key = method[tag_at + 10 : key_at], method[key_at + 1 : key_at + 1 + method[key_at]]
    return _raw_delivery((channel, tag, redelivered & 1 == 1, exchange, routing_key, properties, body))


def _whole(data: bytes, header: int, channel: int) -> _Content | None:
    """The content whose header frame stands at `header`, where it is all there in two frames: nearly always."""
    if len(data) - header < _HEADER_HEAD_BYTES:
        return None
    kind, header_channel, size, body_bytes = _header_head(data, header)
    body = header + _OVERHEAD_BYTES + size
    end = body + _OVERHEAD_BYTES + body_bytes
    if end > len(data) or _frame_head(data, body) != (_BODY, channel, body_bytes):
        return None
    if kind != _HEADER or header_channel != channel or data[body - 1] != _FRAME_END or data[end - 1] != _FRAME_END:
        return None
    return (data[header + _HEADER_HEAD_BYTES : body - 1], data[body + 7 : end - 1], end, b"")


def _gathered(data: bytes, start: int, channel: int) -> _Content | None:
    """The content from `start` on, whatever stands between its frames; `None` where they are not all there."""
    properties, pieces, between, missing = b"", [], bytearray(), -1
    while missing and len(data) - start >= _OVERHEAD_BYTES:
        kind, frame_channel, size = _frame_head(data, start)
        end = start + _OVERHEAD_BYTES + size
        if end > len(data):
            return None
        _require_end(data, end)
        if frame_channel == channel and kind == _METHOD and data[start + 7 : start + 11] == _BASIC_DELIVER:
            return (properties, None, start, bytes(between))
        if frame_channel == channel and (kind == _HEADER) != (missing < 0) and kind in {_HEADER, _BODY}:
            raise ConnectionError("the frames of a delivery are not in their order")
        if frame_channel == channel and kind == _HEADER:
            missing = _header_head(data, start)[3]
            properties = data[start + _HEADER_HEAD_BYTES : end - 1]
        elif frame_channel == channel and kind == _BODY:
            if size > missing:
                raise ConnectionError(f"a delivery's body has {size} bytes where {missing} were left of it")
            pieces.append(data[start + 7 : end - 1])
            missing -= size
        else:
            between += data[start:end]
        start = end
    return None if missing else (properties, b"".join(pieces), start, bytes(between))


def _require_end(data: bytes, end: int) -> None:
    if data[end - 1] != _FRAME_END:
        raise ConnectionError(f"a frame ends with {data[end - 1]:#04x} instead of {_FRAME_END:#04x}")
