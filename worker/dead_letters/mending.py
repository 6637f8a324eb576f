"""Mend: what an edit makes of a letter's body, and whether that may be saved. Pure."""

import json
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from usage_events.json_text import NotJsonError
from usage_events.rules import Window

from worker.dead_letters.event_names import names_problem
from worker.dead_letters.json_edit import Edit, EditError, NothingThereError, Verb, apply
from worker.dead_letters.letters import Identity, errors_json, identity_of
from worker.decode import Decoded, decode

Change = Callable[[bytes], bytes]


class Outcome(StrEnum):
    """What an edit does to one letter."""

    EDITED = "edited"
    UNCHANGED = "unchanged"
    REFUSED = "refused"  # the contract would still refuse it
    IMPOSSIBLE = "impossible"  # it does not fit this body, or would change which events there are


class Mended(NamedTuple):
    """The outcome, the bodies before and after, why it is impossible, and what the contract still refuses."""

    outcome: Outcome
    before: bytes
    after: bytes
    message: str = ""
    errors: Sequence[dict[str, Any]] = ()

    @property
    def is_forced(self) -> bool:
        """Whether it is saved although the contract refuses it."""
        return self.outcome is Outcome.EDITED and bool(self.errors)


def by_edits(edits: Sequence[Edit]) -> Change:
    """The change that these make, one after the other; nothing to rename or to unset is no error."""

    def change(body: bytes) -> bytes:
        for edit in edits:
            try:
                body = apply(body, [edit])
            except NothingThereError:
                if edit.verb is Verb.SET:
                    raise
        return body

    return change


def mend(before: bytes, content_type: str | None, change: Change, window: Window, *, is_forced: bool) -> Mended:
    """Change a body, and judge the result as the worker would inside this window."""
    try:
        after = change(before)
    except NotJsonError as error:
        message = f"the body is not JSON ({error}): open it in an editor, or replace it with --body-file"
        return Mended(Outcome.IMPOSSIBLE, before, before, message)
    except EditError as error:
        return Mended(Outcome.IMPOSSIBLE, before, before, str(error))
    if after == before:
        return Mended(Outcome.UNCHANGED, before, after)
    if problem := names_problem(before, after, content_type):
        return Mended(Outcome.IMPOSSIBLE, before, after, problem)
    errors = _errors(decode(after, content_type, None, window))
    outcome = Outcome.REFUSED if errors and not is_forced else Outcome.EDITED
    return Mended(outcome, before, after, "", errors)


def identity_after(mended: Mended, content_type: str | None) -> Identity:
    """What can be read of the event, so that filters find it by what it says now."""
    try:
        return identity_of(mended.after, content_type)
    except NotJsonError:
        return Identity()


def _errors(decoded: Decoded) -> list[dict[str, Any]]:
    """Each with its reason, and the place of the event where there are several."""
    is_array = len(decoded.rejects) + len(decoded.events) > 1
    return [
        {"reason": reject.refusal.reason.value, "place": reject.place if is_array else None} | error
        for reject in decoded.rejects
        for error in json.loads(errors_json(reject.refusal))
    ]
