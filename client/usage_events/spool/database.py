"""The operations on the spool's tables. SQLite's errors are translated by `faults.py`."""

import sqlite3
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from usage_events.buffer import Sync
from usage_events.errors import SpoolError
from usage_events.spool import statements
from usage_events.spool.frames import OVERHEAD_BYTES, has_own_length

BUSY_TIMEOUT_SECONDS = 5.0
# Checkpoints are made beside the callers (see `checkpoints.py`); past this a caller makes one by itself.
WAL_PAGES_MAX = 8192
_EMPTYING_TRIES = 50
_EMPTYING_PAUSE_SECONDS = 0.02
_SHRINK_PAGES = 256
_POSITION_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Row:
    """One event as it is kept."""

    position: int
    frame: bytes


class Database:
    """One connection to the file; it is used by one thread at a time."""

    def __init__(self, path: Path, sync: Sync = "normal") -> None:
        """Opens the file, which need not exist."""
        # No transaction of Python's own making: a single statement is one by itself.
        self._connection = sqlite3.connect(
            path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(path, sync)
        except BaseException:
            self._connection.close()
            raise
        found = path.stat()
        self.identity = (found.st_dev, found.st_ino)

    def _prepare(self, path: Path, sync: Sync) -> None:
        execute = self._connection.execute
        self._cursor = self._connection.cursor()
        tables = self.tables()
        if tables and not any(name.startswith("spool_") for name in tables):
            raise SpoolError(f"{path} is another program's SQLite file; name another spool_path")
        if not tables:
            execute("PRAGMA auto_vacuum = INCREMENTAL")
        execute("PRAGMA journal_mode = WAL")
        execute(f"PRAGMA synchronous = {sync.upper()}")
        execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES_MAX}")
        execute("PRAGMA journal_size_limit = 0")  # old frames behind the new ones would look like damage
        with self._transaction():
            if not self.tables():
                for statement in statements.SCHEMA.split(";\n"):
                    execute(statement)
                execute("INSERT INTO spool_settled VALUES (0, 0, 0, 0)")

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def tables(self) -> set[str]:
        """The tables that are there."""
        try:
            rows = self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        except UnicodeDecodeError as error:  # SQLite's message quotes what it has read
            raise sqlite3.DatabaseError("the names of the tables are no text") from error
        return {name for (name,) in rows}

    def check(self) -> None:
        """Looks at every page.

        Raises:
            sqlite3.DatabaseError: something is not as it should be.
        """
        (answer,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if answer != "ok":
            raise sqlite3.DatabaseError(answer)
        if self._connection.execute("SELECT count(*) FROM spool_settled").fetchone() != (1,):
            raise sqlite3.DatabaseError("the table spool_settled does not have its one row")
        # A row that is gone without a trace: a page of another time, or a tree that ends too early.
        held, _ = self.held()
        (rows,) = self._connection.execute("SELECT count(*) FROM spool_events").fetchone()
        if rows != held:
            raise sqlite3.DatabaseError(f"{rows} of {held} events are there")

    def checkpoint(self) -> int:
        """Brings the log's pages into the file; how many pages the log has."""
        return checkpoint(self._connection)

    def empty_log(self) -> None:
        """Brings the log's pages into the file, and gives the log's disk back; waits for who reads.

        Also, for a second, for a checkpoint that runs already: SQLite itself gives up at once then, without an error.
        """
        for _ in range(_EMPTYING_TRIES):
            (is_busy, *_) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not is_busy:
                return
            time.sleep(_EMPTYING_PAUSE_SECONDS)

    # Events.

    def insert(self, frames: Sequence[bytes], bytes_max: int) -> int:
        """Keeps these in one commit, up to the first that does not fit; how many."""
        if len(frames) == 1:
            return self._insert(frames[0], bytes_max)
        with self._transaction():
            for count, frame in enumerate(frames):
                if not self._insert(frame, bytes_max):
                    return count
        return len(frames)

    def _insert(self, frame: bytes, bytes_max: int) -> int:
        self._cursor.execute(statements.INSERT, (frame, len(frame), bytes_max))
        return self._cursor.rowcount

    def begin_at(self, position: int) -> None:
        """In an empty spool: the next event's position comes after this one."""
        self._connection.execute("UPDATE spool_settled SET events = ?1, last_position = ?1", (position,))

    def held(self) -> tuple[int, int]:
        """Number and length of all events, those that are leased included."""
        events, size_bytes = self._connection.execute(
            f"SELECT position - events, end_bytes - bytes FROM ({statements.NEWEST})"  # noqa: S608
        ).fetchone()
        return events, size_bytes - OVERHEAD_BYTES * events

    def newest(self) -> int:
        """The position of the event that came last, whether it is still there or not."""
        (position,) = self._connection.execute(f"SELECT position FROM ({statements.NEWEST})").fetchone()  # noqa: S608
        return int(position)

    def holds_older(self, position: int, own: Collection[int]) -> bool:
        """Whether an event up to this position is there beside those of the leases that begin at `own`."""
        ranges = self._ranges()
        mine = [(first, last) for first, last in ranges if first in own]
        edges = [(0, 0), *mine, (_POSITION_MAX, _POSITION_MAX)]
        return any(
            self._connection.execute(
                "SELECT 1 FROM spool_events WHERE position > ? AND position < ? LIMIT 1",
                (after, min(before, position + 1)),
            ).fetchone()
            for (_, after), (before, _) in pairwise(edges)
        )

    def leased(self) -> tuple[int, int]:
        """Number and length of the events that are leased."""
        events, size_bytes = self._connection.execute(
            "SELECT coalesce(sum(events), 0), coalesce(sum(bytes), 0) FROM spool_leases"
        ).fetchone()
        return events, size_bytes - OVERHEAD_BYTES * events

    def frames(self) -> Iterator[bytes]:
        """Every event, in order."""
        rows = self._connection.execute("SELECT CAST(frame AS BLOB) FROM spool_events ORDER BY position")
        return (frame or b"" for (frame,) in rows)

    # Leases.

    def other_owners(self, owner: str) -> list[str]:
        """Who else leases events."""
        rows = self._connection.execute("SELECT DISTINCT owner FROM spool_leases WHERE owner <> ?", (owner,))
        return [name for (name,) in rows]

    def free(self, owner: str) -> None:
        """Whatever this owner has leased is anybody's."""
        self._connection.execute("DELETE FROM spool_leases WHERE owner = ?", (owner,))

    def lease(self, owner: str, events_max: int, bytes_max: int) -> list[Row]:
        """Takes the oldest events that nobody has leased; neighbours without a leased one between them."""
        with self._transaction():
            rows = self._oldest(events_max, bytes_max)
            if rows:
                size_bytes = sum(len(row.frame) for row in rows)
                self._connection.execute(
                    "INSERT INTO spool_leases VALUES (?, ?, ?, ?, ?)",
                    (rows[0].position, rows[-1].position, owner, len(rows), size_bytes),
                )
            return rows

    def settle(self, owner: str, first: int, positions: Sequence[int], *, is_all: bool) -> bool:
        """Forgets events of the owner's lease that begins at `first`; whether the lease was still there."""
        with self._transaction():
            events, size_bytes = self._delete(positions)
            renewed = self._connection.execute(
                "UPDATE spool_leases SET events = events - ?, bytes = bytes - ? WHERE first = ? AND owner = ?",
                (events, size_bytes, first, owner),
            ).rowcount
            if not renewed:  # somebody else may have it by now: then it is sent twice, and not forgotten by mistake
                self._connection.execute("ROLLBACK")
                return False
            if is_all:
                self._connection.execute("DELETE FROM spool_leases WHERE first = ?", (first,))
        if is_all:
            self.shrink(_SHRINK_PAGES)
        return True

    def drop_oldest(self, size_bytes: int) -> int:
        """Gives up the oldest that nobody has leased, until so many bytes are free; how many events."""
        dropped = freed_bytes = 0
        with self._transaction():
            while freed_bytes < size_bytes and (rows := self._oldest(1000, size_bytes - freed_bytes)):
                events, row_bytes = self._delete([row.position for row in rows])
                dropped += events
                freed_bytes += row_bytes
        return dropped

    def _oldest(self, events_max: int, bytes_max: int) -> list[Row]:
        edges = [(0, 0), *self._ranges(), (_POSITION_MAX, _POSITION_MAX)]
        for (_, after), (before, _) in pairwise(edges):
            if before - after > 1 and (rows := self._between(after, before, events_max, bytes_max)):
                return rows
        return []

    def _ranges(self) -> list[tuple[int, int]]:
        return self._connection.execute("SELECT first, last FROM spool_leases ORDER BY first").fetchall()

    def _between(self, after: int, before: int, events_max: int, bytes_max: int) -> list[Row]:
        found = self._connection.execute(
            "SELECT position, CAST(frame AS BLOB) FROM spool_events WHERE position > ? AND position < ?"
            " ORDER BY position LIMIT ?",
            (after, before, events_max),
        )
        rows: list[Row] = []
        left_bytes = bytes_max
        for position, frame in found:
            if not has_own_length(frame or b""):  # the row's head is damaged: its event may stand whole beside it
                raise sqlite3.DatabaseError(f"the row {position} does not have the length of its event")
            left_bytes -= len(frame) - OVERHEAD_BYTES
            if rows and left_bytes < 0:
                break
            rows.append(Row(position, frame))
        found.close()
        return rows

    def _delete(self, positions: Sequence[int]) -> tuple[int, int]:
        self._connection.execute(statements.SETTLE, (0, 0))  # notes the newest position before its row may go
        sizes = [
            size
            for first, last in _runs(positions)
            for (size,) in self._connection.execute(
                "DELETE FROM spool_events WHERE position BETWEEN ? AND ? RETURNING length(frame)", (first, last)
            ).fetchall()
        ]
        self._connection.execute(statements.SETTLE, (len(sizes), sum(sizes)))
        return len(sizes), sum(sizes)

    def shrink(self, pages_max: int) -> None:
        """Gives pages of an empty spool back to the file system, no more than these at a time."""
        (pages,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        if pages > _SHRINK_PAGES and self.held()[0] == 0:
            # `execute` would take only the first of its steps, which is one page.
            self._connection.executescript(f"PRAGMA incremental_vacuum({pages_max})")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:  # some errors end it by themselves
                execute("ROLLBACK")
            raise
        if self._connection.in_transaction:
            execute("COMMIT")


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")  # of a damaged file; its names are wrong then, which is noticed


def checkpoint(connection: sqlite3.Connection) -> int:
    """Brings the log's pages into the file without keeping anybody waiting; how many pages the log has."""
    _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(pages)


def _runs(positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of neighbours."""
    start = 0
    for index in range(1, len(positions) + 1):
        if index == len(positions) or positions[index] != positions[index - 1] + 1:
            yield positions[start], positions[index - 1]
            start = index
