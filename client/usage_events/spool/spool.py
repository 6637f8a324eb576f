"""The spool as a buffer: shared by threads and processes, and kept whole across forks, crashes and damage."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock

from usage_events import forks
from usage_events.buffer import DEFAULT_SPOOL_BYTES_MAX, Entry, Lease, Sync, WhenFull
from usage_events.errors import BufferFullError, SpoolUnwritableError, UsageEventsError
from usage_events.spool import frames, owners, recovery
from usage_events.spool.callers import Caller, Callers
from usage_events.spool.checkpoints import Checkpoints
from usage_events.spool.database import Database, Row
from usage_events.spool.file import SpoolFile
from usage_events.spool.held import HeldLeases, Share
from usage_events.spool.room import Room

LEAST_BYTES_MAX = 1024**2
_LAST_SHRINK_PAGES = 65_536  # a quarter of a second or so

_logger = logging.getLogger("usage_events.spool")


Frames = Sequence[bytes]  # `Spool` has a property that is named `bytes`


class Spool:
    """Events in an SQLite file: `put` returns when the event is committed, and a killed process loses none.

    Any number of threads and of processes on this machine share one file; each event is leased by one of them at a
    time, and what a dead process has leased is free again. The file must be on a local disk. A power cut may cost the
    last commits, which `sync="full"` prevents for the price of waiting for the disk at each of them.
    """

    poll_seconds: float | None = 1.0
    fork_turn = 1

    def __init__(  # noqa: PLR0913 - each is the publisher's choice, and all but the first are named
        self,
        path: str | os.PathLike[str],
        *,
        bytes_max: int = DEFAULT_SPOOL_BYTES_MAX,
        when_full: WhenFull = "raise",
        on_dropped: Callable[[int], None] = lambda _: None,
        on_damaged: Callable[[int], None] = lambda _: None,
        sync: Sync = "normal",
    ) -> None:
        """Opens the file, or makes it; a damaged one is kept aside, and what is whole in it goes on.

        `on_damaged` hears how many events are not whole any more.

        Raises:
            ValueError: an argument outside its limits.
            SpoolError: the file cannot be used.
        """
        if bytes_max < LEAST_BYTES_MAX:
            raise ValueError(f"spool_bytes_max is {bytes_max:,}; the least is {LEAST_BYTES_MAX:,}, one message")
        if sync not in {"normal", "full"}:
            raise ValueError(f"spool_sync is {sync!r}; it is 'normal' or 'full'")
        self._bytes_max = bytes_max
        self._drops = when_full == "drop_oldest"
        self._on_dropped = on_dropped
        self._on_damaged = on_damaged
        self._lock = Lock()
        self._callers = Callers()
        self._held = HeldLeases()
        self._events = self._bytes = 0  # what waits, as far as this process knows; each lease looks again
        self._renewed_at = 0  # the newest event of the file when it was replaced; 0 if it never was
        self._unsettled: list[int] = []
        self._is_closed = False
        self._file = SpoolFile(Path(path).absolute(), sync, self._note_replaced, on_damaged)
        self._checkpoints = Checkpoints(self._file.path)
        self._room = Room(self._file.path)
        self._file.open()
        with self._lock:
            self._count()
        forks.register(self)

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    @property
    def events(self) -> int:
        """Events that wait; those that other processes have put in since the last lease are not counted yet."""
        return self._events

    @property
    def bytes(self) -> int:
        """The length of what waits, counted likewise."""
        return self._bytes

    @property
    def youngest_key(self) -> int:
        """The key of the event that was put in last, by whomever; 0 where there was none."""
        with self._lock:
            return self._file.run(Database.newest)

    def is_pending(self, key: int) -> bool:
        """Whether an event up to this key waits, or is on its way in another process."""
        with self._lock:
            if self._held.has_given_back(key):
                return True
            return self._file.run(
                # What was put into a file that is no more stands in the new one, under another key.
                lambda database: database.holds_older(max(key, self._renewed_at), self._held.firsts)
            )

    def put(self, entry: Entry) -> None:
        """Keeps a new event; it is committed when this returns. Threads that come together share a commit.

        Raises:
            BufferFullError: there is no room.
            SpoolUnwritableError: a full disk, lost rights, or a lock that stays.
        """
        caller = self._callers.add(frames.encode(entry, time.time_ns() // 1000))
        try:
            with self._lock:
                if not caller.is_done:
                    self._commit()
        except BaseException:  # Ctrl-C, or a time limit by a signal
            self._callers.leave(caller)
            raise
        if caller.error is not None:
            raise caller.error

    def lease(self, events_max: int, bytes_max: int) -> Lease | None:
        """The oldest that nobody else has leased, in their order; `None` where there are none, or the disk is full."""
        with self._lock:
            try:
                self._settle_late()
                lease = self._held.take(events_max, bytes_max)
                while lease is None:
                    rows = self._file.run(lambda database: self._lease(database, events_max, bytes_max))
                    if not rows:
                        break
                    lease = self._whole(rows)
                self._count()
            except SpoolUnwritableError as error:
                _logger.warning("nothing is taken out of the spool for now: %s", error)
                return None
            return lease

    def settle(self, lease: Lease) -> None:
        """Forgets these; where the file cannot be written now, before the next lease."""
        with self._lock:
            self._unsettled += lease.keys
            try:
                self._settle_late()
            except SpoolUnwritableError as error:
                _logger.warning("%d events are sent and not yet forgotten: %s", len(self._unsettled), error)

    def give_back(self, lease: Lease) -> None:
        """These wait again, in their old places."""
        with self._lock:
            self._held.give_back(lease)
            self._events += len(lease.keys)
            self._bytes += sum(len(entry.text) for entry in lease.entries)

    def close(self) -> None:
        """What is left stays in the file, for whoever opens it next."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            forks.forget(self)
            self._checkpoints.pause()
            try:
                self._settle_late()
                self._file.run(lambda database: database.free(self._file.owner_name))
                self._file.run(lambda database: database.shrink(_LAST_SHRINK_PAGES))
            except SpoolUnwritableError as error:
                _logger.warning("the spool is closed without its last settlements: %s", error)
            finally:
                self._file.close()
                self._held.clear()

    # All below holds the lock.

    def _commit(self) -> None:
        batch = self._callers.waiting()
        try:
            if self._is_closed:
                raise SpoolUnwritableError(f"the spool {self.path} is closed; make another publisher")
            self._insert(batch)
        except UsageEventsError as error:
            for caller in batch:
                caller.refuse(error)
        self._callers.forget_answered()
        self._checkpoints.count()

    def _insert(self, batch: Sequence[Caller]) -> None:
        left = list(batch)
        while left:
            encoded = [caller.frame for caller in left]
            count = self._file.run(lambda database: self._insert_into(database, encoded))  # noqa: B023 - runs now
            for caller in left[:count]:
                caller.is_done = True
                self._bytes += len(caller.frame) - frames.OVERHEAD_BYTES
            self._events += count
            left = left[count:]
            if left and not (self._drops and self._drop(len(left[0].frame))):
                raise self._full()

    def _insert_into(self, database: Database, encoded: Frames) -> int:
        self._room.require(database, encoded)
        return database.insert(encoded, self._bytes_max)

    def _drop(self, size_bytes: int) -> int:
        dropped = self._file.run(lambda database: database.drop_oldest(size_bytes))
        if dropped:
            self._on_dropped(dropped)
        return dropped

    def _full(self) -> BufferFullError:
        events, size_bytes = self._file.run(Database.held)
        return BufferFullError(
            f"the spool {self.path} is full: {events:,} events of {size_bytes:,} bytes, the limit is"
            f" spool_bytes_max={self._bytes_max:,}; is RabbitMQ away? Record it again later, or raise the limit"
        )

    def _lease(self, database: Database, events_max: int, bytes_max: int) -> list[Row]:
        own = self._file.owner_name
        for name in database.other_owners(own):
            if not owners.is_alive(self.path, name):
                database.free(name)
        return database.lease(own, events_max, bytes_max)

    def _whole(self, rows: Sequence[Row]) -> Lease | None:
        keys = [row.position for row in rows]
        self._held.add(keys, len(keys))
        read = [frames.decode(row.frame) for row in rows]
        damaged = [row for row, frame in zip(rows, read, strict=True) if frame is None]
        if damaged:
            self._set_aside(damaged)
        whole = [(row.position, frame.entry) for row, frame in zip(rows, read, strict=True) if frame is not None]
        return Lease([key for key, _ in whole], [entry for _, entry in whole]) if whole else None

    def _set_aside(self, damaged: Sequence[Row]) -> None:
        recovery.set_aside(self.path, [row.frame for row in damaged])
        self._on_damaged(len(damaged))
        self._unsettled += [row.position for row in damaged]
        self._settle_late()

    def _settle_late(self) -> None:
        if not self._unsettled:
            return
        for share in self._held.shares(self._unsettled):
            self._settle_share(share)
        self._unsettled.clear()

    def _settle_share(self, share: Share) -> None:
        own = self._file.owner_name
        self._file.run(lambda database: database.settle(own, share.first, share.positions, is_all=share.is_all))
        self._held.settle(share)

    def _count(self) -> None:
        held_events, held_bytes = self._file.run(Database.held)
        leased_events, leased_bytes = self._file.run(Database.leased)
        self._events = held_events - leased_events + self._held.events
        self._bytes = held_bytes - leased_bytes + self._held.bytes

    def _note_replaced(self, database: Database) -> None:
        self._held.clear()
        self._renewed_at = database.newest()

    # A fork: no connection may be inherited, as SQLite keeps the process's own locks beside it.

    def before_fork(self) -> None:
        """Waits for what is under way, and closes the file; the next operation opens it."""
        self._checkpoints.pause()
        self._lock.acquire()
        self._file.release()

    def after_fork(self, *, is_child: bool) -> None:
        """Goes on; a child leases under a name of its own, and has none of its parent's events."""
        if is_child:
            self._events = self._bytes = 0
            self._file.abandon_owner()
            self._held.clear()
            self._unsettled.clear()
            self._callers.clear()
        self._lock.release()
        self._checkpoints.resume()
