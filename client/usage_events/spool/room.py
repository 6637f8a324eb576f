"""Keeps a part of the disk free for sending: a lease and a deletion are written, too, before they make room."""

import os
from collections.abc import Sequence
from pathlib import Path

from usage_events.errors import SpoolUnwritableError
from usage_events.spool.database import Database

KEPT_FREE_BYTES = 4 * 1024**2  # a message of 1 MiB is forgotten in one transaction, which writes all its pages
_BYTES_BETWEEN = 256 * 1024
_COMMIT_BYTES = 4 * 4096  # pages that even the smallest event may write to the log


class Room:
    """Looks at the disk from time to time; one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log_path = path.with_name(f"{path.name}-wal")
        self._bytes = _BYTES_BETWEEN  # that may have been written since the last look: the first event looks

    def require(self, database: Database, frames: Sequence[bytes]) -> None:
        """Before these are inserted.

        Raises:
            SpoolUnwritableError: what is free is kept for sending.
        """
        self._bytes += _COMMIT_BYTES + 2 * sum(map(len, frames))
        if self._bytes < _BYTES_BETWEEN:
            return
        if self._is_short():
            database.empty_log()  # it is the larger part by far after many small commits
            if self._is_short():
                raise SpoolUnwritableError(
                    f"the spool {self._path} cannot be written: its disk is full ({self._free_bytes():,} bytes are"
                    f" free, and {KEPT_FREE_BYTES:,} are kept for sending what it holds); free space on it, or name"
                    " another spool_path"
                )
        self._bytes = 0

    def _is_short(self) -> bool:
        """All of the log may have to be brought into the file before it can be emptied."""
        log_bytes = self._log_path.stat().st_size if self._log_path.exists() else 0
        return self._free_bytes() < KEPT_FREE_BYTES + log_bytes

    def _free_bytes(self) -> int:
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize
