"""Ends what a process leaves behind, however that process ends: SIGTERM and SIGKILL run no `finally`.

A small process of its own. It reads lines `kind value` from its standard input, which its starter holds open, and acts
when that comes to its end. It is run by its path, so it imports nothing of this project.
"""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress


class Reaper:
    """The handle in the process that may die: tell it what to end, dismiss it once all that is done."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - this file, with this interpreter
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # it outlives its starter's terminal
            start_new_session=True,  # Ctrl-C is for the others
            text=True,
        )

    def add(self, kind: str, value: object) -> None:
        """Remember a `process` (its id, with its children and its group), a `container` or a `folder`."""
        assert self._process.stdin is not None  # noqa: S101 - asked for above
        self._process.stdin.write(f"{kind} {value}\n")
        self._process.stdin.flush()

    def dismiss(self) -> None:
        """Everything has been ended already."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None  # noqa: S101 - asked for above
        self._process.stdin.close()


def signal_tree(pid: int, number: int) -> None:
    """Send a signal to a process and to all below it: from the top, so that none can start another meanwhile."""
    import psutil  # type: ignore[import-untyped] # ships no types

    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        top.send_signal(number)
        for process in top.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def kill_group(pid: int) -> None:
    """Kill what is left of the process group that `pid` leads or has led."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _main() -> None:
    import psutil

    started: list[psutil.Process] = []
    others: list[tuple[str, str]] = []
    for line in sys.stdin:
        kind, value = line.rstrip("\n").split(" ", 1)
        if kind != "process":
            others.append((kind, value))
            continue
        with suppress(psutil.NoSuchProcess):
            started.append(psutil.Process(int(value)))
    for process in started:
        if process.is_running():  # and not another one that has got its id
            signal_tree(process.pid, signal.SIGKILL)
            kill_group(process.pid)
    for kind, value in others:
        if kind == "container":
            _remove_container(value)
        else:
            shutil.rmtree(value, ignore_errors=True)


def _remove_container(name: str) -> None:
    import docker  # type: ignore[import-untyped] # ships no types

    with suppress(docker.errors.NotFound):
        docker.from_env().containers.get(name).remove(force=True, v=True)


if __name__ == "__main__":
    _main()
