"""COPY's binary format for the stage of dead letters: in a flood this runs once an event too. See `copy_format`."""

import struct
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from worker.dead_letters.letters import DeadLetter
from worker.postgres.copy_format import JSONB_VERSION, NULL, copy_of, field, text

LETTER_COLUMNS = (
    ("occurrences", "bigint"),
    ("first_seen", "timestamptz"),
    ("last_seen", "timestamptz"),
    ("worker", "text"),
    ("fingerprint", "bytea"),
    ("event_id", "uuid"),
    ("user_id", "uuid"),
    ("organization_id", "uuid"),
    ("reason", "text"),
    ("errors", "jsonb"),
    ("body", "bytea"),
    ("content_type", "text"),
    ("headers", "jsonb"),
    ("app_id", "text"),
    ("amqp_user", "text"),
    ("exchange", "text"),
    ("routing_key", "text"),
    ("queue", "text"),
    ("model", "text"),
)

_EPOCH_2000 = datetime(2000, 1, 1, tzinfo=UTC)  # Postgres counts from it
_MICROSECOND = timedelta(microseconds=1)
# The number of columns, then length and value of each: those that always have a value of the same length.
_fixed = struct.Struct(">h iq iq iq").pack
_COLUMN_COUNT = len(LETTER_COLUMNS)


def _uuid(value: str | None) -> bytes:
    return NULL if value is None else b"\x00\x00\x00\x10" + bytes.fromhex(value.replace("-", ""))


def _json(value: str) -> bytes:
    return field(JSONB_VERSION + value.encode())


def _row(letter: DeadLetter, worker: bytes, first_seen_us: int, last_seen_us: int) -> bytes:
    return b"".join(
        (
            _fixed(_COLUMN_COUNT, 8, letter.occurrences, 8, first_seen_us, 8, last_seen_us),
            worker,
            field(letter.fingerprint),
            _uuid(letter.event_id),
            _uuid(letter.user_id),
            _uuid(letter.organization_id),
            text(letter.reason.value),
            _json(letter.errors_json),
            field(letter.body),
            text(letter.content_type),
            _json(letter.headers_json),
            text(letter.app_id),
            text(letter.amqp_user),
            text(letter.exchange),
            text(letter.routing_key),
            text(letter.queue),
            text(letter.model),
        )
    )


def encode_letters(letters: Iterable[DeadLetter], *, worker: str, seen_at: datetime) -> bytes:
    """The rows as one COPY; a letter without a time of its own is first seen at `seen_at`."""
    name = text(worker)
    now_us = (seen_at - _EPOCH_2000) // _MICROSECOND
    return copy_of(
        _row(
            letter,
            name,
            now_us if letter.first_seen is None else (letter.first_seen - _EPOCH_2000) // _MICROSECOND,
            now_us,
        )
        for letter in letters
    )
