"""Where batches go: the seam between the pipeline and the database, defined where it is used."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from usage_events.contract import Reason

from worker.batch import Batch
from worker.clock import Reading


class Refused(NamedTuple):
    """Why something was refused, and whose it was (the AMQP `app_id`; empty where there is none)."""

    reason: Reason
    producer: str


@dataclass(slots=True, frozen=True)
class Written:
    """What became of a batch that has committed. Every event and reject of it is counted once."""

    stored: int
    duplicates: int
    refused: Counter[Refused] = field(default_factory=Counter)
    bodies_given_up: int = 0  # letters without their body: the table is above its ceiling

    def __add__(self, other: "Written") -> "Written":
        """Both parts of one batch."""
        return Written(
            self.stored + other.stored,
            self.duplicates + other.duplicates,
            self.refused + other.refused,
            self.bodies_given_up + other.bodies_given_up,
        )

    @property
    def dead(self) -> Counter[Reason]:
        """What was refused, by reason."""
        counts: Counter[Reason] = Counter()
        for refused, letters in self.refused.items():
            counts[refused.reason] += letters
        return counts


class Store(Protocol):
    """Writes batches, one at a time; several stores write at once."""

    async def ping(self) -> None:
        """Does the database answer, does it hold the tables, and would it write to them?

        Raises:
            SystemUnavailableError: it does not answer, or lacks migrations that an operator will apply.
            SchemaError: it holds what no migration of this version mends.
        """

    async def read_clock(self) -> Reading:
        """What time it is for the database.

        Raises:
            SystemUnavailableError: it does not answer.
        """

    async def write(self, batch: Batch) -> Written:
        """Write a batch. When this returns, all of it has committed, each event with its letter if it has one.

        Raises:
            SystemUnavailableError: all, nothing or a part may be stored; the same batch can be written again.
        """

    async def close(self) -> None:
        """Give the connection back."""
