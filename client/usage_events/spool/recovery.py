"""Opening a file that may be damaged: it is kept aside under a name that says so, and what is whole in it goes on.

What could be read by SQLite is taken in its order; then every whole frame that its bytes hold beside that. Events of
free pages were settled before: they are sent again, and their ids make them the same events.
"""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from mmap import ACCESS_READ, mmap
from pathlib import Path

from usage_events.buffer import Sync
from usage_events.spool import frames
from usage_events.spool.database import Database
from usage_events.spool.faults import is_damage

_WAL_HEADER_BYTES = 32
_WAL_PAGE_BYTES = 24 + 4096
_CHUNK_FRAMES = 1000
_ROOM = 2**62
_FAILED_READS_MAX = 2000  # what a broken tree hides is found in the bytes: nobody waits for millions of look-ups

OnDamaged = Callable[[int], None]

_logger = logging.getLogger("usage_events.spool")


def open_database(path: Path, sync: Sync, on_damaged: OnDamaged, *, is_alone: bool) -> Database:
    """The spool's database, whatever state it was left in; under the guard's exclusive lock.

    `on_damaged` hears how many events are not whole any more.

    Raises:
        SpoolError: the file is another program's.
        sqlite3.Error: the machine does not let us.
    """
    if _beside(path, "rebuilt").exists():  # whoever replaced the file was killed
        _replace(path, log=b"")
    log = read_log(path) if is_alone else b""
    try:
        database = Database(path, sync)
    except sqlite3.Error as error:
        return rebuild(path, sync, log, error, on_damaged)
    if is_alone:
        try:
            database.check()
            on_damaged(_restore_tail(path, database, log))
        except sqlite3.Error as error:
            database.close()
            return rebuild(path, sync, log, error, on_damaged)
    return database


def read_log(path: Path) -> bytes:
    """The write-ahead log as it is; to be read before SQLite looks at it, as it forgets what follows damage."""
    try:
        return path.with_name(f"{path.name}-wal").read_bytes()
    except FileNotFoundError:
        return b""


def rebuild(path: Path, sync: Sync, log: bytes, cause: sqlite3.Error, on_damaged: OnDamaged) -> Database:
    """A new file with what is whole in the old one, which is kept aside.

    Raises:
        sqlite3.Error: the cause is not damage, or the new file cannot be written.
    """
    if not is_damage(cause, path):
        raise cause
    unfinished = _beside(path, "rebuilding")
    for suffix in ("", "-wal", "-shm"):
        unfinished.with_name(unfinished.name + suffix).unlink(missing_ok=True)
    saving = _Saving(Database(unfinished, "full"))
    try:
        saving.add(_readable(path))
        by_sqlite = saving.count
        if path.exists() and path.stat().st_size:
            with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as raw:
                saving.carve(raw)
        saving.carve(log)
    finally:
        saving.close()
    unfinished.rename(_beside(path, "rebuilt"))
    aside = _replace(path, log)
    _logger.error(
        "the spool %s was damaged (%s): %d events are read from it, %d more are found in its bytes, %d are not whole;"
        " a new file goes on with them, the damaged one is kept as %s",
        path, cause, by_sqlite, saving.count - by_sqlite, saving.broken, aside,
    )  # fmt: skip
    on_damaged(saving.broken)
    return Database(path, sync)


def set_aside(path: Path, damaged: Sequence[bytes]) -> None:
    """Keeps the bytes of events that cannot be sent."""
    aside = _beside(path, "damaged-events")
    with aside.open("ab") as file:
        file.writelines(damaged)
    _logger.error(
        "%d events in the spool %s are not what they were, and cannot be sent: their bytes are kept in %s",
        len(damaged), path, aside,
    )  # fmt: skip


class _Saving:
    """Events that go into the new file, each once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: set[bytes] = set()
        self._whole_heads: set[bytes] = set()
        self._broken_heads: set[bytes] = set()
        self.count = 0
        # Positions of the old file must not come again: somebody may hold leases of it.
        database.begin_at(time.time_ns() // 1000)

    @property
    def broken(self) -> int:
        """Events of which no whole copy has been found."""
        return len(self._broken_heads - self._whole_heads)

    def add(self, found: Iterator[bytes]) -> None:
        """Takes these frames, which are whole."""
        chunk: list[bytes] = []
        for frame in found:
            digest = _digest(frame)
            if digest not in self._seen:
                self._seen.add(digest)
                self._whole_heads.add(frames.head_at(frame, 0))
                chunk.append(frame)
                self.count += 1
            if len(chunk) == _CHUNK_FRAMES:
                self._database.insert(chunk, _ROOM)
                chunk = []
        if chunk:
            self._database.insert(chunk, _ROOM)

    def carve(self, raw: bytes | mmap) -> None:
        """Takes every whole frame in these bytes, the oldest first."""
        whole: list[tuple[int, int]] = []
        for start in frames.starts(raw):
            frame = frames.frame_at(raw, start)
            if frame is None:
                self._broken_heads.add(frames.head_at(raw, start))
            else:
                whole.append((frame.recorded_at_us, start))
        self.add(_encoded(raw, start) for _, start in sorted(whole))

    def close(self) -> None:
        """The new file is complete."""
        self._database.close()


def _restore_tail(path: Path, database: Database, log: bytes) -> int:
    """SQLite drops, without a word, all of the log from the first damaged frame on; how many events are lost by it."""
    tail = log[_WAL_HEADER_BYTES + database.checkpoint() * _WAL_PAGE_BYTES :]
    if not tail:
        return 0
    whole = {start: frame for start in frames.starts(tail) if (frame := frames.frame_at(tail, start))}
    heads_whole = {frames.head_at(tail, start) for start in whole}
    held = set()
    for encoded in database.frames():
        held.add(_digest(encoded))
        heads_whole.add(frames.head_at(encoded, 0))
    broken = len({frames.head_at(tail, start) for start in frames.starts(tail)} - heads_whole)
    missing: dict[bytes, bytes] = {}
    for start in sorted(whole, key=lambda start: whole[start].recorded_at_us):
        encoded = _encoded(tail, start)
        if (digest := _digest(encoded)) not in held:
            missing[digest] = encoded
    if not missing and not broken:
        return 0
    aside = _aside(path)
    aside.with_name(f"{aside.name}-wal").write_bytes(log)
    database.insert(list(missing.values()), _ROOM)
    _logger.error(
        "the log of the spool %s was damaged: %d events behind the damage are found and go on, %d are not whole;"
        " the damaged log is kept as %s-wal", path, len(missing), broken, aside,
    )  # fmt: skip
    return broken


def _readable(path: Path) -> Iterator[bytes]:
    """The frames that SQLite still reads, in order; ranges that it cannot read are halved."""
    connection = sqlite3.connect(path)
    try:
        ranges = [(1, _ROOM)]
        failures = 0
        cause: Exception | None = None
        while ranges and failures < _FAILED_READS_MAX:
            first, last = ranges.pop()
            try:
                for position, frame in connection.execute(
                    "SELECT position, CAST(frame AS BLOB) FROM spool_events WHERE position BETWEEN ? AND ?"
                    " ORDER BY position",
                    (first, last),
                ):
                    first = position + 1
                    if frame is not None and frames.decode(frame) is not None:
                        yield frame
            except (sqlite3.Error, UnicodeDecodeError) as error:
                failures += 1
                cause = error
                if not isinstance(error, sqlite3.Error) or error.sqlite_errorcode != sqlite3.SQLITE_CORRUPT:
                    break  # the file as a whole is none that SQLite knows
                if first < last:
                    middle = (first + last) // 2
                    ranges += [(middle + 1, last), (first, middle)]
        if failures:
            _logger.warning("SQLite cannot read all of the damaged spool %s (%s); its bytes are searched", path, cause)
    finally:
        connection.close()


def _replace(path: Path, log: bytes) -> Path:
    """Puts the rebuilt file in the damaged one's place; where it is interrupted, it is done again at the next start."""
    aside = _aside(path)
    written = path.with_name(f"{path.name}-wal")
    if log:
        aside.with_name(f"{aside.name}-wal").write_bytes(log)
        written.unlink(missing_ok=True)
    elif written.exists():
        written.rename(aside.with_name(f"{aside.name}-wal"))
    if path.exists():
        path.rename(aside)
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    _beside(path, "rebuilt").rename(path)
    return aside


def _aside(path: Path) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return _beside(path, f"damaged-{stamp}-{time.time_ns() % 1_000_000_000:09}")


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.{what}")


def _encoded(raw: bytes | mmap, start: int) -> bytes:
    frame = frames.frame_at(raw, start)
    if frame is None:
        raise AssertionError("the frame was whole a moment ago")
    return raw[start : start + frames.OVERHEAD_BYTES + len(frame.entry.text)]


def _digest(frame: bytes) -> bytes:
    return blake2b(frame, digest_size=16).digest()
