"""Who leases events: each open spool is an owner, alive for as long as the kernel holds its file's lock.

The kernel frees the lock when the process ends, however it ends; a process's number could be another's by then.
"""

import contextlib
import fcntl
import os
from glob import escape
from pathlib import Path
from uuid import uuid4


class Owner:
    """This spool's own mark: a file beside the spool's, locked until `close`."""

    def __init__(self, spool_path: Path) -> None:
        while True:
            self.name = uuid4().hex
            self._path = _path(spool_path, self.name)
            self._file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            # Between the two lines another owner may have taken the file for a dead one's and removed it.
            if self._path.exists():
                return
            os.close(self._file)

    def close(self) -> None:
        """Its leases are anybody's from now on."""
        self._path.unlink(missing_ok=True)
        os.close(self._file)

    def abandon(self) -> None:
        """In a forked child: the parent's owner stays the parent's."""
        os.close(self._file)


def bury_dead(spool_path: Path, own_name: str | None) -> bool:
    """Removes the marks of owners that have died; whether another one lives."""
    others_live = False
    prefix = _path(spool_path, "").name
    for path in spool_path.parent.glob(f"{escape(prefix)}*"):
        if path.name.removeprefix(prefix) != own_name:
            others_live = not _bury_if_dead(path) or others_live
    return others_live


def is_alive(spool_path: Path, name: str) -> bool:
    """Whether this owner, not one's own, still lives."""
    return not _bury_if_dead(_path(spool_path, name))


def _path(spool_path: Path, name: str) -> Path:
    return spool_path.with_name(f"{spool_path.name}-owner-{name}")


def _bury_if_dead(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
            return True
        return False
    finally:
        os.close(file)
