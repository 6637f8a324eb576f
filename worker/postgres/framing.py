"""What Postgres answers is checked before the driver reads it, which believes whatever length a message gives.

A length that was damaged on its way, to a negative one, makes the driver's C code read in front of its buffer: the
process ends without a word. The driver has no extension point for this; it looks its protocol up whenever it connects.
"""

from typing import Any

import asyncpg.protocol
import structlog

_HEADER_BYTES = 5  # type, length
_LENGTH_BYTES_MIN = 4  # a length counts itself
_LENGTH_BYTES_MAX = 2**30  # no message of the server's is longer

log = structlog.get_logger(__name__)


class CheckedProtocol(asyncpg.protocol.Protocol):
    """The driver's protocol, which gives a connection up where a message's length cannot be."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._header = b""
        self._rest_bytes = 0  # of the message in which the next byte stands
        self._is_damaged = False
        self._carrier: Any = None

    def connection_made(self, transport: Any) -> None:
        """See the base class."""
        self._carrier = transport
        super().connection_made(transport)

    def data_received(self, data: Any) -> None:
        """See the base class."""
        if self._is_damaged:
            return
        wrong_bytes = self._follow(data)
        if wrong_bytes is None:
            super().data_received(data)
        else:
            self._is_damaged = True
            log.warning("an answer of Postgres was damaged on its way", length=wrong_bytes)
            self._carrier.abort()

    def _follow(self, data: bytes) -> int | None:
        """Walk over the messages of the next piece; a length that cannot be."""
        place = min(self._rest_bytes, len(data))
        self._rest_bytes -= place
        while place < len(data):
            taken = data[place : place + _HEADER_BYTES - len(self._header)]
            self._header += taken
            place += len(taken)
            if len(self._header) < _HEADER_BYTES:
                break
            length = int.from_bytes(self._header[1:], "big")
            if not _LENGTH_BYTES_MIN <= length <= _LENGTH_BYTES_MAX:
                return length
            self._header = b""
            skipped = min(length - _LENGTH_BYTES_MIN, len(data) - place)
            self._rest_bytes = length - _LENGTH_BYTES_MIN - skipped
            place += skipped
        return None


def check_answers() -> None:
    """Connections that are opened from now on are checked."""
    asyncpg.protocol.Protocol = CheckedProtocol  # type: ignore[misc,assignment]
