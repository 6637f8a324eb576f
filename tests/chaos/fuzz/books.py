"""The books of fuzzing: what the database has to hold after each batch, by the contract and the order of the events."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from usage_events.contract import Reason

from chaos.fuzz.check import Checked
from chaos.fuzz.grow import REFUSED_ENDPOINT, REFUSED_INPUT_TOKENS, REFUSED_TOKENS_MIN, REFUSED_TYPE
from chaos.fuzz.plain_json import exact, loose, same
from chaos.fuzz.reference import Row, Verdict

# Text of metadata that is stored as the parser has read it, doubles among it; all other text is stored as it came.
_READ_BY_THE_PARSER = re.compile(rb"\\u|[0-9.][eE]")


@dataclass(slots=True)
class Letter:
    """A letter that has to be there. Where it cannot be told whether one more came, the most is higher."""

    body: bytes
    content_type: str
    occurrences_min: int = 0
    occurrences_max: int = 0
    reasons: set[Reason] = field(default_factory=set)  # one of them
    event_ids: set[str | None] = field(default_factory=set)  # one of them


class Expected(NamedTuple):
    """What a batch has to do, and whose rows and letters have to be as the books say now."""

    events: int
    stored: int
    duplicates_min: int
    duplicates_max: int
    refused_by_host_max: int
    ids: set[bytes]
    fingerprints: set[bytes]


class Books:
    """What both tables hold.

    Args:
        users: the ids of those that exist; the same of `organizations`.
        has_host_rules: whether the host refuses rows (`database.HOST_RULES`).
    """

    def __init__(self, users: Iterable[bytes], organizations: Iterable[bytes], *, has_host_rules: bool) -> None:
        self.rows: dict[bytes, Row] = {}
        self.letters: dict[bytes, Letter] = {}
        self._users = frozenset(users)
        self._organizations = frozenset(organizations)
        self._has_host_rules = has_host_rules
        self._touched: set[bytes] = set()

    def expect(self, batch: Sequence[Checked]) -> Expected:
        """Write a batch into the books."""
        self._touched = set()
        every = [verdict for checked in batch for verdict in checked.verdicts]
        rows = [(verdict, verdict.outcome) for verdict in every if isinstance(verdict.outcome, Row)]
        for verdict in every:
            if isinstance(verdict.outcome, Reason):
                self._add_letter(verdict, {verdict.outcome})
        refused: list[tuple[Verdict, Row]] = []
        stored = duplicates = unclear = 0
        for verdict, row in rows:
            if row.user_id not in self._users:
                self._add_letter(verdict, {Reason.UNKNOWN_USER})
            elif row.organization_id not in self._organizations:
                self._add_letter(verdict, {Reason.UNKNOWN_ORGANIZATION})
            elif self._has_host_rules and is_refused_by_host(row):
                refused.append((verdict, row))
            elif (known := self.rows.setdefault(row.id, row)) is row:
                stored += 1
            else:
                is_same = is_same_content(known, row)
                duplicates += is_same is True
                unclear += is_same is None
                if not is_same:
                    self._add_letter(verdict, {Reason.ID_CONFLICT}, is_sure=is_same is not None)
        for verdict, row in refused:  # the conflict comes first only where the database's rule asks after it
            other = {Reason.ID_CONFLICT} if row.id in self.rows else set()
            self._add_letter(verdict, {Reason.REJECTED_BY_DATABASE} | other)
        ids = {row.id for _, row in rows}
        fingerprints = set(self._touched)
        return Expected(len(every), stored, duplicates, duplicates + unclear, len(refused), ids, fingerprints)

    def _add_letter(self, verdict: Verdict, reasons: set[Reason], *, is_sure: bool = True) -> None:
        key = verdict.fingerprint
        letter = self.letters.get(key)
        if letter is None:
            letter = self.letters[key] = Letter(verdict.text, verdict.content_type)
        elif is_sure and key not in self._touched:
            letter.reasons = set()  # the reason is that of the last time
        self._touched.add(key)
        letter.occurrences_min += is_sure
        letter.occurrences_max += 1
        letter.reasons |= reasons
        letter.event_ids.add(verdict.outcome.id.hex() if isinstance(verdict.outcome, Row) else verdict.event_id)


def is_refused_by_host(row: Row) -> bool:
    """Whether the host's rules, where they are on, refuse it."""
    return (
        row.endpoint == REFUSED_ENDPOINT
        or row.input_tokens == REFUSED_INPUT_TOKENS
        or row.tokens_used >= REFUSED_TOKENS_MIN
        or row.request_type == REFUSED_TYPE
    )


def is_same_content(stored: Row, row: Row) -> bool | None:
    """Whether a row that comes under a known id is a duplicate; `None` where a double's last digits decide.

    A cost counts only where it is given.
    """
    if stored[:9] != row[:9] or stored.created_at_us != row.created_at_us:
        return False
    if row.cost_given and row.cost_micro_usd != stored.cost_micro_usd:
        return False
    old, new = stored.metadata, row.metadata
    if old is None or new is None or old == new:
        return old == new
    if not same(loose(old.decode()), loose(new.decode())):
        return False
    if _READ_BY_THE_PARSER.search(old) or _READ_BY_THE_PARSER.search(new):
        return None
    return same(exact(old.decode()), exact(new.decode()))
