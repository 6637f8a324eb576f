"""Settle: which acknowledgements may be sent, now that a batch has committed. Pure; nothing is sent from here.

A contiguous prefix of what is outstanding is acknowledged by one frame. What commits before its predecessors waits a
moment for them, then it is acknowledged one by one, which is legal out of order: a batch that is stuck on a lock
holds nobody back. Tags mean something on one channel only, so the ledger belongs to one generation.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

PATIENCE_SECONDS = 0.5


class Ack(NamedTuple):
    """An acknowledgement to send: of one tag, or (`multiple`) of all up to it."""

    tag: int
    multiple: bool


class Ledger:
    """What is outstanding on one channel: delivered, and neither acknowledged nor given back."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self._committed_at: OrderedDict[int, float | None] = OrderedDict()
        self._waiting = 0  # committed, but not acknowledged
        self._waiting_since: float | None = None

    def __len__(self) -> int:
        return len(self._committed_at)

    @property
    def first_tag(self) -> int:
        """The lowest tag that is outstanding; 0 where nothing is."""
        return next(iter(self._committed_at), 0)

    @property
    def last_tag(self) -> int:
        """The highest tag that is outstanding; 0 where nothing is."""
        return next(reversed(self._committed_at), 0)

    def delivered(self, tag: int) -> None:
        """A delivery has arrived. Tags rise on a channel."""
        self._committed_at[tag] = None

    def committed(self, tags: Iterable[int], now: float) -> list[Ack]:
        """These deliveries have their outcome in the database; what may be acknowledged at once."""
        for tag in tags:
            if tag not in self._committed_at or self._committed_at[tag] is not None:
                raise AssertionError(f"delivery {tag} is settled twice")
            self._committed_at[tag] = now
            self._waiting += 1
        return self._take_prefix(now)

    def overdue(self, now: float) -> list[Ack]:
        """What has waited long enough for its predecessors."""
        if self._waiting_since is None or now < self._waiting_since + PATIENCE_SECONDS:
            return []
        tags = [tag for tag, at in self._committed_at.items() if at is not None]
        for tag in tags:
            del self._committed_at[tag]
        self._waiting = 0
        self._waiting_since = None
        return [Ack(tag, multiple=False) for tag in tags]

    def overdue_at(self) -> float | None:
        """When `overdue` has something to say; `None` where nothing waits."""
        return None if self._waiting_since is None else self._waiting_since + PATIENCE_SECONDS

    def _take_prefix(self, now: float) -> list[Ack]:
        last: int | None = None
        count = 0
        while self._committed_at:
            tag, at = next(iter(self._committed_at.items()))
            if at is None:
                break
            self._committed_at.popitem(last=False)
            last = tag
            count += 1
        self._waiting -= count
        if not self._waiting:
            self._waiting_since = None
        elif self._waiting_since is None or count:
            self._waiting_since = now
        return [] if last is None else [Ack(last, multiple=count > 1)]
