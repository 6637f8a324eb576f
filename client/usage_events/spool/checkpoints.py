"""Brings the log into the file beside the callers: a checkpoint waits for the disk, and `record()` should not."""

import logging
import sqlite3
from pathlib import Path
from threading import Lock, Thread

from usage_events.spool.database import checkpoint
from usage_events.spool.guard import Guard

COMMITS_BETWEEN = 1000

_logger = logging.getLogger("usage_events.spool")


class Checkpoints:
    """Counts commits, and starts a thread for each checkpoint; one at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._commits = 0
        self._running = Lock()

    def count(self) -> None:
        """One commit more."""
        self._commits += 1
        if self._commits >= COMMITS_BETWEEN and self._running.acquire(blocking=False):
            self._commits = 0
            try:
                Thread(target=self._make, name="usage_events spool checkpoint", daemon=True).start()
            except RuntimeError as error:  # as many threads as there may be, or Python is at its end
                self._running.release()
                _logger.warning("the spool %s: no checkpoint was made (%s)", self._path, error)

    def pause(self) -> None:
        """Waits for the one that runs, and lets none begin until `resume`."""
        self._running.acquire()

    def resume(self) -> None:
        """Ends `pause`."""
        self._running.release()

    def _make(self) -> None:
        try:
            with Guard(self._path) as guard:
                guard.share()  # nobody replaces the file meanwhile
                connection = sqlite3.connect(self._path)
                try:
                    checkpoint(connection)
                finally:
                    connection.close()
        except (
            OSError,
            sqlite3.Error,
        ) as error:  # the callers go on, and whoever reads or writes the file meets the cause
            _logger.warning("the spool %s: no checkpoint was made (%s)", self._path, error)
        finally:
            self._running.release()
