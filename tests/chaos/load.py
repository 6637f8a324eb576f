"""How much is published, and by whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from harness import ORGANIZATION, USER
from usage_events.contract import MAX_AHEAD_SECONDS

# Whose events are published; all exist.
USERS = (USER, *(UUID(f"11111111-1111-4111-8111-{number:012}") for number in (2, 3)))
ORGANIZATIONS = (ORGANIZATION, *(UUID(f"22222222-2222-4222-8222-{number:012}") for number in (2, 3)))


@dataclass(slots=True, frozen=True)
class Load:
    """The producers of a run. `rate` is in events a second of each; see `chaos.producer.Options` for the rest."""

    producers: int = 2
    rate: int = 300
    sizes: Sequence[Sequence[int]] = ((1, 1, 1, 10, 50),)  # one a producer, in turn
    bad_share: float = 0.02
    unreadable_share: float = 0.0
    padding_bytes: int = 0
    same_events: bool = False  # every producer publishes the same ones
    ids_of_months_ago: int = 0  # a quarter of the ids are UUIDv7s of so many months ago; 0: none
    ahead_seconds: Sequence[float] = (-300,)  # what their clocks are ahead of ours, one a producer, in turn

    @property
    def rows_per_second(self) -> float:
        """How many rows all of this makes, where nothing is broken and nothing has piled up."""
        clocks = [self.ahead_seconds[number % len(self.ahead_seconds)] for number in range(self.producers)]
        taken = sum(ahead <= MAX_AHEAD_SECONDS for ahead in clocks)
        different = min(taken, 1) if self.same_events else taken
        return different * self.rate * (1 - self.unreadable_share) * (1 - self.bad_share)
