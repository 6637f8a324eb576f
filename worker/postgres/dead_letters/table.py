"""The table of dead letters as operators use it: which letters, in what order, and the record of what was done."""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from itertools import accumulate
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
from usage_events.contract import Reason

from worker.delivery import Delivery, PlainProperties

CURSOR_ROWS = 500
LOCKED_BYTES_MAX = 8 * 1024 * 1024  # of the bodies that are carried at once

# Where a letter stands in the order of work: `first_seen` and id.
Place = tuple[datetime, UUID]


class Status(StrEnum):
    """Where a letter stands."""

    OPEN = "open"
    RECOVERED = "recovered"
    DISCARDED = "discarded"


@dataclass(slots=True, frozen=True)
class Filter:
    """Which letters; what is `None` or empty does not matter.

    `field` is one that an error names, `producer` the AMQP `app_id`. A letter is inside `since` and `until` where it
    was seen at any time between them.
    """

    reason: Reason | None = None
    field: str | None = None
    organization: UUID | None = None
    user: UUID | None = None
    model: str | None = None
    producer: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    status: Status | None = Status.OPEN
    ids: tuple[UUID, ...] = ()
    limit: int | None = None

    def as_json(self) -> str:
        """How it stands in the history of what it chose."""
        given = {name: value for name, value in asdict(self).items() if value not in (None, ())}
        return json.dumps(given, default=str)

    def where(self) -> tuple[str, list[Any]]:
        """The condition on `ai_usage_dead_letters l`, and its arguments."""
        arguments: list[Any] = []
        conditions: list[str] = []
        choices: list[tuple[str, Any]] = [
            ("l.reason = {}", self.reason.value if self.reason else None),
            (
                "l.errors @> jsonb_build_array(jsonb_build_object('field', {}::text))",
                self.field,
            ),
            ("l.organization_id = {}", self.organization),
            ("l.user_id = {}", self.user),
            ("l.model = {}", self.model),
            ("l.app_id = {}", self.producer),
            ("l.last_seen >= {}", self.since),
            ("l.first_seen <= {}", self.until),
            ("l.status = {}", self.status.value if self.status else None),
            ("l.id = ANY({}::uuid[])", list(self.ids) or None),
        ]
        for condition, value in choices:
            if value is not None:
                arguments.append(value)
                conditions.append(condition.format(f"${len(arguments)}"))
        return " AND ".join(conditions) or "true", arguments


class StoredLetter(NamedTuple):
    """A letter as it is carried through decoder and merge; `body` is the edited one where there is one."""

    id: UUID
    reason: Reason
    status: Status
    body: bytes
    content_type: str | None
    first_seen: datetime
    delivery: Delivery

    @property
    def place(self) -> Place:
        """Where it stands in the order of work."""
        return self.first_seen, self.id


# What was given up, above USAGE_DEAD_LETTER_BYTES_MAX, cannot be carried, unless an operator has written another body.
HAS_BODY = "coalesce(l.edited_body, l.body) IS NOT NULL"
HAS_NO_BODY = f"NOT {HAS_BODY}"

_LETTER_COLUMNS = """
l.id, l.reason, l.status, coalesce(l.edited_body, l.body) AS body, l.content_type, l.first_seen, l.headers, l.app_id,
l.amqp_user, l.exchange, l.routing_key, l.queue
"""


async def lock_letters(
    connection: asyncpg.Connection,
    chosen: Filter,
    limit: int,
    *,
    after: Place | None = None,
    also: str = "true",
) -> list[StoredLetter]:
    """Up to `limit` letters that nobody else works on, the oldest first; they stay locked to the transaction's end.

    None whose body was given up.
    Fewer where their bodies would not fit `LOCKED_BYTES_MAX`, but one at least.

    Args:
        connection: in a transaction.
        chosen: which letters; its own limit is the caller's business.
        limit: how many at most.
        after: only letters behind this place.
        also: a further condition on `l`, a text of the caller's own.
    """
    condition, arguments = _with_body(chosen)
    if after is not None:
        arguments += after
        condition += f" AND (l.first_seen, l.id) > (${len(arguments) - 1}, ${len(arguments)})"
    named, source, lock = _by_id(chosen, arguments, "FOR UPDATE SKIP LOCKED")
    sizes = await connection.fetch(
        f"{named}SELECT l.id, octet_length(coalesce(l.edited_body, l.body)) AS body_bytes"  # noqa: S608 - the code's own texts
        f" FROM {source} l WHERE {condition} AND {also} ORDER BY l.first_seen, l.id LIMIT {limit:d} {lock}",
        *arguments,
    )
    total_bytes = accumulate(row["body_bytes"] for row in sizes)
    fitting = [row["id"] for row, total in zip(sizes, total_bytes, strict=True) if total <= LOCKED_BYTES_MAX]
    rows = await connection.fetch(
        f"SELECT {_LETTER_COLUMNS} FROM ai_usage_dead_letters l WHERE l.id = ANY($1) ORDER BY l.first_seen, l.id",  # noqa: S608
        fitting or [row["id"] for row in sizes[:1]],
    )
    return [_letter(row) for row in rows]


async def skipped_letters(
    connection: asyncpg.Connection,
    chosen: Filter,
    *,
    after: Place | None,
    locked: Sequence[StoredLetter],
    also: str = "true",
) -> list[UUID]:
    """The ids that `lock_letters` passed over up to the last of `locked`: somebody else works on these letters."""
    condition, arguments = _with_body(chosen)
    for sign, place in ((">", after), ("<=", locked[-1].place if locked else None)):
        if place is not None:
            arguments += place
            condition += f" AND (l.first_seen, l.id) {sign} (${len(arguments) - 1}, ${len(arguments)})"
    named, source, _ = _by_id(chosen, arguments, "")
    arguments.append([letter.id for letter in locked])
    rows = await connection.fetch(
        f"{named}SELECT l.id FROM {source} l WHERE {condition} AND {also}"  # noqa: S608 - as above
        f" AND l.id <> ALL(${len(arguments)}::uuid[])",
        *arguments,
    )
    return [row["id"] for row in rows]


def _by_id(chosen: Filter, arguments: list[Any], lock: str) -> tuple[str, str, str]:
    """Where to look for the letters of a filter: what comes before the query, its source, and how it locks.

    Letters that are named are fetched first: with ids and order in one condition the planner has read all open letters
    for each thousand.
    """
    if not chosen.ids:
        return "", "ai_usage_dead_letters", lock
    arguments.append(list(chosen.ids))
    named = f"SELECT * FROM ai_usage_dead_letters WHERE id = ANY(${len(arguments)}::uuid[]) {lock}"  # noqa: S608 - as above
    return f"WITH named AS MATERIALIZED ({named}) ", "named", ""


async def count_letters(connection: asyncpg.Connection, chosen: Filter, also: str = "true") -> int:
    """How many letters a filter chooses, its limit considered; `also` is a further condition on `l`."""
    condition, arguments = chosen.where()
    limit = "" if chosen.limit is None else f" LIMIT {chosen.limit:d}"
    counted = await connection.fetchval(
        f"SELECT count(*) FROM (SELECT FROM ai_usage_dead_letters l WHERE {condition} AND {also}{limit}) chosen",  # noqa: S608
        *arguments,
    )
    return int(counted)


async def stream_letters(
    connection: asyncpg.Connection, chosen: Filter, columns: str, also: str = "true"
) -> AsyncGenerator[asyncpg.Record]:
    """The letters' `columns`, oldest first, by a cursor: any number of them in constant memory. See `count_letters`."""
    condition, arguments = chosen.where()
    limit = "" if chosen.limit is None else f" LIMIT {chosen.limit:d}"
    # Their places are sorted without them: bodies would fill the server's disk.
    query = (
        f"SELECT {columns} FROM (SELECT l.id, l.first_seen FROM ai_usage_dead_letters l WHERE {condition} AND {also}"  # noqa: S608 - columns are the caller's own
        f" ORDER BY l.first_seen, l.id{limit}) place JOIN ai_usage_dead_letters l ON l.id = place.id"
        " ORDER BY place.first_seen, place.id"
    )
    async with connection.transaction(readonly=True):
        async for row in connection.cursor(query, *arguments, prefetch=CURSOR_ROWS):
            yield row


async def read_letters(connection: asyncpg.Connection, chosen: Filter) -> AsyncGenerator[StoredLetter]:
    """The letters as they would be carried, oldest first; none is locked, and none without body is there."""
    async with aclosing(stream_letters(connection, chosen, _LETTER_COLUMNS, HAS_BODY)) as rows:
        async for row in rows:
            yield _letter(row)


@dataclass(slots=True, frozen=True)
class Action:
    """One line of a letter's history."""

    letter_id: UUID
    action: str
    from_reason: str | None = None
    to_reason: str | None = None
    from_status: str | None = None
    to_status: str | None = None
    note: str | None = None


async def note_actions(
    connection: asyncpg.Connection, actions: Sequence[Action], *, who: str, chosen: Filter | None = None
) -> None:
    """Add to the history; it is never changed."""
    filter_json = None if chosen is None else chosen.as_json()
    await connection.executemany(
        "INSERT INTO ai_usage_dead_letter_actions"
        " (who, letter_id, action, from_reason, to_reason, from_status, to_status, note, filter)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        [
            (
                who, action.letter_id, action.action, action.from_reason, action.to_reason, action.from_status,
                action.to_status, action.note, filter_json,
            )
            for action in actions
        ],
    )  # fmt: skip


def _with_body(chosen: Filter) -> tuple[str, list[Any]]:
    condition, arguments = chosen.where()
    return f"{condition} AND {HAS_BODY}", arguments


def _letter(row: asyncpg.Record) -> StoredLetter:
    headers: Mapping[str, Any] = json.loads(row["headers"] or "{}")
    properties = PlainProperties(
        content_type=row["content_type"], app_id=row["app_id"], user_id=row["amqp_user"], headers=headers
    )
    delivery = Delivery(
        tag=0,
        generation=0,
        body=row["body"],
        properties=properties,
        exchange=row["exchange"] or "",
        routing_key=row["routing_key"] or "",
        queue=row["queue"] or "",
    )
    return StoredLetter(
        row["id"],
        Reason(row["reason"]),
        Status(row["status"]),
        row["body"],
        row["content_type"],
        row["first_seen"],
        delivery,
    )
