"""What a server runs in: a local process, a container, or nothing that is ours to touch."""

import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import NoReturn, Protocol

from worker.errors import ConfigurationError, SystemUnavailableError

START_SECONDS_MAX = 90.0
STOP_SECONDS_MAX = 30.0
POLL_SECONDS = 0.05
LOOPBACK = "127.0.0.1"


class Host(Protocol):
    """Starts, stops and freezes a server as a whole: with every process that it has started. Data and ports stay."""

    @property
    def pid(self) -> int:
        """The id of the server's first process."""

    def start(self) -> None:
        """Start it; it may not be ready yet."""

    def stop(self, number: signal.Signals) -> None:
        """Ask it to stop with this signal, and wait until it has."""

    def kill(self) -> None:
        """SIGKILL everything at once."""

    def freeze(self) -> None:
        """SIGSTOP everything: connections stay open and nobody answers."""

    def thaw(self) -> None:
        """SIGCONT everything."""

    def is_running(self) -> bool:
        """Whether its first process is there."""

    def log_tail(self) -> str:
        """The last lines that it has written."""

    def remove(self) -> None:
        """End it and delete its data; may be called again."""


class Untouched:
    """A server that was given: it is somebody else's to stop."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _refuse(self) -> NoReturn:
        raise ConfigurationError(
            f"the server of {self._name} was given and is neither stopped nor started here:"
            " unset it, and a throw-away server is started instead"
        )

    @property
    def pid(self) -> int:
        """Not known."""
        self._refuse()

    def start(self) -> None:
        """Refused."""
        self._refuse()

    def stop(self, number: signal.Signals) -> None:  # noqa: ARG002 - the protocol's
        """Refused."""
        self._refuse()

    def kill(self) -> None:
        """Refused."""
        self._refuse()

    def freeze(self) -> None:
        """Refused."""
        self._refuse()

    def thaw(self) -> None:
        """Refused."""
        self._refuse()

    def is_running(self) -> bool:
        """Taken for running: whoever gave it says so."""
        return True

    def log_tail(self) -> str:
        """Not to be had."""
        return ""

    def remove(self) -> None:
        """Stays as it is."""


def wait_until_ready(name: str, host: Host, probe: Callable[[], object], errors: tuple[type[Exception], ...]) -> None:
    """Try `probe` until it raises none of `errors`.

    Raises:
        SystemUnavailableError: the server has ended, or did not answer in time; with the end of its log.
    """
    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            probe()
        except errors as error:
            if not host.is_running():
                raise SystemUnavailableError(f"{name} ended while it started:\n{host.log_tail()}") from error
            if time.monotonic() > deadline:
                raise SystemUnavailableError(
                    f"{name} did not answer within {START_SECONDS_MAX:g} s ({error!r}):\n{host.log_tail()}"
                ) from error
            time.sleep(POLL_SECONDS)
        else:
            return


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on now."""
    with ExitStack() as stack:  # all are held until the last is found, so none comes twice
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind((LOOPBACK, 0))
        return [opened.getsockname()[1] for opened in sockets]
