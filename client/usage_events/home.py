"""The event loop that a publisher belongs to, and its thread."""

import asyncio
from threading import get_ident


class Home:
    """Nowhere yet, and then where the publisher has begun to send."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread_id = 0

    def enter(self) -> None:
        """In the loop that is to send.

        Raises:
            RuntimeError: it is another one than before.
        """
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop, self._thread_id = loop, get_ident()
        elif self._loop is not loop:
            raise RuntimeError("the publisher belongs to another event loop, that of its first use; make one in each")

    def refuse_strangers(self) -> None:
        """For whoever records: what it puts in would not be noticed, or never be sent.

        Raises:
            RuntimeError: this is another thread, or the loop has ended.
        """
        if self._loop is None:
            return
        if get_ident() != self._thread_id:
            raise RuntimeError(
                "the publisher belongs to its event loop's thread, and this is another: use BlockingUsagePublisher, or"
                " loop.call_soon_threadsafe(publisher.record, event)"
            )
        if self._loop.is_closed():
            raise RuntimeError("the publisher's event loop has ended; make another in the new one")
