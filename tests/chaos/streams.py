"""Where framing stands in the byte streams of AMQP 0-9-1 and of Postgres's protocol 3, in whatever pieces they come.

Only framing is ever corrupted on a plain stream: a digit that is flipped inside a body is valid data that nobody can
notice.
"""

import random
from enum import StrEnum
from typing import NamedTuple

_AMQP_GREETING_BYTES = 8  # "AMQP" 0 0 9 1, from the client alone
_AMQP_HEADER_BYTES = 7  # type, channel, size
_AMQP_END_BYTES = 1
_POSTGRES_HEADER_BYTES = 5  # type, length (which counts itself)
_POSTGRES_UNTYPED_BYTES = 4  # what a client says first has a length alone
_TLS_REQUEST_BYTES = 8
_TLS_ANSWERS = b"NS"
WRONG_TYPE = 0xFF  # of a frame and of a message: neither protocol knows it
# The upper byte of a channel that nobody has: brokers allow 2,047. One that somebody has would be valid data.
WRONG_CHANNEL_MIN, WRONG_CHANNEL_MAX = 0x08, 0xFF


class Protocol(StrEnum):
    """What is spoken on a connection."""

    AMQP = "amqp"
    POSTGRES = "postgres"


class Field(StrEnum):
    """What a byte of framing is of."""

    TYPE = "type"
    CHANNEL = "channel"  # its upper byte
    LENGTH = "length"
    END = "end"


class Place(NamedTuple):
    """Where in a piece of the stream a byte of framing stands."""

    at: int
    field: Field


_AMQP_HEADER = (Field.TYPE, Field.CHANNEL, None, *[Field.LENGTH] * 4)
_POSTGRES_HEADER = (Field.TYPE, *[Field.LENGTH] * 4)


def corrupted(data: bytes, places: list[Place], chance: random.Random) -> bytes:
    """The same with one byte of framing overwritten: each field is as likely, of the first message that has it here."""
    field = chance.choice(sorted({place.field for place in places}))
    found = [place.at for place in places if place.field is field]
    at = chance.choice(found[:4]) if field is Field.LENGTH else found[0]
    wrong = {
        Field.TYPE: WRONG_TYPE,
        Field.CHANNEL: chance.randint(WRONG_CHANNEL_MIN, WRONG_CHANNEL_MAX),
    }.get(field, data[at] ^ chance.randint(1, 0xFF))
    return data[:at] + bytes([wrong]) + data[at + 1 :]


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
        self._header_fields = _AMQP_HEADER if protocol is Protocol.AMQP else _POSTGRES_HEADER
        self._has_end = False  # what is skipped now
        # A Postgres client may ask for TLS, and is answered by one byte; then it says who it is. None has a type.
        self._untyped = protocol is Protocol.POSTGRES and from_client
        self._may_answer_tls = protocol is Protocol.POSTGRES and not from_client

    def places(self, data: bytes) -> list[Place]:
        """Where in the next piece of the stream framing stands; nothing of what a Postgres client says first."""
        found: list[Place] = []
        place = 0
        if self._may_answer_tls and data:
            self._may_answer_tls = False
            place = int(data[0] in _TLS_ANSWERS)
        while place < len(data):
            if self._skip:
                skipped = min(self._skip, len(data) - place)
                self._skip -= skipped
                place += skipped
                if not self._skip and self._has_end:
                    found.append(Place(place - 1, Field.END))
                continue
            taken = data[place : place + self._header_bytes - len(self._header)]
            if not self._untyped:
                fields = enumerate(self._header_fields[len(self._header) :][: len(taken)], place)
                found += [Place(at, field) for at, field in fields if field]
            self._header += taken
            place += len(taken)
            if len(self._header) == self._header_bytes:
                self._skip = self._rest_bytes()
                self._has_end = self._protocol is Protocol.AMQP
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
