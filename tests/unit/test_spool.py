"""The spool as a buffer: order, leases, limits, owners; what it says when it cannot."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
import spools
from spools import drain, entry, fill, numbers
from usage_events.buffer import Lease
from usage_events.errors import BufferFullError, SpoolError, SpoolUnwritableError
from usage_events.spool import Spool
from usage_events.spool.callers import Caller
from usage_events.spool.checkpoints import COMMITS_BETWEEN

MEBIBYTE = 1024 * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a spool may be."""
    return tmp_path / "usage.spool"


def lease(spool: Spool, events: int) -> Lease:
    """A lease of so many."""
    taken = spool.lease(events, spools.ALL)
    assert taken is not None
    assert len(taken.keys) == events
    return taken


def test_events_come_out_in_their_order(path: Path) -> None:
    """What is put in comes out once, the oldest first, byte for byte, and is gone when settled."""
    spool = Spool(path)
    fill(spool, 0, 2500)
    assert (spool.events, spool.bytes) == (2500, sum(len(entry(number).text) for number in range(2500)))
    first = lease(spool, 10)
    assert list(first.entries) == [entry(number) for number in range(10)]
    assert spool.events == 2490
    spool.settle(first)
    assert drain(spool) == list(range(10, 2500))
    assert (spool.events, spool.bytes) == (0, 0)
    assert spool.lease(1, 1) is None


def test_what_is_pending_is_known(path: Path) -> None:
    """A flush waits for what was recorded before it: what waits, and what others send; not for its own leases."""
    spool, other = Spool(path), Spool(path)
    assert not spool.is_pending(spool.youngest_key)
    fill(spool, 0, 10)
    key = spool.youngest_key
    fill(spool, 10, 5)
    assert spool.is_pending(key)
    mine, theirs = lease(spool, 4), lease(other, 6)
    assert spool.is_pending(key)
    other.settle(theirs)
    assert not spool.is_pending(key)
    spool.give_back(mine)
    assert spool.is_pending(key)
    spool.settle(lease(spool, 4))
    assert not spool.is_pending(key)
    assert spool.is_pending(spool.youngest_key)


def test_an_opened_file_goes_on(path: Path) -> None:
    """What was not settled is there for whoever opens the file next; leases end with their spool."""
    first = Spool(path)
    fill(first, 0, 20)
    first.settle(lease(first, 5))
    lease(first, 5)
    first.close()
    first.close()
    second = Spool(path)
    fill(second, 20, 5)
    assert second.events == 20
    assert drain(second) == list(range(5, 25))


def test_a_lease_is_bounded_in_bytes(path: Path) -> None:
    """As many as fit; one that is longer than the bound goes alone."""
    spool = Spool(path)
    fill(spool, 0, 4, size_bytes=1000)
    fill(spool, 4, 1, size_bytes=9000)
    sizes = []
    while (taken := spool.lease(100, 3500)) is not None:
        sizes.append(len(taken.entries))
    assert sizes == [3, 1, 1]


def test_what_is_given_back_is_the_oldest_again(path: Path) -> None:
    """Parts of leases, given back out of order, come again in order, before what was never leased."""
    spool = Spool(path)
    fill(spool, 0, 30)
    first, second = lease(spool, 10), lease(spool, 10)
    spool.give_back(second)
    spool.give_back(first.part([9, 1]))
    spool.settle(first.part([0, 2, 3, 4, 5, 6, 7, 8]))
    assert spool.events == 22
    assert drain(spool) == [1, 9, *range(10, 30)]
    assert (spool.events, spool.bytes) == (0, 0)


def test_the_newest_may_be_settled_first(path: Path) -> None:
    """Numbers and order do not depend on the order in which confirmations come, nor on the file being opened anew."""
    spool = Spool(path)
    fill(spool, 0, 20)
    older, newer = lease(spool, 10), lease(spool, 10)
    spool.settle(newer)
    fill(spool, 20, 3)
    assert spool.events == 3
    spool.give_back(older)
    assert spool.events == 13
    spool.close()
    reopened = Spool(path)
    assert reopened.events == 13
    assert drain(reopened) == [*range(10), 20, 21, 22]


def test_two_spools_share_one_file(path: Path) -> None:
    """No event is leased by two at once; each sees what the other records."""
    one, other = Spool(path), Spool(path)
    fill(one, 0, 10)
    fill(other, 10, 10)
    mine, theirs = lease(one, 8), lease(other, 8)
    assert numbers(mine.entries) + numbers(theirs.entries) == list(range(16))
    assert other.events == 4
    one.give_back(mine)
    assert numbers(lease(other, 4).entries) == [16, 17, 18, 19]
    assert other.lease(1, 1) is None, "what is given back is its owner's still"
    one.close()
    assert numbers(lease(other, 8).entries) == list(range(8))


def test_an_owner_that_is_gone_frees_its_leases(path: Path) -> None:
    """Of a process that was killed only the lock is gone: that is enough, and its mark is removed."""
    spool = Spool(path)
    fill(spool, 0, 10)
    dead = Spool(path)
    lease(dead, 6)
    owner = dead._file._owner
    assert owner is not None
    os.close(owner._file)  # as the kernel does
    assert drain(spool) == list(range(10))
    assert not owner._path.exists()
    dead._file._owner = None
    dead.close()


def test_a_lease_that_somebody_else_has_is_not_forgotten(path: Path) -> None:
    """Who was taken for dead settles nothing of what another one sends by now."""
    spool, slow = Spool(path), Spool(path)
    fill(spool, 0, 5)
    lost = lease(slow, 5)
    spool._file.run(lambda database: database.free(slow._file.owner_name))
    taken = lease(spool, 5)
    slow.settle(lost)
    spool.give_back(taken)
    assert drain(spool) == list(range(5))


def test_a_full_spool_refuses(path: Path) -> None:
    """Past its bytes an event is the caller's again, with an error that says how much there is; the file is bounded."""
    spool = Spool(path, bytes_max=MEBIBYTE)
    with pytest.raises(BufferFullError) as raised:
        fill(spool, 0, 10_000, size_bytes=1000)
    assert str(raised.value) == (
        f"the spool {path} is full: 1,012 events of 1,012,000 bytes, the limit is spool_bytes_max=1,048,576;"
        " is RabbitMQ away? Record it again later, or raise the limit"
    )
    assert spool.events == 1012
    assert path.stat().st_size < 1.5 * MEBIBYTE
    spool.settle(lease(spool, 1))
    fill(spool, 1012, 1, size_bytes=1000)
    assert drain(spool) == list(range(1, 1013))


def test_a_full_spool_drops_the_oldest(path: Path) -> None:
    """With drop_oldest the newest are kept; what is leased is not dropped; each that is dropped is counted."""
    dropped: list[int] = []
    spool = Spool(path, bytes_max=MEBIBYTE, when_full="drop_oldest", on_dropped=dropped.append)
    fill(spool, 0, 5, size_bytes=1000)
    taken = lease(spool, 5)
    fill(spool, 5, 2000, size_bytes=1000)
    assert sum(dropped) == 2005 - 1012
    spool.give_back(taken)
    assert drain(spool) == [*range(5), *range(2005 - 1007, 2005)]


def test_nothing_is_dropped_where_all_is_on_its_way(path: Path) -> None:
    """Where every event is leased there is nothing to drop, and the new one is refused."""
    spool = Spool(path, bytes_max=MEBIBYTE, when_full="drop_oldest")
    fill(spool, 0, 1012, size_bytes=1000)
    lease(spool, 1012)
    with pytest.raises(BufferFullError):
        fill(spool, 1012, 1, size_bytes=1000)


def test_threads_share_commits(path: Path) -> None:
    """Events of threads that record at once are all there, each thread's in its order."""
    spool = Spool(path)
    started = Barrier(8)

    def record(thread: int) -> None:
        started.wait()
        fill(spool, thread * 1000, 200)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(record, range(8)))
    found = drain(spool)
    assert sorted(found) == [thread * 1000 + number for thread in range(8) for number in range(200)]
    for thread in range(8):
        own = [number for number in found if number // 1000 == thread]
        assert own == sorted(own)


def test_who_is_interrupted_takes_no_others_event_along(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time limit strikes one of eight threads that share a commit: the others' events are kept, and his is not."""
    spool = Spool(path)
    run = spool._file.run
    interrupts: list[Exception] = [InterruptedError("a signal")]

    def interrupted(operation: Any) -> Any:
        if interrupts:
            raise interrupts.pop()
        return run(operation)

    def record(number: int) -> int | None:
        try:
            spool.put(entry(number))
        except InterruptedError:
            return None
        return number

    monkeypatch.setattr(spool._file, "run", interrupted)
    add, here = spool._callers.add, Barrier(8)

    def add_together(frame: bytes) -> Caller:
        caller = add(frame)
        here.wait()  # all of them wait for the commit that is struck
        return caller

    monkeypatch.setattr(spool._callers, "add", add_together)
    with ThreadPoolExecutor(8) as pool:
        kept = [number for number in pool.map(record, range(8)) if number is not None]
    assert len(kept) == 7
    assert sorted(drain(spool)) == sorted(kept)


def test_a_group_that_does_not_fit_is_told_apart(path: Path) -> None:
    """Of threads that record together into a nearly full spool, some succeed and some get the error; none gets both."""
    spool = Spool(path, bytes_max=MEBIBYTE)
    fill(spool, 0, 1000, size_bytes=1000)
    started = Barrier(8)

    def record(thread: int) -> list[int]:
        started.wait()
        kept = []
        for number in range(1000 + 10 * thread, 1010 + 10 * thread):
            try:
                spool.put(entry(number, 1000))
                kept.append(number)
            except BufferFullError:
                pass
        return kept

    with ThreadPoolExecutor(8) as pool:
        kept = [number for numbers in pool.map(record, range(8)) for number in numbers]
    assert len(kept) == 12
    assert sorted(drain(spool)[1000:]) == sorted(kept)


def test_the_log_is_brought_into_the_file_beside_the_callers(path: Path) -> None:
    """After many commits a checkpoint is made by a thread, and the file holds what the log held."""
    spool = Spool(path)
    fill(spool, 0, COMMITS_BETWEEN - 1, size_bytes=400)
    before = path.stat().st_size
    fill(spool, COMMITS_BETWEEN, 1)
    spool._checkpoints.pause()  # waits for it
    spool._checkpoints.resume()
    assert path.stat().st_size > before + COMMITS_BETWEEN * 400


def test_a_checkpoint_without_a_thread_is_made_later(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the machine gives no thread, events are kept and the spool closes all the same; the log says so."""

    def start(_: Thread) -> None:
        raise RuntimeError("can't start new thread")

    spool = Spool(path)
    with monkeypatch.context() as patch:
        patch.setattr(Thread, "start", start)
        fill(spool, 0, COMMITS_BETWEEN)
    assert caplog.messages == [f"the spool {path}: no checkpoint was made (can't start new thread)"]
    closing = Thread(target=spool.close, daemon=True)
    closing.start()
    closing.join(30)
    assert not closing.is_alive()


def test_an_emptied_spool_gives_its_disk_back(path: Path) -> None:
    """After a long outage the file becomes small again."""
    spool = Spool(path)
    fill(spool, 0, 4000, size_bytes=1000)
    spool.close()
    assert path.stat().st_size > 4_000_000
    spool = Spool(path)
    assert len(drain(spool)) == 4000
    spool.close()
    assert path.stat().st_size < 100_000


def test_a_missing_folder_is_said_at_the_start(path: Path) -> None:
    """The error names the folder and what to do."""
    with pytest.raises(SpoolError) as raised:
        Spool(path / "absent" / "spool")
    assert str(raised.value) == (
        f"the spool's folder {path / 'absent'} does not exist, or this user may not enter it; create or grant it,"
        " or name another spool_path"
    )


def test_a_folder_is_no_spool(tmp_path: Path) -> None:
    """A folder's path is refused."""
    with pytest.raises(SpoolError, match=r"is a folder; name a file as spool_path$"):
        Spool(tmp_path)


def test_a_read_only_folder_is_said_at_the_start() -> None:
    """A user who may not write there is told so at the start (root may everything: then the test is nobody's)."""
    code = """
import os
from usage_events.spool import Spool
if os.geteuid() == 0:
    os.setuid(65534)
Spool("/proc/spool")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stderr.endswith(
        "SpoolError: the spool's folder /proc may not be written by this user; SQLite needs it. Grant it, or name"
        " another spool_path\n"
    )


def test_another_programs_file_is_left_alone(path: Path) -> None:
    """An SQLite file with other tables is refused, and not touched."""
    import sqlite3

    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE orders (id INTEGER)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(SpoolError, match=r"is another program's SQLite file; name another spool_path$"):
        Spool(path)
    assert path.read_bytes() == before


def test_arguments_are_judged(path: Path) -> None:
    """Limits that make no sense are named with the least one."""
    with pytest.raises(ValueError, match=r"^spool_bytes_max is 1,000; the least is 1,048,576, one message$"):
        Spool(path, bytes_max=1000)
    with pytest.raises(ValueError, match=r"^spool_sync is 'off'; it is 'normal' or 'full'$"):
        Spool(path, sync="off")  # type: ignore[arg-type]


def test_a_closed_spool_takes_nothing(path: Path) -> None:
    """After `close` an event is refused instead of being forgotten."""
    spool = Spool(path)
    spool.close()
    with pytest.raises(SpoolUnwritableError, match=r"is closed; make another publisher$"):
        spool.put(entry(1))


def test_a_file_that_is_taken_away_is_made_anew(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who removes the file removes its events; recording goes on in a new one, with a word in the log."""
    spool = Spool(path)
    fill(spool, 0, 5)
    path.unlink()
    fill(spool, 5, 5)
    assert drain(spool) == [5, 6, 7, 8, 9]
    assert "another file stands at" in caplog.text


FILL_THE_DISK = """
import resource, signal, sys
from spools import ALL, drain, entry
from usage_events.errors import SpoolUnwritableError
from usage_events.spool import Spool

spool = Spool(sys.argv[1])
recorded = 0
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
try:
    while True:
        spool.put(entry(recorded, 1000))
        recorded += 1
except SpoolUnwritableError as error:
    print(error)
lease = spool.lease(1, ALL)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
spool.put(entry(recorded, 1000))
if lease is not None:
    spool.give_back(lease)
assert drain(spool) == list(range(recorded + 1)), "something is lost"
print(recorded)
"""


def test_a_disk_that_takes_no_more_is_an_error_with_a_remedy(path: Path) -> None:
    """Where the file cannot grow the event is refused and nothing is lost; with room again, recording goes on."""
    ended = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, path],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(spools.__file__).parent)},
    )
    assert ended.returncode == 0, ended.stderr
    said, recorded = ended.stdout.splitlines()
    assert said.startswith(f"the spool {path} cannot be written: its disk ")
    assert said.endswith("or name another spool_path")
    assert int(recorded) > 20
