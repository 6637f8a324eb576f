"""A server as a container of a Docker engine, ended with whoever started it."""

import gc
import signal
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import docker  # type: ignore[import-untyped] # ships no types
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from worker.demo.hosts import LOOPBACK, POLL_SECONDS, STOP_SECONDS_MAX
from worker.demo.reaper import Reaper
from worker.errors import SystemUnavailableError

LOG_LINES_SHOWN = 30

# The reaper does the same without an image of its own to be pulled.
testcontainers_config.ryuk_disabled = True


def why_not(image: str) -> str | None:
    """Why a container of this image cannot be had here, or None where it can; pulls the image where it is absent."""
    with _unclosed_sockets_unmentioned():
        try:
            client = docker.from_env()
        except docker.errors.DockerException:
            return "no Docker engine answers"
        try:
            if not client.images.list(image):
                client.images.pull(image)
        except docker.errors.DockerException as error:
            return f"the Docker engine has no image {image} and cannot pull it ({error})"
        finally:
            client.close()
    return None


@contextmanager
def _unclosed_sockets_unmentioned() -> Iterator[None]:
    """The library drops connections that failed without closing them; collected in here, they warn nobody."""
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        yield
        gc.collect()


class Container:
    """A container whose ports are the same after a restart, and its data, too."""

    def __init__(
        self,
        image: str,
        *,
        ports: Mapping[int, int],
        environment: dict[str, str],
        command: Sequence[str] = (),
        stop_command: Sequence[str] = (),
    ) -> None:
        """`ports` maps the container's to this machine's; `stop_command` runs inside in place of a signal."""
        self._image = image
        self._stop_command = list(stop_command)
        self._outer = DockerContainer(image, env=environment)
        if command:
            self._outer.with_command(list(command))
        self.address = self._outer.get_docker_client().host()
        interface = LOOPBACK if self.address in {"localhost", LOOPBACK} else ""
        # The library's own method takes no interface, and so would listen on all of them.
        self._outer.ports.update({f"{inside}/tcp": (interface, port) for inside, port in ports.items()})  # type: ignore[misc]
        self._started = False
        self._removed = False
        self._reaper = Reaper()

    @property
    def _inner(self) -> Any:
        return self._outer.get_wrapped_container()

    @property
    def pid(self) -> int:
        """The id of the container's first process, as the engine's machine sees it."""
        self._inner.reload()
        return int(self._inner.attrs["State"]["Pid"])

    def start(self) -> None:
        """Start it; it may not be ready yet."""
        if self._started:
            self._inner.start()
            return
        try:
            self._outer.start()
        except docker.errors.DockerException as error:
            raise SystemUnavailableError(f"a container of {self._image} did not start: {error}") from error
        finally:
            if self._outer._container is not None:  # noqa: SLF001 - the accessor raises where there is none
                self._reaper.add("container", self._outer.get_container_id())
        self._started = True

    def stop(self, number: signal.Signals) -> None:
        """Ask it to stop, and wait until it has.

        Raises:
            SystemUnavailableError: it did not stop in time.
        """
        if self._stop_command:
            self._inner.exec_run(self._stop_command)
        else:
            self._inner.kill(number.name)
        self._wait_for_end()

    def kill(self) -> None:
        """SIGKILL everything at once."""
        self._inner.kill()
        self._wait_for_end()

    def freeze(self) -> None:
        """Every process stands still: connections stay open and nobody answers."""
        self._inner.pause()

    def thaw(self) -> None:
        """Every process goes on."""
        self._inner.unpause()

    def is_running(self) -> bool:
        """Whether its first process is there."""
        self._inner.reload()
        return str(self._inner.status) in {"created", "running", "paused"}

    def log_tail(self) -> str:
        """The last lines that it has written."""
        return str(self._inner.logs(tail=LOG_LINES_SHOWN).decode(errors="replace"))

    def remove(self) -> None:
        """End it and delete its data; may be called again."""
        if not self._removed:
            self._removed = True
            self._outer.stop()
            self._reaper.dismiss()

    def _wait_for_end(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS_MAX
        while self.is_running():
            if time.monotonic() > deadline:
                raise SystemUnavailableError(
                    f"the container of {self._image} did not stop within {STOP_SECONDS_MAX:g} s:\n{self.log_tail()}"
                )
            time.sleep(POLL_SECONDS)
