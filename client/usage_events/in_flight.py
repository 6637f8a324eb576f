"""What is sent and not yet confirmed. Memory is bounded by it."""

import asyncio
from collections.abc import Callable, Coroutine


class InFlightWindow:
    """Room for a number of messages and for their bytes; a message larger than all the room goes alone.

    Raises:
        ValueError: a limit below 1.
    """

    def __init__(self, *, messages_max: int, bytes_max: int) -> None:
        for name, value in (("messages_max", messages_max), ("bytes_max", bytes_max)):
            if value < 1:
                raise ValueError(f"{name} is {value}; the least is 1")
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._turn = asyncio.Lock()  # first come, first served: small messages do not overtake a large one for ever
        self._freed = asyncio.Event()
        self.messages = 0
        self.bytes = 0

    async def enter(self, size_bytes: int) -> None:
        """Waits until there is room, and takes it."""
        async with self._turn:
            while not self._has_room(size_bytes):
                self._freed.clear()
                await self._freed.wait()
            self.messages += 1
            self.bytes += size_bytes

    def leave(self, size_bytes: int) -> None:
        """Gives the room back."""
        self.messages -= 1
        self.bytes -= size_bytes
        self._freed.set()

    def _has_room(self, size_bytes: int) -> bool:
        if self.messages == 0:
            return True
        return self.messages < self._messages_max and self.bytes + size_bytes <= self._bytes_max


class Deliveries:
    """The tasks that deliver, one for each message, as many at once as the window has room for."""

    def __init__(self, window: InFlightWindow) -> None:
        self._window = window
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def messages(self) -> int:
        """How many are under way."""
        return self._window.messages

    async def begin(
        self,
        size_bytes: int,
        deliver: Callable[[], Coroutine[None, None, None]],
        check: Callable[[], None] = lambda: None,
    ) -> "asyncio.Task[None]":
        """Waits for room, then begins a delivery. Who cancels this while it waits has begun nothing.

        `check` is asked once there is room; where it raises, nothing has begun either.
        """
        await self._window.enter(size_bytes)
        try:
            check()
        except BaseException:
            self._window.leave(size_bytes)
            raise
        task = asyncio.create_task(deliver())
        self._tasks.add(task)

        def end(task: "asyncio.Task[None]") -> None:
            self._tasks.discard(task)
            self._window.leave(size_bytes)

        task.add_done_callback(end)
        return task

    async def wait(self) -> None:
        """Returns when none is under way, whatever became of them."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def cancel(self) -> None:
        """Ends all of them; what they carried may or may not have arrived."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
