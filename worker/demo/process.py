"""A server as a local process: started in a folder and a process group of its own, ended with everything it started."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from worker.errors import UsageWorkerError

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0
POLL_SECONDS = 0.05


class ServerError(UsageWorkerError):
    """A throw-away server did not start, or there is none to start."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(ready: Callable[[], bool], what: str, *, seconds_max: float = START_SECONDS_MAX) -> None:
    """Ask until the answer is yes.

    Raises:
        ServerError: it was not yes in time.
    """
    until = time.monotonic() + seconds_max
    while not ready():
        if time.monotonic() > until:
            raise ServerError(f"{what} within {seconds_max:.0f} s")
        time.sleep(POLL_SECONDS)


class ServerProcess:
    """One server process, which can be stopped, killed, frozen and started again.

    Args:
        name: what it is, for messages and its folder's name.
        user: who runs it where this process is root; both servers refuse to be root.
    """

    def __init__(self, name: str, *, user: str) -> None:
        self.name = name
        self.folder = Path(tempfile.mkdtemp(prefix=f"usage-{name}-"))
        self._account = _account(user) if os.geteuid() == 0 else None
        self.give(self.folder)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None:
            raise ServerError(f"{self.name} is not running")
        return self._process.pid

    @property
    def log(self) -> str:
        """The end of what it has printed."""
        path = self.folder / "output.log"
        return path.read_text(encoding="utf-8", errors="replace")[-4000:] if path.exists() else ""

    def give(self, path: Path) -> None:
        """Let the server's user own a folder."""
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def run(self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
        """Run a command as the server's user, to its end.

        Raises:
            ServerError: it failed; its output is in the message.
        """
        done = self._popen(command, environment, subprocess.PIPE)
        output, _ = done.communicate(timeout=START_SECONDS_MAX)
        if done.returncode:
            raise ServerError(f"{command[0]} failed ({done.returncode}): {output.decode(errors='replace').strip()}")

    def start(
        self, command: Sequence[str | Path], environment: Mapping[str, str] | None, is_ready: Callable[[], bool]
    ) -> None:
        """Start the server and wait until it answers.

        Raises:
            ServerError: it ended or did not answer in time; the end of its log is in the message.
        """
        with (self.folder / "output.log").open("ab") as output:
            process = self._process = self._popen(command, environment, output.fileno())

        def ready() -> bool:
            if process.poll() is not None:
                raise ServerError(f"{self.name} ended with {process.returncode}:\n{self.log}")
            return is_ready()

        try:
            wait_until(ready, f"{self.name} did not answer")
        except ServerError:
            self.end(signal.SIGKILL)
            raise

    def end(self, number: int) -> None:
        """Signal the server and wait until it and everything that it started is gone."""
        process, self._process = self._process, None
        if process is None:
            return
        if number == signal.SIGKILL:
            self._signal_group(process.pid, number)
        else:
            process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):  # the group is killed next
            process.wait(STOP_SECONDS_MAX)
        self._signal_group(process.pid, signal.SIGKILL)
        process.wait(STOP_SECONDS_MAX)

    def freeze(self) -> None:
        """Stop the whole group in its tracks: connections stay open and nothing answers."""
        self._signal_group(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal_group(self.pid, signal.SIGCONT)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _popen(
        self, command: Sequence[str | Path], environment: Mapping[str, str] | None, output: int
    ) -> subprocess.Popen[bytes]:
        account = self._account
        return subprocess.Popen(  # noqa: S603 - servers of this machine, by fixed names
            [str(part) for part in command],
            cwd=self.folder,
            env=dict(environment) if environment is not None else None,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )

    @staticmethod
    def _signal_group(group: int, number: int) -> None:
        """Everything of the session, whose children may have groups of their own (PostgreSQL's have)."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
        for pid in _session_members(group):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _session_members(session: int) -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid=,sess="], capture_output=True, text=True, check=True)  # noqa: S607
    pairs = (line.split() for line in listed.stdout.splitlines())
    return [int(pid) for pid, of in pairs if of == str(session)]


def _account(user: str) -> pwd.struct_passwd:
    """The account that runs a server for root, made where there is none."""
    try:
        return pwd.getpwnam(user)
    except KeyError:
        command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", user]
        subprocess.run(command, check=True)  # noqa: S603 - a fixed command
        return pwd.getpwnam(user)
