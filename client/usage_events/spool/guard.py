"""One lock of the kernel's for all processes on a spool: shared while one uses the file, exclusive to replace it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self


class Guard:
    """The lock; threads of one process share it, so they take turns by a lock of their own."""

    def __init__(self, spool_path: Path) -> None:
        self._file = os.open(spool_path.with_name(f"{spool_path.name}-lock"), os.O_CREAT | os.O_RDWR, 0o666)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def share(self) -> None:
        """Until `release` nobody replaces the file."""
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def release(self) -> None:
        """Ends `share`."""
        fcntl.flock(self._file, fcntl.LOCK_UN)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else is at the file."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            self.release()

    def close(self) -> None:
        """Gives the file and the lock up."""
        os.close(self._file)
