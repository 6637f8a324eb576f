"""A DSN with several hosts: the one that takes writes is found, whatever has become of those before it."""

import asyncio
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import pytest

from worker.demo.hosts import LOOPBACK, free_ports
from worker.errors import SystemUnavailableError
from worker.postgres import session


@pytest.fixture
def silent() -> Iterator[str]:
    """A host that takes connections and says nothing on them, as one that stands still."""
    with socket.create_server((LOOPBACK, 0)) as listening:
        yield f"{LOOPBACK}:{listening.getsockname()[1]}"


@pytest.fixture
def absent() -> str:
    """A host that refuses connections."""
    return f"{LOOPBACK}:{free_ports(1)[0]}"


def before(dsn: str, *hosts: str) -> str:
    """This DSN with other hosts before its own."""
    parts = urlsplit(dsn)
    login, at, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}{at}{','.join((*hosts, host))}"))


async def test_a_silent_host_leaves_time_for_the_next(
    database_dsn: str, silent: str, absent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one has died without a word, as machines do, the second one refuses: the third one is used."""
    monkeypatch.setattr(session, "CONNECT_SECONDS_MAX", 15.0)
    connection = await session.connect(before(database_dsn, silent, absent), "public", name="test")
    try:
        name = await connection.fetchval("SELECT current_database()")
    finally:
        await connection.close()
    assert name == urlsplit(database_dsn).path[1:]


async def test_the_host_that_takes_writes(database_dsn: str) -> None:
    """One that only reads is passed over; where none takes writes, that is said of each."""
    name = urlsplit(database_dsn).path[1:]
    owner = await session.connect(database_dsn, "public", name="test")
    await owner.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    await owner.close()
    with pytest.raises(SystemUnavailableError) as raised:
        await session.connect(
            before(database_dsn, urlsplit(database_dsn).netloc.rpartition("@")[2]), "public", name="t"
        )
    assert str(raised.value).count("TargetServerAttributeNotMatched") == 2


async def test_each_host_says_why(silent: str, absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none answers, each one's reason is told, and no password."""
    monkeypatch.setattr(session, "CONNECT_SECONDS_MAX", 1.0)
    dsn = f"postgresql://ada:geheim@{absent},{silent}/usage"
    async with asyncio.timeout(30):
        with pytest.raises(SystemUnavailableError) as raised:
            await session.connect(dsn, "public", name="test")
    said = str(raised.value)
    assert f"{absent}/usage: ConnectionRefusedError" in said
    assert f"{silent}/usage: TimeoutError" in said
    assert "geheim" not in said
