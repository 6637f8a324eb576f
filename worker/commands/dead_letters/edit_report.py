"""What became of letters that were edited: each as JSON, or a few in full and the counts."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import click

from worker.commands.dead_letters.bulk import plural
from worker.commands.dead_letters.showing import say
from worker.dead_letters.mending import Outcome
from worker.dead_letters.redaction import redact_body, redact_errors
from worker.dead_letters.text import BODY_GIVEN_UP, difference, one_line
from worker.postgres.dead_letters.edit import Mending

SHOWN_IN_FULL = 3  # of many letters: those that would change, and those that are left
LEFT = (Outcome.REFUSED, Outcome.IMPOSSIBLE)


class EditReport:
    """Adds letters up, and says what became of them on standard output."""

    def __init__(self, *, as_json: bool, is_dry_run: bool, is_redacted: bool) -> None:
        self._as_json = as_json
        self._is_dry_run = is_dry_run
        self._is_redacted = is_redacted
        self.counts: Counter[Outcome] = Counter()
        self._changed: list[Mending] = []
        self._left: list[Mending] = []
        self.busy = 0
        self.bodies_given_up = 0
        self.is_stopped = False
        self.is_failed = False

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left."""
        return not (
            any(self.counts[outcome] for outcome in LEFT) or self.busy or self.bodies_given_up or self.is_stopped
        )

    def add(self, mendings: Sequence[Mending]) -> None:
        """Take in what is done, for good where it is no dry run."""
        for mending in mendings:
            outcome = mending.mended.outcome
            self.counts[outcome] += 1
            samples = self._left if outcome in LEFT else self._changed
            if outcome is not Outcome.UNCHANGED and len(samples) < SHOWN_IN_FULL:
                samples.append(mending)
            if self._as_json:
                say(json.dumps(self._facts(mending)))

    def end(self) -> None:
        """Say what became of many."""
        if self._as_json:
            return
        if self._is_dry_run:
            for mending in self._changed:
                say(f"letter {mending.letter.id}\n{self._difference(mending)}\n")
        for mending in self._left:
            say("\n".join(self._problems(mending)))
        for line in self._sentences():
            say(line)

    def end_one(self) -> None:
        """Say what became of one."""
        if self._as_json:
            return
        for mending in [*self._changed, *self._left]:
            say(self._difference(mending))
            say("\n".join(self._problems(mending)))
        if self.counts[Outcome.UNCHANGED]:
            say("unchanged")
        elif self._is_dry_run:
            say("nothing was changed")
        elif self._changed:
            letter_id = self._changed[0].letter.id
            say(f"edited; `usage-worker dead-letters replay --id {letter_id}` stores what it holds")

    def explain(self, mending: Mending) -> None:
        """Say on standard error why a letter cannot be saved so."""
        click.echo("\n".join(self._problems(mending)), err=True)

    def _sentences(self) -> Iterator[str]:
        edited = plural(self.counts[Outcome.EDITED])
        unchanged = f"{self.counts[Outcome.UNCHANGED]:,} need no change"
        done = f"would edit {edited}; nothing was changed" if self._is_dry_run else f"edited {edited}"
        yield f"{done}; {unchanged}"
        if refused := self.counts[Outcome.REFUSED]:
            yield f"{refused:,} left as they are: they would still be refused (--force saves them all the same)"
        if impossible := self.counts[Outcome.IMPOSSIBLE]:
            yield f"{impossible:,} left as they are: they cannot be edited so"
        if self.bodies_given_up:
            yield f"{self.bodies_given_up:,} cannot be edited; of each, {BODY_GIVEN_UP}"
        if self.busy:
            yield f"{self.busy:,} were in other hands all the time: run this again"
        if self.is_stopped:
            yield "stopped: nothing is half done; run this again to go on"
        if self.is_failed:
            yield "ended early: nothing is half done; run this again to go on"

    def _problems(self, mending: Mending) -> Iterator[str]:
        """A line for the letter, and one for each thing that is wrong."""
        mended = mending.mended
        if mended.message:
            yield f"letter {mending.letter.id}: not edited: {one_line(mended.message)}"
        if mended.errors:
            way = "" if mended.outcome is Outcome.EDITED else "; --force saves it all the same"
            yield f"letter {mending.letter.id}: would still be refused{way}"
        for error in self._errors(mending):
            yield "  " + one_line(": ".join(str(part) for part in (error["field"], error["message"]) if part))

    def _facts(self, mending: Mending) -> dict[str, Any]:
        mended = mending.mended
        return {
            "id": str(mending.letter.id),
            "outcome": mended.outcome.value,
            "saved": mended.outcome is Outcome.EDITED and not self._is_dry_run,
            "message": mended.message,
            "errors": self._errors(mending),
            "diff": self._difference(mending),
        }

    def _errors(self, mending: Mending) -> list[dict[str, Any]]:
        """With the place in an array in front of the field."""
        errors = mending.mended.errors
        shown = redact_errors(errors) if self._is_redacted else [dict(error) for error in errors]
        for error in shown:
            place = error.pop("place")
            if place is not None and place >= 0:
                error["field"] = f"{place}.{error['field']}".rstrip(".")
        return shown

    def _difference(self, mending: Mending) -> str:
        before, after = mending.mended.before, mending.mended.after
        if self._is_redacted:
            before, after = redact_body(before), redact_body(after)
        return difference(before, after)
