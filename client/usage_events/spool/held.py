"""What this process has leased from the file: which lease an event is of, and what waits here to go again. Pure."""

import heapq
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from usage_events.buffer import Entry, Lease


@dataclass(slots=True)
class Share:
    """Events of one lease in the file that are settled together; `is_all`: nothing of it is left."""

    first: int
    positions: list[int] = field(default_factory=list)
    is_all: bool = False


class HeldLeases:
    """Events that are given back stay leased in the file and wait here, so that no other process takes them."""

    def __init__(self) -> None:
        self._first_of: dict[int, int] = {}
        self._left: dict[int, int] = {}
        self._given_back: list[tuple[int, Entry]] = []
        self.bytes = 0

    @property
    def events(self) -> int:
        """Events that wait here."""
        return len(self._given_back)

    @property
    def firsts(self) -> Collection[int]:
        """Where the leases begin that are held."""
        return self._left.keys()

    def has_given_back(self, key: int) -> bool:
        """Whether an event up to this key waits here."""
        return bool(self._given_back) and self._given_back[0][0] <= key

    def add(self, keys: Sequence[int], left: int) -> None:
        """A lease that the file has given; `left` of its events are to be settled before it ends."""
        self._left[keys[0]] = left
        self._first_of.update(dict.fromkeys(keys, keys[0]))

    def take(self, events_max: int, bytes_max: int) -> Lease | None:
        """The oldest that wait here."""
        keys: list[int] = []
        entries: list[Entry] = []
        left_bytes = bytes_max
        while self._given_back and len(keys) < events_max:
            key, entry = self._given_back[0]
            left_bytes -= len(entry.text)
            if keys and left_bytes < 0:
                break
            heapq.heappop(self._given_back)
            self.bytes -= len(entry.text)
            keys.append(key)
            entries.append(entry)
        return Lease(keys, entries) if keys else None

    def give_back(self, lease: Lease) -> None:
        """These wait here; those of a file that is no more are left out: the new file holds them."""
        for key, entry in zip(lease.keys, lease.entries, strict=True):
            if key in self._first_of:
                heapq.heappush(self._given_back, (key, entry))
                self.bytes += len(entry.text)

    def shares(self, keys: Sequence[int]) -> list[Share]:
        """What has to be settled of which lease; those of a file that is no more are left out."""
        shares: dict[int, Share] = {}
        for key in keys:
            first = self._first_of.get(key)
            if first is not None:
                shares.setdefault(first, Share(first)).positions.append(key)
        for share in shares.values():
            share.is_all = len(share.positions) == self._left[share.first]
        return list(shares.values())

    def settle(self, share: Share) -> None:
        """Forgets them, unless the file they are of is no more."""
        if share.first not in self._left:
            return
        for position in share.positions:
            del self._first_of[position]
        if share.is_all:
            del self._left[share.first]
        else:
            self._left[share.first] -= len(share.positions)

    def clear(self) -> None:
        """The file is no more."""
        self._first_of.clear()
        self._left.clear()
        self._given_back.clear()
        self.bytes = 0
