"""TLS to both servers with a throw-away authority: what fits works from end to end, what does not says what to do."""

import asyncio
import gc
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from harness import System, message, until
from harness.events import ORGANIZATION, USER, event
from tls import HOST, Authority, Client, Papers
from usage_events import UsageEvent, UsagePublisher
from usage_events.errors import BrokerUnavailableError

from worker.demo import postgres_server
from worker.demo.hosts import free_ports
from worker.demo.postgres_server import PostgresServer, docker_postgres
from worker.demo.rabbitmq_server import RabbitServer, find_script, local_rabbitmq
from worker.demo.servers import Kind, own_kind
from worker.errors import SystemUnavailableError
from worker.postgres.migrations import migrate
from worker.postgres.session import connect as connect_postgres
from worker.rabbitmq.connection import connect as connect_rabbitmq
from worker.settings import load_settings

OURS = Authority()
THEIRS = Authority()
# What a client may come with that does not fit: how its files are made, the host it names, and what it is told.
REFUSED: dict[str, tuple[Callable[[Path], Client], str, str]] = {
    "another name": (lambda folder: Client(folder, OURS, OURS.client()), "localhost", "is for another name"),
    "another authority": (
        lambda folder: Client(folder, THEIRS, OURS.client()),
        HOST,
        "is of an authority unknown here",
    ),
    "no certificate": (lambda folder: Client(folder, OURS, None), HOST, "client certificate"),
    "a foreign certificate": (lambda folder: Client(folder, OURS, THEIRS.client()), HOST, "client certificate"),
    "an expired certificate": (lambda folder: Client(folder, OURS, OURS.expired("x")), HOST, "client certificate"),
}


class TlsRabbit:
    """A broker that speaks TLS on a second port, and wants certificates of its clients."""

    def __init__(self) -> None:
        if find_script() is None:
            pytest.skip("there is no rabbitmq-server on this machine, whose files a test could change")
        self.folder = Path(tempfile.mkdtemp(prefix="usage-worker-tls-"))
        self.folder.chmod(0o755)  # the broker's own user reads it
        (self.port,) = free_ports(1)
        self.take(OURS, OURS.server())
        settings = {
            "listeners.ssl.1": f"{HOST}:{self.port}",
            "ssl_options.cacertfile": self.folder / "ca.crt",
            "ssl_options.certfile": self.folder / "server.crt",
            "ssl_options.keyfile": self.folder / "server.key",
            "ssl_options.verify": "verify_peer",
            "ssl_options.fail_if_no_peer_cert": "true",
        }
        self.server: RabbitServer = local_rabbitmq(settings={name: str(value) for name, value in settings.items()})

    def take(self, authority: Authority, papers: Papers) -> None:
        """Whom it trusts and what it shows, from its next start on."""
        (self.folder / "ca.crt").write_bytes(authority.certificate)
        papers.put(self.folder, "server")


@pytest.fixture(scope="module")
def rabbit() -> Iterator[TlsRabbit]:
    """One for the module."""
    made = TlsRabbit()
    with made.server:
        yield made
    shutil.rmtree(made.folder)


@pytest.mark.parametrize("case", REFUSED)
async def test_rabbitmq_refusals(rabbit: TlsRabbit, tmp_path: Path, case: str) -> None:
    """The worker and the publisher are told what is wrong with the certificates, and what to do."""
    make, host, words = REFUSED[case]
    url = make(tmp_path / "client").amqps(host, rabbit.port)
    with pytest.raises(SystemUnavailableError, match=words):
        await connect_rabbitmq(load_settings(amqp_url=url), "tests")
    async with UsagePublisher(url) as publisher:
        with pytest.raises(BrokerUnavailableError, match=words):
            await publisher.connect()


@pytest.mark.parametrize(
    ("file", "words"), [("ca.crt", "cannot be read"), ("client.key", "cannot be read"), ("client.crt", "do not belong")]
)
async def test_files_that_do_not_fit(rabbit: TlsRabbit, tmp_path: Path, file: str, words: str) -> None:
    """A missing file, and a certificate with another's key, are told apart from a server that is away."""
    client = Client(tmp_path / "client", OURS, OURS.client())
    if file == "client.crt":
        (client.folder / file).write_bytes(OURS.client().certificate)
    else:
        (client.folder / file).unlink()
    with pytest.raises(SystemUnavailableError, match=words):
        await connect_rabbitmq(load_settings(amqp_url=client.amqps(HOST, rabbit.port)), "tests")


async def test_a_port_without_tls(rabbit: TlsRabbit, tmp_path: Path) -> None:
    """TLS on the port for plain AMQP: the other port is what is missing."""
    plain = urlsplit(rabbit.server.amqp_url).port
    assert plain is not None
    url = Client(tmp_path / "client", OURS, OURS.client()).amqps(HOST, plain)
    with pytest.raises(SystemUnavailableError, match="the port does not speak TLS: name the one that does"):
        await connect_rabbitmq(load_settings(amqp_url=url), "tests")


@pytest.mark.slow  # the broker is restarted three times
async def test_events_go_through_and_certificates_are_renewed(
    rabbit: TlsRabbit, migrated_dsn: str, tmp_path: Path
) -> None:
    """Stored end to end; then all certificates and the authority change under a running worker, which reads them."""
    client = Client(tmp_path / "client", OURS, OURS.client())
    url = client.amqps(HOST, rabbit.port)
    async with System(
        migrated_dsn, rabbit.server.amqp_url, exchange="usage", queue="usage.events", folder=tmp_path
    ) as system:
        await system.start_worker(USAGE_AMQP_URL=url)
        await record(url)
        await system.until_stored(1)
        rabbit.take(OURS, OURS.expired())
        await asyncio.to_thread(rabbit.server.restart)
        words = "the server's certificate, or its authority's, has expired: renew it on the server"
        await system.until(lambda: words in system.workers[0].log(), "the worker says that it has expired")
        rabbit.take(THEIRS, THEIRS.server())
        await asyncio.to_thread(rabbit.server.restart)
        Client(tmp_path / "client", THEIRS, THEIRS.client())  # the same files
        await system.until(system.workers[0].is_ready, "the worker is back", seconds_max=60)
        await record(url)
        await system.until_stored(2)
        await system.stop_workers()
    rabbit.take(OURS, OURS.server())
    await asyncio.to_thread(rabbit.server.restart)


async def record(amqp_url: str) -> None:
    """One event, confirmed."""
    async with UsagePublisher(amqp_url) as publisher:
        publisher.record(UsageEvent(user_id=USER, organization_id=ORGANIZATION, input_tokens=1))
        await publisher.flush(30)


@asynccontextmanager
async def shows(papers: Papers, folder: Path) -> AsyncIterator[int]:
    """The port of what looks like a Postgres until its certificate has been seen."""
    papers.put(folder, "shown")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "shown.crt", folder / "shown.key")

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readexactly(8)  # the wish for TLS
            writer.write(b"S")
            await writer.start_tls(context)
        except OSError:
            pass  # refused, as it should be
        finally:
            writer.close()

    async with await asyncio.start_server(accept, HOST, 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    ("make", "host", "words"),
    [
        (OURS.server, "localhost", "is for another name"),
        (THEIRS.server, HOST, "is of an authority unknown here: name its file in sslrootcert"),
        (OURS.expired, HOST, "has expired: renew it on the server"),
    ],
)
async def test_certificates_of_postgres_that_are_refused(
    tmp_path: Path, make: Callable[[], Papers], host: str, words: str
) -> None:
    """No wrong setting, which would end a worker, but a server that is away until its certificate is mended."""
    async with shows(make(), tmp_path) as port:
        dsn = Client(tmp_path / "client", OURS, None).postgresql(host, port, "postgres", "usage")
        await refused(dsn, words)


async def refused(dsn: str, words: str) -> None:
    """The connection is refused with these words, and the library has closed what it had opened."""
    with pytest.raises(SystemUnavailableError, match=words):
        await connect_postgres(dsn, "public", name="tests")
    # It closes when the loop comes round again; a loop that ends before that leaves a warning to whatever test is next.
    await until(lambda: not _open_transports(), "the refused connection is closed")


def _open_transports() -> list[asyncio.Transport]:
    """Of this test's loop, clients' alone: those of a server that the test runs have another protocol."""
    loop = asyncio.get_running_loop()
    transports = [one for one in gc.get_objects() if isinstance(one, asyncio.Transport)]
    mine = [
        one for one in transports if getattr(one, "_loop", None) is loop and getattr(one, "_sock", None) is not None
    ]
    return [one for one in mine if not isinstance(one.get_protocol(), asyncio.StreamReaderProtocol)]


# Postgres itself.

_ACCESS = "host all postgres all scram-sha-256\nhostssl all secured all trust clientcert=verify-ca\n"


def put(server: PostgresServer, file: str, content: bytes) -> None:
    """A file in the server's own folder."""
    lines = content.decode().replace("'", "''")
    server.execute(f"COPY (SELECT unnest(string_to_array('{lines}', E'\\n'))) TO PROGRAM 'umask 077; cat > {file}'")


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """A Postgres that lets `secured` in by TLS and certificate alone."""
    if own_kind(postgres_server.IMAGE) is not Kind.DOCKER:
        pytest.skip("the local Postgres is built without TLS; a Docker engine has one with it")
    papers = OURS.server()
    with docker_postgres() as server:
        for file, content in (
            ("server.crt", papers.certificate),
            ("server.key", papers.key),
            ("ca.crt", OURS.certificate),
            ("pg_hba.conf", _ACCESS.encode()),
        ):
            put(server, file, content)
        server.execute("CREATE ROLE secured LOGIN SUPERUSER")
        for setting in ("ssl = on", "ssl_cert_file = 'server.crt'", "ssl_key_file = 'server.key'"):
            server.execute(f"ALTER SYSTEM SET {setting}")
        server.execute("ALTER SYSTEM SET ssl_ca_file = 'ca.crt'")
        server.restart()
        yield server


def dsn_of(server: PostgresServer, client: Client, host: str = HOST) -> str:
    """The DSN of `secured` with this client's files."""
    port = urlsplit(server.dsn).port
    assert port is not None
    return client.postgresql(host, port, "postgres", "secured")


@pytest.mark.parametrize("case", REFUSED)
async def test_postgres_refusals(postgres: PostgresServer, tmp_path: Path, case: str) -> None:
    """The same cases on a real server: each is told what is wrong."""
    make, host, words = REFUSED[case]
    await refused(dsn_of(postgres, make(tmp_path / "client"), host), words)


async def test_events_reach_a_postgres_with_tls(
    postgres: PostgresServer, amqp_url: str, names: Any, tmp_path: Path
) -> None:
    """Verified name, client certificate: stored; and `pg_stat_ssl` says that it was encrypted."""
    dsn = dsn_of(postgres, Client(tmp_path / "client", OURS, OURS.client()))
    connection = await connect_postgres(dsn, "public", name="tests")
    await migrate(connection, "public")
    await connection.close()
    async with System(postgres.dsn, amqp_url, exchange=names.exchange, queue=names.queue, folder=tmp_path) as system:
        await system.start_worker(USAGE_POSTGRES_DSN=dsn)
        await system.publish(message(event()))
        await system.until_stored(1)
        encrypted = (
            "SELECT array_agg(DISTINCT ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = $1"
        )
        assert await system.value(encrypted, "secured") == [True]
        await system.settle()
