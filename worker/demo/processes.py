"""A server as a process of this machine, in a folder of its own, ended with whoever started it."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worker.demo.hosts import STOP_SECONDS_MAX
from worker.demo.reaper import Reaper, kill_group, signal_tree
from worker.errors import SystemUnavailableError

LOG_LINES_SHOWN = 30


class ThrowAwayFolder:
    """A folder that belongs to the user who runs the server, and is deleted with it, however this process ends."""

    def __init__(self, name: str, *, user: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"usage-worker-{name}-"))
        self.reaper = Reaper()
        self.reaper.add("folder", self.path)
        # Servers refuse to run as root; as somebody else it makes no difference who owns the folder.
        self.identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            account = _account(user)
            os.chown(self.path, account.pw_uid, account.pw_gid)
            self.identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def remove(self) -> None:
        """Delete it, once what ran in it has ended."""
        shutil.rmtree(self.path, ignore_errors=True)  # also a second time, when it is gone
        self.reaper.dismiss()

    def run(self, command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        """Run a command in it to its end.

        Raises:
            SystemUnavailableError: the command failed; with what it said.
        """
        done = subprocess.run(  # noqa: S603 - the servers' own tools
            command, cwd=self.path, env=environment, capture_output=True, text=True, check=False, **self.identity
        )
        if done.returncode != 0:
            raise SystemUnavailableError(
                f"{' '.join(map(str, command))} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
            )


class LocalProcess:
    """A server's process with all that it starts, in a process group of its own."""

    def __init__(self, folder: ThrowAwayFolder, command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._command = command
        self._environment = environment
        self._log = folder.path / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the server's first process, also after its end."""
        return self._started().pid

    def start(self) -> None:
        """Start it; it may not be ready yet."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the server's own command
                self._command,
                cwd=self._folder.path,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for whoever started it, and the group can be killed as one
                **self._folder.identity,
            )
        self._folder.reaper.add("process", self._process.pid)

    def stop(self, number: signal.Signals) -> None:
        """Ask it to stop with this signal, and wait until it has.

        Raises:
            SystemUnavailableError: it did not stop in time.
        """
        process = self._started()
        process.send_signal(number)
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired as error:
            raise SystemUnavailableError(
                f"process {process.pid} did not stop within {STOP_SECONDS_MAX:g} s of {number.name}:\n{self.log_tail()}"
            ) from error
        kill_group(process.pid)  # helpers that it has left

    def kill(self) -> None:
        """SIGKILL everything at once."""
        process = self._started()
        if process.poll() is None:
            signal_tree(process.pid, signal.SIGKILL)
        kill_group(process.pid)
        process.wait()

    def freeze(self) -> None:
        """SIGSTOP everything: connections stay open and nobody answers."""
        signal_tree(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT everything."""
        signal_tree(self.pid, signal.SIGCONT)

    def is_running(self) -> bool:
        """Whether its first process is there."""
        return self._process is not None and self._process.poll() is None

    def log_tail(self) -> str:
        """The last lines that it has written."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:])

    def remove(self) -> None:
        """End it and delete its data; may be called again."""
        if self.is_running():
            self.kill()
        self._folder.remove()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise SystemUnavailableError(f"{self._command[0]} was not started: call start() first")
        return self._process


def _account(user: str) -> pwd.struct_passwd:
    """The server's own account where its package has made one, else that of nobody."""
    try:
        return pwd.getpwnam(user)
    except KeyError:
        return pwd.getpwnam("nobody")
