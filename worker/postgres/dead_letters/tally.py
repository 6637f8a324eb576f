"""The tally of a replay: what became of its letters, in constant memory."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from usage_events.contract import FieldError, Reason

from worker.dead_letters.redaction import redact_errors
from worker.postgres.dead_letters.carry import Answer, Carried


class Ending(StrEnum):
    """Why a run ended."""

    DONE = "done"
    MAX = "max"  # as many as were asked for
    FAILING = "failing"
    STOPPED = "stopped"
    FAILED = "failed"  # the database cannot go on


class Group(NamedTuple):
    """Letters with one answer: from which reason to which, and the first of them as a sample."""

    reason: Reason
    answer: Answer
    to_reason: Reason | None


@dataclass(slots=True)
class Sample:
    """How many letters a group has; the first one's id, and its first error."""

    letter_id: UUID
    error: str
    letters: int = 0


@dataclass(slots=True)
class Tally:
    """What became of the letters of one run.

    `busy` are those that somebody else worked on all the time, `left_out` those that may have ended an earlier replay,
    `bodies_given_up` those that have nothing to carry. `apart` are refused events of arrays that were carried: each has
    a letter of its own. `is_redacted` hides what may be metadata.
    """

    groups: dict[Group, Sample] = field(default_factory=dict)
    carried: int = 0
    stayed: int = 0
    apart: int = 0
    busy: int = 0
    bodies_given_up: int = 0
    left_out: list[UUID] = field(default_factory=list)
    ending: Ending = Ending.DONE
    is_redacted: bool = False

    @property
    def recovered(self) -> int:
        """Letters whose events are stored."""
        return self.carried - self.stayed

    @property
    def is_whole(self) -> bool:
        """Whether every letter that was chosen has come home."""
        done = self.ending in (Ending.DONE, Ending.MAX)
        return done and not (self.stayed or self.apart or self.busy or self.left_out or self.bodies_given_up)

    def add(self, carried: Iterable[Carried]) -> None:
        """A set of letters has been carried."""
        for letter, answer, refusal, apart in carried:
            group = Group(letter.reason, answer, refusal.reason if refusal else None)
            sample = self.groups.get(group)
            if sample is None:
                error = self._text(refusal.errors[0]) if refusal and refusal.errors else ""
                sample = self.groups[group] = Sample(letter.id, error)
            sample.letters += 1
            self.carried += 1
            self.stayed += refusal is not None
            self.apart += apart

    def _text(self, error: FieldError) -> str:
        shown = redact_errors([error])[0] if self.is_redacted else error
        return ": ".join(part for part in (shown["field"], shown["message"]) if part)
