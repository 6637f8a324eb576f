"""The publisher for threads: Django, Flask, Celery, a script. The same names, and nothing to await."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from usage_events import ending, forks
from usage_events.books import Books
from usage_events.buffer import Buffer, Entry
from usage_events.errors import UnconfirmedError
from usage_events.locked import LockedBuffer
from usage_events.options import PublisherOptions
from usage_events.publisher import UsagePublisher

if TYPE_CHECKING:
    from usage_events.event import UsageEvent

DEFAULT_EXIT_TIMEOUT_SECONDS = 5.0

_Result = TypeVar("_Result")
_logger = logging.getLogger(__name__)


class BlockingUsagePublisher:
    """Records events from any thread; a thread of its own sends them.

        publisher = BlockingUsagePublisher("amqp://localhost/", app_id="shop")
        publisher.record(event)

    It begins with the first event, or with `start`. One that was made before a fork (gunicorn's `--preload`, Celery's
    pool) works in each child, with a thread, a connection and a buffer of its own; what the parent has recorded is
    sent by the parent. When the process ends, its other threads too, it waits up to `exit_timeout_seconds` for what is
    not yet confirmed, and logs how much was not; so does a `with` block that an error ends. A process that is killed
    or ends by `os._exit` does not do so. A signal handler must not call it, but may raise `SystemExit`.

    Its arguments are those of `UsagePublisher`; `on_error` is called in the publisher's thread.
    """

    fork_turn = 0

    def __init__(
        self,
        amqp_url: str,
        *,
        exit_timeout_seconds: float = DEFAULT_EXIT_TIMEOUT_SECONDS,
        **options: Unpack[PublisherOptions],
    ) -> None:
        """Nothing is connected yet.

        Raises:
            ValueError: an argument that no broker can take, with its limit.
            SpoolError: the spool's file cannot be used.
        """
        if not 0 <= exit_timeout_seconds < float("inf"):
            raise ValueError(f"exit_timeout_seconds is {exit_timeout_seconds}; it must be 0 or more, and finite")
        self._exit_timeout_seconds = exit_timeout_seconds
        self._make: Callable[[], _Core] = lambda: _Core(amqp_url, **options)
        self._lock = threading.Lock()
        self._core: _Core | None = self._make()
        self._is_closed = False
        forks.register(self)
        ending.register(self)

    @property
    def books(self) -> Books:
        """What became of the events so far; a forked child begins its own."""
        with self._lock:
            if self._is_closed and self._core is None:
                return Books()
            core = self._live()
        return core.count()

    def start(self) -> None:
        """Begins to send. The broker need not be there yet.

        Raises:
            RuntimeError: the publisher is closed.
        """
        with self._lock:
            self._refuse_if_closed()
            self._live().start()

    def record(self, event: "UsageEvent") -> None:
        """Takes an event, and sends it in the background. Never waits for the broker.

        Raises:
            BufferFullError: there is no room, and `when_full` is `raise`: the event has not been taken.
            RuntimeError: the publisher is closed.
        """
        core = self._core
        if core is None or not core.is_started:
            self.start()
            with self._lock:
                core = self._live()
        core.record(event)

    def flush(self, timeout_seconds: float | None = None) -> None:
        """Returns when all that is recorded by now is confirmed, or given up with an error that `on_error` heard.

        Raises:
            UnconfirmedError: that takes longer than `timeout_seconds`; sending goes on.
            RuntimeError: the publisher is closed, or this is called in its own thread.
        """
        self.start()
        with self._lock:
            core = self._live()
        core.call(core.flush(timeout_seconds))

    def close(self, timeout_seconds: float | None = None) -> None:
        """Takes no more events, waits until all that it has is confirmed or given up, and disconnects.

        Raises:
            UnconfirmedError: that takes longer than `timeout_seconds`; what is left may or may not have arrived, and
                stays in the spool, if there is one.
            RuntimeError: this is called in its own thread.
        """
        with self._lock:
            if self._is_closed:
                return
            core = self._core
            if core is not None:
                core.refuse_own_thread()
            self._is_closed = True
        ending.forget(self)
        forks.forget(self)
        if core is not None:  # else this is a forked child that has recorded nothing
            core.end(timeout_seconds)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.close_at_exit()  # what happened stays the error; what was recorded before it counts

    def close_at_exit(self) -> None:
        """What the end of the process does, and a block that an error ends."""
        try:
            self.close(self._exit_timeout_seconds)
        except UnconfirmedError as error:
            _logger.error("the publisher ends: %s", error)  # noqa: TRY400 - the trace says nothing more

    def before_fork(self) -> None:
        """Lets no thread begin or end it meanwhile."""
        self._lock.acquire()

    def after_fork(self, *, is_child: bool) -> None:
        """A child forgets its parent's thread, connection and events; what it needs it makes when it records."""
        if is_child and self._core is not None:
            # Never freed: the parent's loop and sockets are not the child's to close.
            _inherited.append(self._core)
            self._core = None
        self._lock.release()

    def _live(self) -> "_Core":
        if self._core is None:
            self._core = self._make()
        return self._core

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise RuntimeError("the publisher is closed; make another")


class _Core(UsagePublisher):
    """The publisher of one process, on a loop in a thread of its own."""

    def __init__(self, amqp_url: str, **options: Unpack[PublisherOptions]) -> None:
        self._counting = threading.Lock()
        self._is_waking = False
        super().__init__(amqp_url, **options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_started(self) -> bool:
        """Whether its thread runs."""
        return self._loop is not None

    def start(self) -> None:  # type: ignore[override]
        """Starts the thread."""
        if self._loop is not None:
            return
        ending.watch()
        loop = asyncio.new_event_loop()
        loop.set_default_executor(ending.Helpers())
        self._thread = threading.Thread(target=self._run, args=(loop,), name="usage_events publisher", daemon=True)
        self._thread.start()
        self._loop = loop
        self.call(super().start())

    def record(self, event: "UsageEvent") -> None:
        """Called in any thread."""
        self._refuse_if_closed()
        self._buffer.put(Entry(event.to_json(), event.organization_id, self._courier.origin()))
        with self._counting:
            self._note_recorded()
        # One call into the loop for many events: it costs more than all the rest.
        if not self._is_waking and self._sender.wants_notice() and self._loop is not None:
            self._is_waking = True
            self._loop.call_soon_threadsafe(self._wake)

    def count(self) -> Books:
        """The books, as they are in the loop's thread."""
        if self._closed or self._loop is None or threading.current_thread() is self._thread:
            return self.books
        return self.call(self._count())

    def call(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """Runs it in the loop's thread.

        Raises:
            RuntimeError: this is the loop's thread, which would wait for itself.
        """
        try:
            self.refuse_own_thread()
        except RuntimeError:
            coroutine.close()
            raise
        assert self._loop is not None  # noqa: S101 - the caller has started it
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C, say: nobody waits for it any more
            raise

    def refuse_own_thread(self) -> None:
        """Says so where its own thread would wait for itself.

        Raises:
            RuntimeError: this is the loop's thread.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("this waits for the publisher's thread, and is called in it; call it in another")

    def end(self, timeout_seconds: float | None) -> None:
        """Closes, and ends the thread."""
        if isinstance(self._buffer, LockedBuffer):
            self._buffer.shut()
        if self._loop is None and not _is_in_loop():
            asyncio.run(self.close(timeout_seconds))
            return
        self.start()
        assert self._loop is not None  # noqa: S101 - it is started
        try:
            self.call(self.close(timeout_seconds))
        except BaseException:
            self.call(self.abort())  # where nobody waits any more: Ctrl-C
            raise
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            if self._thread is not None:
                self._thread.join()

    def _make_buffer(self) -> Buffer:
        buffer = super()._make_buffer()
        # A spool has locks of its own, and lets threads that record together share a commit.
        return buffer if self._buffering.durability == "spool" else LockedBuffer(buffer)

    async def _count(self) -> Books:
        return self.books

    def _wake(self) -> None:
        self._is_waking = False
        self._sender.notify()

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()
        if tasks := asyncio.all_tasks(loop):  # what was interrupted
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


_inherited: list[_Core] = []
