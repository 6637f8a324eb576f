"""A COPY that is larger than what the network takes at once, on a connection that takes no more: it ends in time."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from batches import Outcomes, batch_of, events, host, ids
from harness import until

from worker.errors import SystemUnavailableError
from worker.postgres import session
from worker.postgres.store import PostgresStore

PIECE_BYTES = 2**16
END_SECONDS_MAX = 30.0


class StallingWay:
    """A way to the server that takes nothing more from whoever begins a COPY, while `stalls`."""

    def __init__(self, dsn: str) -> None:
        self._parts = urlsplit(dsn)
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: list[asyncio.StreamWriter] = []
        self.stalls = True

    async def start(self) -> str:
        """Listen; the DSN of this way."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", limit=PIECE_BYTES)
        port = self._server.sockets[0].getsockname()[1]
        login = self._parts.netloc.rpartition("@")[0]
        return urlunsplit(self._parts._replace(netloc=f"{login}@127.0.0.1:{port}"))

    def cut(self) -> None:
        """All connections end at once."""
        for client in self._clients:
            client.transport.abort()

    async def close(self) -> None:
        """Listen no more."""
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.append(writer)
        there, back = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        for copying in (self._copy(reader, back, is_client=True), self._copy(there, writer, is_client=False)):
            self._tasks.add(asyncio.ensure_future(copying))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_client: bool) -> None:
        try:
            while piece := await reader.read(PIECE_BYTES):
                writer.write(piece)
                await writer.drain()
                if is_client and self.stalls and b"FROM STDIN" in piece:
                    await asyncio.Event().wait()  # what comes now fills the buffers
        except OSError:
            pass  # it was cut
        finally:
            writer.transport.abort()


@pytest.fixture
async def way(migrated_dsn: str) -> AsyncIterator[StallingWay]:
    """A way to the test's database."""
    made = StallingWay(migrated_dsn)
    yield made
    await made.close()


@pytest.fixture
async def connection(migrated_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """The host's own, which does not take this way; with a user and an organization."""
    async with host(migrated_dsn) as opened:
        yield opened


def large() -> list[dict[str, Any]]:
    """Events of some 20 MB."""
    return events(5000, request_metadata={"padding": "x" * 4000})


async def _until_it_waits(store: PostgresStore) -> None:
    """Until the socket takes no more of what the store has to write."""

    def waits() -> bool:
        opened: Any = store._session._connection
        return opened is not None and opened._transport.get_write_buffer_size() > PIECE_BYTES

    await until(waits, "the socket is full")


async def test_a_connection_that_is_lost(way: StallingWay, connection: asyncpg.Connection) -> None:
    """The writer hears of it although it waits to write: it had waited for ever. Then all is stored."""
    store = PostgresStore(await way.start(), "public", worker="test")
    bodies = large()
    batch = batch_of(bodies)
    writing = asyncio.ensure_future(store.write(batch))
    await _until_it_waits(store)
    way.cut()
    async with asyncio.timeout(END_SECONDS_MAX):
        with pytest.raises(SystemUnavailableError):
            await writing
    way.stalls = False
    await store.write(batch)
    assert (await Outcomes.read(connection)).stored == ids(bodies)
    await store.close()


async def test_a_connection_that_is_silent(
    way: StallingWay, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody says that it is lost: it is given up after the client's own time-out."""
    store = PostgresStore(await way.start(), "public", worker="test")
    bodies = events(1)
    way.stalls = False
    await store.write(batch_of(bodies))  # over a session that has the time-outs of every day
    await store.close()
    monkeypatch.setattr(session, "COMMAND_SECONDS_MAX", 0.5)
    way.stalls = True
    writing = asyncio.ensure_future(store.write(batch_of(large())))
    async with asyncio.timeout(END_SECONDS_MAX):
        with pytest.raises(SystemUnavailableError):
            await writing
    assert (await Outcomes.read(connection)).stored == ids(bodies)
    await store.close()
