"""Settle: which acknowledgements may be sent, now that a batch has committed. Pure; nothing is sent from here.

A contiguous prefix of what is outstanding is acknowledged by one frame. What commits before its predecessors waits a
moment for them, then it is acknowledged one by one, which is legal out of order: a batch that is stuck on a lock
holds nobody back. Tags mean something on one channel only, so the ledger belongs to one generation.
"""

from collections import deque
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
        self._tags: deque[int] = deque()  # from the first outstanding one on
        self._waiting: set[int] = set()  # committed, but not acknowledged
        self._overtaken: set[int] = set()  # acknowledged before a predecessor
        self._waiting_since: float | None = None

    def __len__(self) -> int:
        return len(self._tags) - len(self._overtaken)

    @property
    def first_tag(self) -> int:
        """The lowest tag that is outstanding; 0 where nothing is."""
        return self._tags[0] if self._tags else 0

    @property
    def last_tag(self) -> int:
        """The highest tag that is outstanding; 0 where nothing is."""
        return self._tags[-1] if self._tags else 0

    def delivered(self, tags: Iterable[int]) -> None:
        """Deliveries have arrived. Tags rise on a channel."""
        self._tags.extend(tags)

    def committed(self, tags: Iterable[int], now: float) -> list[Ack]:
        """These deliveries have their outcome in the database; what may be acknowledged at once."""
        first, last = self.first_tag, self.last_tag
        for tag in tags:
            if tag in self._waiting or tag in self._overtaken or not first <= tag <= last:
                raise AssertionError(f"delivery {tag} is settled twice")
            self._waiting.add(tag)
        return self._take_prefix(now)

    def overdue(self, now: float) -> list[Ack]:
        """What has waited long enough for its predecessors."""
        if self._waiting_since is None or now < self._waiting_since + PATIENCE_SECONDS:
            return []
        tags = sorted(self._waiting)
        self._overtaken |= self._waiting
        self._waiting.clear()
        self._waiting_since = None
        while self._tags and self._tags[-1] in self._overtaken:
            self._overtaken.remove(self._tags.pop())
        return [Ack(tag, multiple=False) for tag in tags]

    def overdue_at(self) -> float | None:
        """When `overdue` has something to say; `None` where nothing waits."""
        return None if self._waiting_since is None else self._waiting_since + PATIENCE_SECONDS

    def _take_prefix(self, now: float) -> list[Ack]:
        tags, waiting, overtaken = self._tags, self._waiting, self._overtaken
        last: int | None = None
        count = 0
        while tags:
            tag = tags[0]
            if tag in waiting:
                waiting.remove(tag)
                last = tag
                count += 1
            elif tag in overtaken:
                overtaken.remove(tag)
            else:
                break
            tags.popleft()
        if not waiting:
            self._waiting_since = None
        elif self._waiting_since is None or count:
            self._waiting_since = now
        return [] if last is None else [Ack(last, multiple=count > 1)]
