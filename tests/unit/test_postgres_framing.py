"""A damaged length of Postgres's ends no process: the connection is given up before the driver reads it."""

import asyncio
import random
from contextlib import suppress
from typing import Any

import pytest
from structlog.testing import capture_logs

from worker.errors import SystemUnavailableError
from worker.postgres.framing import CheckedProtocol
from worker.postgres.session import connect, translated


def message(kind: bytes, payload: bytes) -> bytes:
    """A message of the server's."""
    return kind + (len(payload) + 4).to_bytes(4, "big") + payload


READY = message(b"Z", b"I")
HELLO = b"".join(
    [message(b"R", bytes(4)), message(b"S", b"server_version\0" + b"18.0\0"), message(b"S", b"TimeZone\0UTC\0"), READY]
)
DONE = message(b"C", b"SELECT 1\0") + READY


def damaged(length: int) -> bytes:
    """The answer to a command with another length in it."""
    return DONE[:1] + length.to_bytes(4, "big") + DONE[5:]


async def ask(answer: bytes) -> str:
    """What a session makes of this answer to a command; SSL is refused before it all."""
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            for said in (b"N", HELLO, answer):
                await reader.read(10_000)
                writer.write(said)
            await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        ended.set()

    async with asyncio.timeout(30), await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        dsn = f"postgresql://me:secret@127.0.0.1:{port}/usage?target_session_attrs=any"
        with translated():
            session = await connect(dsn, "public", name="tests")
            try:
                return str(await session.execute("SELECT 1"))
            finally:
                session.terminate()
                await ended.wait()


async def test_an_answer_is_read() -> None:
    """What is as it should be goes to the driver."""
    assert await ask(DONE) == "SELECT 1"


@pytest.mark.parametrize("length", [0x8000_000D, 0xFF00_000D, 0xF000_000D, 0, 3, 2**30 + 1])
async def test_a_length_that_cannot_be_ends_the_connection_and_not_the_process(length: int) -> None:
    """The driver's C code read in front of its buffer where one was negative, and the worker was gone (SIGSEGV)."""
    with capture_logs() as logs, pytest.raises(SystemUnavailableError, match="connection was closed in the middle"):
        await ask(damaged(length))
    assert {"event": "an answer of Postgres was damaged on its way", "length": length, "log_level": "warning"} in logs


def followed(pieces: list[bytes]) -> tuple[list[bytes], list[int]]:
    """What is handed on of these pieces, and the lengths that are said to be wrong."""
    passed: list[bytes] = []
    wrong: list[int] = []
    protocol: Any = CheckedProtocol.__new__(CheckedProtocol)
    protocol._header, protocol._rest_bytes = b"", 0
    for piece in pieces:
        wrong_bytes = protocol._follow(piece)
        if wrong_bytes is not None:
            wrong.append(wrong_bytes)
            break
        passed.append(piece)
    return passed, wrong


@pytest.mark.parametrize("seed", range(20))
def test_messages_are_followed_however_they_are_cut(seed: int) -> None:
    """Every length is found where it stands, and no other bytes are taken for one."""
    chance = random.Random(seed)
    whole = HELLO + message(b"D", bytes(range(256)) * 3) + DONE * 3 + message(b"n", b"")
    for stream, ends_well in ((whole, True), (whole + damaged(0xFF00_000D), False)):
        pieces, place = [], 0
        while place < len(stream):
            pieces.append(stream[place : place + (1 if seed == 0 else chance.randint(1, 300))])
            place += len(pieces[-1])
        passed, wrong = followed(pieces)
        assert passed == pieces if ends_well else passed == pieces[: len(passed)] != pieces
        assert wrong == ([] if ends_well else [0xFF00_000D])
