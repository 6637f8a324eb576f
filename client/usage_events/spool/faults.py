"""What SQLite's errors mean for the spool: the file is damaged, or the machine does not let us."""

import os
import sqlite3
from pathlib import Path

from usage_events.errors import SpoolUnwritableError

# The disk, the rights or another process: the file itself is what it was.
_MACHINE = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}
_PRIMARY_CODE = 0xFF


def is_damage(error: sqlite3.Error, path: Path) -> bool:
    """Whether the file is not what the spool has written, so that it has to be replaced."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    if code == sqlite3.SQLITE_IOERR_SHORT_READ:
        return True
    primary = code & _PRIMARY_CODE
    if primary == sqlite3.SQLITE_READONLY:  # a damaged header, too, may say that it is read-only
        return _may_write(path)
    return primary not in _MACHINE


def is_full(error: sqlite3.Error) -> bool:
    """Whether the disk has no room."""
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE == sqlite3.SQLITE_FULL


def unwritable(error: sqlite3.Error, path: Path) -> SpoolUnwritableError:
    """The error that says so to the caller, with what to do."""
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
    match code:
        case sqlite3.SQLITE_FULL:
            reason, remedy = "its disk is full", "free space on it, or name another spool_path"
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            reason, remedy = "another process has kept it locked for seconds", "look for one that is stopped"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            reason, remedy = "this user may not write it", "grant the file and its folder, or name another spool_path"
        case _:
            reason, remedy = "its disk fails", "look into the system's log, or name another spool_path"
    return SpoolUnwritableError(f"the spool {path} cannot be written: {reason} ({error}); {remedy}")


def _may_write(path: Path) -> bool:
    return os.access(path.parent, os.W_OK | os.X_OK) and (not path.exists() or os.access(path, os.R_OK | os.W_OK))
