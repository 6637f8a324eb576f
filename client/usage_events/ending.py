"""The end of a process: publishers are closed when nobody can record any more, and not a moment before."""

import atexit
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol


class Closing(Protocol):
    """Something that has to be closed before the process ends."""

    def close_at_exit(self) -> None:
        """Ends it, within a deadline of its own; it raises nothing."""


# Held until they are closed: what a publisher has must be sent, also where nobody else holds it.
_open: set[Closing] = set()


class _Watch:
    """A thread that closes them when the other threads have ended. Python waits for it, and cannot begin it so late."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._main_ended = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Watches from now on."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="usage_events end")
                self._thread.start()

    def end(self) -> bool:
        """The main thread has ended; whether this sees to the rest."""
        self._main_ended.set()
        return self._thread is not None

    def _run(self) -> None:
        self._main_ended.wait()
        while others := _others():
            for thread in others:
                thread.join()
        _close_all()


_watch = _Watch()


def _renew_watch() -> None:
    global _watch  # noqa: PLW0603 - a child process has none of its parent's threads
    _watch = _Watch()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_renew_watch)


def register(closing: Closing) -> None:
    """Closes it when the process ends."""
    _open.add(closing)


def watch() -> None:
    """To be called once there is something that has to be sent."""
    _watch.begin()


def forget(closing: Closing) -> None:
    """It is closed already."""
    _open.discard(closing)


class Helpers(ThreadPoolExecutor):
    """A thread for each call: a loop that looks up a name needs one, also when Python has ended its pools."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Begins the call."""
        future: Future[Any] = Future()
        thread = threading.Thread(
            target=_call, args=(future, fn, args, kwargs), name="usage_events helper", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # Python 3.12 gives no thread at its end: then everything else may wait
            _call(future, fn, args, kwargs)
        return future


def _call(future: Future[Any], fn: Any, args: Any, kwargs: Any) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(fn(*args, **kwargs))
    except BaseException as error:  # noqa: BLE001 - it is whoever's that waits for the future
        future.set_exception(error)


def _end() -> None:
    """The main thread is at its end. Others, and pools with work left, may go on: Python waits for them, and so we."""
    if not _watch.end():
        _close_all()


def _others() -> list[threading.Thread]:
    own = {threading.main_thread(), threading.current_thread()}
    return [thread for thread in threading.enumerate() if not thread.daemon and thread not in own]


def _close_all() -> None:
    for closing in list(_open):
        closing.close_at_exit()


# It has no public name: `atexit` comes after the other threads, when nobody waits for ours, and not at all in children
# of multiprocessing.
getattr(threading, "_register_atexit", atexit.register)(_end)
