"""The end of a process: publishers are closed when nobody can record any more, and not a moment before."""

import atexit
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol


class Closing(Protocol):
    """Something that has to be closed before the process ends."""

    def close_at_exit(self) -> None:
        """Ends it, within a deadline of its own; it raises nothing."""


# Held until they are closed: what a publisher has must be sent, also where nobody else holds it.
_open: set[Closing] = set()


def register(closing: Closing) -> None:
    """Closes it when the process ends."""
    _open.add(closing)


def forget(closing: Closing) -> None:
    """It is closed already."""
    _open.discard(closing)


class Helpers(ThreadPoolExecutor):
    """A thread for each call: a loop that looks up a name needs one, also when Python has ended its pools."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Begins the call."""
        future: Future[Any] = Future()
        threading.Thread(target=_call, args=(future, fn, args, kwargs), name="usage_events helper", daemon=True).start()
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
    if _others():
        threading.Thread(target=_close_after_others, name="usage_events end").start()
    else:
        _close_all()


def _close_after_others() -> None:
    while others := _others():
        for thread in others:
            thread.join()
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
