"""The file behind a spool: opened when first needed, mended when damaged, noticed when another has replaced it."""

import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from usage_events.buffer import Sync
from usage_events.errors import SpoolError, SpoolUnwritableError
from usage_events.spool import recovery
from usage_events.spool.database import Database
from usage_events.spool.faults import is_damage, is_full, unwritable
from usage_events.spool.guard import Guard
from usage_events.spool.owners import Owner, bury_dead

_ATTEMPTS_MAX = 5

_logger = logging.getLogger("usage_events.spool")

_Result = TypeVar("_Result")


class SpoolFile:
    """Runs operations on the database. One thread at a time."""

    def __init__(
        self, path: Path, sync: Sync, on_replaced: Callable[[Database], None], on_damaged: recovery.OnDamaged
    ) -> None:
        """Hears of damage.

        Args:
            path: the file.
            sync: what a commit waits for.
            on_replaced: another file stands in this one's place: what was leased from the old one is void.
            on_damaged: how many events are not whole any more.
        """
        self.path = path
        self._sync: Sync = sync
        self._on_replaced = on_replaced
        self._on_damaged = on_damaged
        self._identity: tuple[int, int] | None = None
        self._guard: Guard | None = None
        self._owner: Owner | None = None
        self._database: Database | None = None

    @property
    def owner_name(self) -> str:
        """The name under which this process leases."""
        if self._owner is None:
            self._owner = Owner(self.path)
        return self._owner.name

    def check_folder(self) -> None:
        """Says early, and clearly, what SQLite would say late.

        Raises:
            SpoolError: the folder is missing, or it or the file may not be written.
        """
        folder = self.path.parent
        if not os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir raises where one may not enter
            raise SpoolError(
                f"the spool's folder {folder} does not exist, or this user may not enter it; create or grant it, or"
                " name another spool_path"
            )
        if not os.access(folder, os.W_OK | os.X_OK):
            raise SpoolError(
                f"the spool's folder {folder} may not be written by this user; SQLite needs it. Grant it, or name"
                " another spool_path"
            )
        if self.path.is_dir():
            raise SpoolError(f"the spool {self.path} is a folder; name a file as spool_path")
        if self.path.exists() and not os.access(self.path, os.R_OK | os.W_OK):
            raise SpoolError(f"the spool {self.path} may not be read and written by this user; grant it")

    def open(self) -> None:
        """Opens it now.

        Raises:
            SpoolError: it cannot be used.
        """
        self.check_folder()
        try:
            self._open()
        except sqlite3.Error as error:
            raise SpoolError(str(unwritable(error, self.path))) from error
        except OSError as error:
            raise SpoolError(f"the spool {self.path} cannot be opened: {error}; name another spool_path") from error

    def run(self, operation: Callable[[Database], _Result]) -> _Result:
        """What the operation returns; where the file is damaged it is mended, and the operation done on the new one.

        Raises:
            SpoolUnwritableError: the machine does not let us.
        """
        try:
            for _ in range(_ATTEMPTS_MAX):
                guard, database = self._ready()
                guard.share()
                try:
                    if database.identity == _identity(self.path):
                        return _done(operation, database)
                except sqlite3.Error as error:
                    if not is_damage(error, self.path):
                        raise
                    damage: sqlite3.Error | None = error
                else:
                    damage = None
                finally:
                    guard.release()
                self._renew(guard, database, damage)
        except sqlite3.Error as error:
            raise unwritable(error, self.path) from error
        except OSError as error:
            raise SpoolUnwritableError(
                f"the spool {self.path} cannot be written: {error}; free space or grant it, or name another spool_path"
            ) from error
        raise SpoolUnwritableError(f"the spool {self.path} is damaged again and again; look for what writes to it")

    def release(self) -> None:
        """Closes everything but the owner's mark: the next operation opens it anew."""
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def close(self) -> None:
        """Closes everything."""
        self.release()
        if self._owner is not None:
            self._owner.close()
            self._owner = None

    def abandon_owner(self) -> None:
        """In a forked child: the parent keeps its leases, and this process gets a name of its own."""
        if self._owner is not None:
            self._owner.abandon()
            self._owner = None

    def _ready(self) -> tuple[Guard, Database]:
        if self._guard is None or self._database is None:
            return self._open()
        return self._guard, self._database

    def _open(self) -> tuple[Guard, Database]:
        guard = self._guard = self._guard or Guard(self.path)
        with guard.alone():
            own = self._owner.name if self._owner is not None else None
            is_alone = not bury_dead(self.path, own)
            database = recovery.open_database(self.path, self._sync, self._on_damaged, is_alone=is_alone)
            self._set(database)
            self._owner = self._owner or Owner(self.path)  # from now on the others see that somebody is here
        return guard, database

    def _renew(self, guard: Guard, database: Database, damage: sqlite3.Error | None) -> None:
        with guard.alone():
            self._database = None
            if damage is not None and database.identity == _identity(self.path):
                log = recovery.read_log(self.path)
                database.close()
                self._set(recovery.rebuild(self.path, self._sync, log, damage, self._on_damaged))
            else:  # another process has replaced it
                _logger.warning("another file stands at %s than a moment ago; the spool goes on with it", self.path)
                database.close()
                self._set(recovery.open_database(self.path, self._sync, self._on_damaged, is_alone=False))

    def _set(self, database: Database) -> None:
        self._database = database
        if self._identity not in {None, database.identity}:
            self._on_replaced(database)
        self._identity = database.identity


def _done(operation: Callable[[Database], _Result], database: Database) -> _Result:
    """What it returns; done again where the disk was full, and emptying the log has made room for it."""
    try:
        return operation(database)
    except sqlite3.Error as error:
        if not is_full(error):
            raise
        database.empty_log()
    return operation(database)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - twice as fast as Path.stat, and done for every event
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
