"""Who waits for a commit: threads that record at once share one, and none of them pays for what befalls another."""

from collections import deque
from contextlib import suppress

from usage_events.errors import UsageEventsError


class Caller:
    """One event whose caller waits for the commit."""

    __slots__ = ("error", "frame", "is_done")

    def __init__(self, frame: bytes) -> None:
        self.frame = frame
        self.is_done = False
        self.error: UsageEventsError | None = None

    def refuse(self, error: UsageEventsError) -> None:
        """The event is not kept."""
        if not self.is_done:
            self.error = error
            self.is_done = True


class Callers:
    """In the order in which they came. A signal may interrupt a thread anywhere: each stays until he has his answer."""

    def __init__(self) -> None:
        self._waiting: deque[Caller] = deque()

    def add(self, frame: bytes) -> Caller:
        """One more, by any thread."""
        caller = Caller(frame)
        self._waiting.append(caller)
        return caller

    def leave(self, caller: Caller) -> None:
        """He is gone with an error of his own: nobody may keep his event later."""
        with suppress(ValueError):
            self._waiting.remove(caller)

    def waiting(self) -> list[Caller]:
        """Those without an answer."""
        return [caller for caller in list(self._waiting) if not caller.is_done]

    def forget_answered(self) -> None:
        """Once they have their answers."""
        while self._waiting and self._waiting[0].is_done:
            self._waiting.popleft()

    def clear(self) -> None:
        """In a forked child: its parent's callers are not there."""
        self._waiting.clear()
