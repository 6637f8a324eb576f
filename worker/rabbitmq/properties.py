"""The properties of a message, read from their bytes when somebody asks.

Most messages are asked for their content type only. What cannot be read is no error here, since no property that a
producer sets may stop a worker: text that is not UTF-8 comes with escapes, an unreadable table comes as its bytes.
"""

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pamqp import decode

from worker.batch import SUSPECT_DELIVERY_COUNT

DELIVERY_COUNT_HEADER = "x-delivery-count"

# The flag of each property in the order in which they stand; AMQP 0-9-1, class basic.
_CONTENT_TYPE = 1 << 15
_CONTENT_ENCODING = 1 << 14
_HEADERS = 1 << 13
_OCTETS = (1 << 12, 1 << 11)  # delivery mode, priority
_TEXTS = (1 << 10, 1 << 9, 1 << 8, 1 << 7)  # correlation id, reply to, expiration, message id
_TIMESTAMP = 1 << 6
_TYPE = 1 << 5
_USER_ID = 1 << 4
_APP_ID = 1 << 3
_BEHIND_HEADERS = (*_TEXTS, _TIMESTAMP, _TYPE, _USER_ID, _APP_ID)


@lru_cache(maxsize=1024)
def text_of(raw: bytes) -> str:
    """A short text: whatever its bytes are. The same few come with every message, and are held once."""
    return raw.decode("utf-8", "backslashreplace")


class RawProperties:
    """Properties as the flags and values of a content header frame; shared by all messages that have the same."""

    __slots__ = ("_flags", "_position", "_raw", "content_encoding", "content_type")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.content_type: str | None = None
        self.content_encoding: str | None = None
        flags = (raw[0] << 8) | raw[1]
        position = 2
        if flags & _CONTENT_TYPE:
            end = position + 1 + raw[position]
            self.content_type = text_of(raw[position + 1 : end])
            position = end
        if flags & _CONTENT_ENCODING:
            end = position + 1 + raw[position]
            self.content_encoding = text_of(raw[position + 1 : end])
            position = end
        self._flags = flags
        self._position = position

    @property
    def headers(self) -> Mapping[str, Any]:
        """The table of headers; its bytes, where it is none."""
        headers = self._read_headers()
        return (
            {"unreadable": self._raw[self._position + 4 : self._after_headers()].hex()} if headers is None else headers
        )

    @property
    def app_id(self) -> str | None:
        """The producer, as it says itself."""
        return self._short_text(_APP_ID)

    @property
    def user_id(self) -> str | None:
        """The producer's user, validated by the broker where it is set."""
        return self._short_text(_USER_ID)

    @property
    def delivery_count(self) -> int:
        """How often a quorum queue has handed the message out before; suspicious where the table cannot be read."""
        headers = self._read_headers()
        count = SUSPECT_DELIVERY_COUNT if headers is None else headers.get(DELIVERY_COUNT_HEADER, 0)
        return count if isinstance(count, int) else 0

    def _read_headers(self) -> Mapping[str, Any] | None:
        if not self._flags & _HEADERS:
            return {}
        try:
            return decode.field_table(self._raw[self._position : self._after_headers()])[1]
        except Exception:  # noqa: BLE001 - the library raises whatever a producer's bytes make it raise
            return None

    def _after_headers(self) -> int:
        if not self._flags & _HEADERS:
            return self._position
        (length,) = struct.unpack_from(">I", self._raw, self._position)
        return self._position + 4 + int(length)

    def _short_text(self, wanted: int) -> str | None:
        """One of the short texts behind the headers, by its flag."""
        if not self._flags & wanted:
            return None
        position = self._after_headers() + sum(1 for flag in _OCTETS if self._flags & flag)
        for flag in _BEHIND_HEADERS:
            if not self._flags & flag:
                continue
            if flag == _TIMESTAMP:
                position += 8
                continue
            end = position + 1 + self._raw[position]
            if flag == wanted:
                return text_of(self._raw[position + 1 : end])
            position = end
        return None


# A producer sends the same bytes with message after message: read once, held once. Few, for they may be long.
read_properties = lru_cache(maxsize=64)(RawProperties)
