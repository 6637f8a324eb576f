"""Which buffer a publisher has, by what its caller has chosen."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from usage_events.buffer import DEFAULT_SPOOL_BYTES_MAX, Buffer, MemoryBuffer, Sync
from usage_events.buffer import WhenFull as WhenBufferFull
from usage_events.errors import SpoolError
from usage_events.overflow import OverflowBuffer

if TYPE_CHECKING:
    from usage_events.spool import Spool

Durability = Literal["memory", "spool"]
WhenFull = Literal["raise", "drop_oldest", "spool"]

DEFAULT_BUFFER_EVENTS_MAX = 100_000
DEFAULT_BUFFER_BYTES_MAX = 64 * 1024 * 1024

__all__ = ["DEFAULT_SPOOL_BYTES_MAX", "BufferOptions", "Durability", "Sync", "WhenFull"]


@dataclass(frozen=True, slots=True)
class BufferOptions:
    """What is kept where, how much of it, and what happens past that.

    Raises:
        ValueError: values that do not go together.
    """

    durability: Durability
    when_full: WhenFull
    events_max: int
    bytes_max: int
    spool_path: str | os.PathLike[str] | None
    spool_bytes_max: int
    spool_sync: Sync

    def __post_init__(self) -> None:
        for name, values in (("durability", Durability), ("when_full", WhenFull)):
            if getattr(self, name) not in get_args(values):
                known = " or ".join(map(repr, get_args(values)))
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {known}")
        if self.durability == "spool" and self.when_full == "spool":
            raise ValueError("when_full is 'spool' and durability too: what is to happen when the spool is full?")
        if self.uses_spool != (self.spool_path is not None):
            wanted = "name the spool's file" if self.uses_spool else "it needs durability='spool' or when_full='spool'"
            raise ValueError(f"spool_path is {self.spool_path!r}; {wanted}")

    @property
    def uses_spool(self) -> bool:
        """Whether a file is needed."""
        return "spool" in {self.durability, self.when_full}

    def make(
        self, on_dropped: Callable[[int], None], on_spooled: Callable[[], None], on_damaged: Callable[[int], None]
    ) -> Buffer:
        """The buffer; a spool's file is opened, or made.

        Raises:
            ValueError: a limit that makes no sense.
            SpoolError: the spool's file cannot be used.
        """
        when_full: WhenBufferFull = "drop_oldest" if self.when_full == "drop_oldest" else "raise"
        if self.durability == "spool":
            return self._spool(when_full, on_dropped, on_damaged)
        memory = MemoryBuffer(
            events_max=self.events_max, bytes_max=self.bytes_max, when_full=when_full, on_dropped=on_dropped
        )
        if self.when_full == "spool":
            return OverflowBuffer(memory, self._spool("raise", on_dropped, on_damaged), on_spooled)
        return memory

    def _spool(
        self, when_full: WhenBufferFull, on_dropped: Callable[[int], None], on_damaged: Callable[[int], None]
    ) -> "Spool":
        try:
            from usage_events.spool import Spool
        except ModuleNotFoundError as error:  # Windows has no fcntl
            raise SpoolError(
                f"this Python has no module {error.name!r}, which a spool needs; keep events in memory, by"
                " durability='memory' and when_full='raise' or 'drop_oldest'"
            ) from error
        return Spool(
            self.spool_path or "",
            bytes_max=self.spool_bytes_max,
            when_full=when_full,
            on_dropped=on_dropped,
            on_damaged=on_damaged,
            sync=self.spool_sync,
        )
