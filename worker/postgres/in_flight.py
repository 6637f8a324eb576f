"""Which ids the writers of one process are writing now, so that no two of them write the same id at once.

Postgres makes the second of two such transactions wait for the first one's commit, and does so at the first id that
both have: with one event in ten repeated, two writers took turns and stored no more than one.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Flight:
    """The ids of one batch that is being written.

    Args:
        ids: all of them.
        others: the flights that began before it.
    """

    def __init__(self, ids: set[bytes], others: "Sequence[Flight]") -> None:
        self.ids = ids
        self._ahead = [flight for flight in others if not ids.isdisjoint(flight.ids)]
        self.landed = asyncio.Event()
        self.shared: set[bytes] = set().union(*(ids & flight.ids for flight in self._ahead))

    async def until_clear(self) -> None:
        """Wait until nobody ahead writes any of `shared`, whether it was stored or failed.

        Nothing may be locked meanwhile: Postgres sees no deadlock that goes through this process.
        """
        for flight in self._ahead:
            await flight.landed.wait()

    def land(self) -> None:
        """It is over: those behind may go on, and keep nothing of what was ahead of this one."""
        self._ahead.clear()
        self.landed.set()


class InFlight:
    """The flights of one process."""

    def __init__(self) -> None:
        self._flights: list[Flight] = []

    @contextmanager
    def begin(self, ids: set[bytes]) -> Iterator[Flight]:
        """A flight for as long as the block runs."""
        flight = Flight(ids, self._flights)
        self._flights.append(flight)
        try:
            yield flight
        finally:
            self._flights.remove(flight)
            flight.land()
