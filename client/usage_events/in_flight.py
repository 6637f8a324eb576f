"""The window: how much may be sent and not yet confirmed. Memory is bounded by it."""

import asyncio


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
