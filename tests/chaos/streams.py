"""Where messages begin in the byte streams of AMQP 0-9-1 and of Postgres's protocol 3, whatever pieces they come in.

Only framing is ever corrupted on a plain stream: a digit that is flipped inside a body is valid data that nobody can
notice.
"""

from enum import StrEnum

_AMQP_GREETING_BYTES = 8  # "AMQP" 0 0 9 1, from the client alone
_AMQP_HEADER_BYTES = 7  # type, channel, size
_AMQP_END_BYTES = 1
_POSTGRES_HEADER_BYTES = 5  # type, length (which counts itself)
_POSTGRES_UNTYPED_BYTES = 4  # what a client says first has a length alone
_TLS_REQUEST_BYTES = 8
_TLS_ANSWERS = b"NS"
WRONG_TYPE = 0xFF  # of a frame and of a message: neither protocol knows it


class Protocol(StrEnum):
    """What is spoken on a connection."""

    AMQP = "amqp"
    POSTGRES = "postgres"


class Framing:
    """Follows one direction of one connection.

    Args:
        protocol: what is spoken.
        from_client: the direction.
    """

    def __init__(self, protocol: Protocol, *, from_client: bool) -> None:
        self._protocol = protocol
        self._skip = _AMQP_GREETING_BYTES if protocol is Protocol.AMQP and from_client else 0
        self._header = b""
        # A Postgres client may ask for TLS, and is answered by one byte; then it says who it is. None has a type.
        self._untyped = protocol is Protocol.POSTGRES and from_client
        self._may_answer_tls = protocol is Protocol.POSTGRES and not from_client

    def starts(self, data: bytes) -> list[int]:
        """At which bytes of the next piece a message's type stands."""
        found: list[int] = []
        place = 0
        if self._may_answer_tls and data:
            self._may_answer_tls = False
            place = int(data[0] in _TLS_ANSWERS)
        while place < len(data):
            if self._skip:
                skipped = min(self._skip, len(data) - place)
                self._skip -= skipped
                place += skipped
                continue
            if not self._header and not self._untyped:
                found.append(place)
            taken = data[place : place + self._header_bytes - len(self._header)]
            self._header += taken
            place += len(taken)
            if len(self._header) == self._header_bytes:
                self._skip = self._rest_bytes()
                self._header = b""
        return found

    @property
    def _header_bytes(self) -> int:
        if self._protocol is Protocol.AMQP:
            return _AMQP_HEADER_BYTES
        return _POSTGRES_UNTYPED_BYTES if self._untyped else _POSTGRES_HEADER_BYTES

    def _rest_bytes(self) -> int:
        """How much follows the header."""
        length = int.from_bytes(self._header[-4:], "big")
        if self._protocol is Protocol.AMQP:
            return length + _AMQP_END_BYTES
        self._untyped = self._untyped and length == _TLS_REQUEST_BYTES
        return length - 4
