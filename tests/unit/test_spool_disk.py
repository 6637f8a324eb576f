"""The spool on a disk that is full, by itself or by others: refused events are told, no other is lost, all are sent."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from spools import ALL, drain, entry, fill, numbers
from usage_events.errors import SpoolUnwritableError
from usage_events.spool import Spool
from usage_events.spool.database import Database
from usage_events.spool.room import KEPT_FREE_BYTES

DISK_BYTES = 16 * 1024**2
CHUNK_BYTES = 4096  # a page


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Where a spool may be, alone on a small disk."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount the small disk of this test")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(tmp_path)]
    try:
        subprocess.run(mount, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here: {getattr(error, 'stderr', error)}")
    yield tmp_path / "usage.spool"
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def fill_until_refused(spool: Spool, first: int) -> tuple[int, str]:
    """Records events of 1,000 bytes until one is refused: its number, and what was said."""
    for number in range(first, DISK_BYTES // 1000):
        try:
            spool.put(entry(number, 1000))
        except SpoolUnwritableError as error:
            return number, str(error)
    raise AssertionError("the disk holds more than it can")


def take_the_disk(path: Path) -> Path:
    """Somebody else's file that leaves nothing free."""
    other = path.with_name("other")
    with other.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(CHUNK_BYTES)) == CHUNK_BYTES:
                pass
        except OSError:
            return other
    return other


def test_what_fills_its_disk_can_still_be_sent(path: Path) -> None:
    """The spool stops before the disk is full to the brim: it is emptied without any help, and goes on."""
    spool = Spool(path)
    refused, said = fill_until_refused(spool, 0)
    assert said.startswith(f"the spool {path} cannot be written: its disk is full (")
    assert said.endswith(
        f" bytes are free, and {KEPT_FREE_BYTES:,} are kept for sending what it holds);"
        " free space on it, or name another spool_path"
    )
    assert refused * 1000 > DISK_BYTES / 4, "the log does not take the events' room"
    lease = spool.lease(10, ALL)
    assert lease is not None
    spool.settle(lease)
    assert drain(spool) == list(range(10, refused))
    fill(spool, refused, 1000, size_bytes=1000)
    assert drain(spool) == list(range(refused, refused + 1000))
    spool.close()


def test_a_log_is_emptied_after_the_checkpoint_that_runs_already(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite gives up at once beside another checkpoint, and says so in its answer alone: it is asked again."""
    answers = iter([(1, 9, 0), (1, 9, 0), (0, 0, 0)])
    asked: list[str] = []

    class Connection:
        def execute(self, statement: str) -> "Connection":
            asked.append(statement)
            return self

        def fetchone(self) -> tuple[int, int, int]:
            return next(answers)

    database = Database(path)
    with closing(database._connection):
        monkeypatch.setattr(database, "_connection", Connection())
        database.empty_log()
        monkeypatch.undo()
    assert asked == ["PRAGMA wal_checkpoint(TRUNCATE)"] * 3


def test_a_disk_that_others_fill_loses_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Full to the last byte while events are sent: refused, told, and when there is room again all goes on."""
    spool = Spool(path)
    fill(spool, 0, 200, size_bytes=1000)
    sent, unsent = spool.lease(50, ALL), spool.lease(50, ALL)
    assert sent is not None
    assert unsent is not None
    other = take_the_disk(path)
    recorded, said = fill_until_refused(spool, 200)
    assert said.startswith(f"the spool {path} cannot be written: its disk is full (")
    while (more := spool.lease(10, ALL)) is not None:  # the log's last page may have room
        spool.give_back(more)
    assert "nothing is taken out of the spool for now: " in caplog.text
    spool.settle(sent)
    assert "50 events are sent and not yet forgotten: " in caplog.text
    spool.give_back(unsent)
    other.unlink()
    spool.put(entry(recorded, 1000))
    assert drain(spool) == list(range(50, recorded + 1))
    spool.close()


def test_a_process_killed_on_a_full_disk_leaves_everything(path: Path) -> None:
    """Opened anew when there is room, the file holds each event that was recorded, and at most the refused one more.

    That one may stand whole behind the log's end. It is an event that happened: recorded again, its id makes it one.
    """
    spool = Spool(path)
    fill(spool, 0, 100, size_bytes=1000)
    other = take_the_disk(path)
    recorded, _ = fill_until_refused(spool, 100)
    remains = {found.name: found.read_bytes() for found in path.parent.iterdir() if found != other}
    spool.close()
    other.unlink()
    for name, raw in remains.items():
        path.with_name(name).write_bytes(raw)
    reopened = Spool(path)
    lease = reopened.lease(ALL, ALL)
    assert lease is not None
    assert numbers(lease.entries)[:recorded] == list(range(recorded))
    assert len(lease.keys) <= recorded + 1
    reopened.close()
