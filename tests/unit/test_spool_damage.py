"""A damaged spool: what is whole in it goes on, what is not is kept aside and said, and no caller meets an error."""

import logging
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spools import drain, entry, fill, kept_aside, numbers
from usage_events.spool import Spool, frames, recovery
from usage_events.spool.database import Database

COUNT = 120
PAGE_BYTES = 4096
WAL_FRAME_BYTES = PAGE_BYTES + 24
LARGE_BYTES = 9000  # longer than a page


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a spool may be."""
    return tmp_path / "usage.spool"


def left_behind(path: Path, *, checkpointed: int, count: int = COUNT, size_bytes: int = 300) -> None:
    """The files of a process that was killed: some events in the file, the others in its log."""
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder) / "spool")
        fill(spool, 0, checkpointed, size_bytes)
        spool._file.run(Database.checkpoint)
        fill(spool, checkpointed, count - checkpointed, size_bytes)
        for suffix in ("", "-wal"):
            shutil.copy(f"{spool.path}{suffix}", f"{path}{suffix}")
        spool.close()


@pytest.fixture(scope="module")
def remains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a killed process's files: half of the events in `spool`, half in `spool-wal`."""
    folder = tmp_path_factory.mktemp("remains")
    left_behind(folder / "spool", checkpointed=COUNT // 2)
    return folder


def flip(path: Path, *places: int) -> None:
    """Makes each of these bytes another one."""
    raw = bytearray(path.read_bytes())
    for place in places:
        raw[place % len(raw)] ^= 0xFF
    path.write_bytes(raw)


def drained(path: Path) -> list[int]:
    """The numbers of all that a spool on this file sends."""
    spool = Spool(path)
    try:
        return drain(spool)
    finally:
        spool.close()


def wal(path: Path) -> Path:
    """The log of a spool."""
    return path.with_name(f"{path.name}-wal")


def test_a_killed_process_leaves_everything(path: Path) -> None:
    """File and log as they are after SIGKILL hold all that was recorded; nothing is damaged, nothing is kept aside."""
    left_behind(path, checkpointed=50)
    assert drained(path) == list(range(COUNT))
    assert kept_aside(path) == []


def test_events_behind_a_damaged_piece_of_the_log_go_on(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SQLite forgets the log from its first damaged page on; the spool takes what follows, and says so."""
    left_behind(path, checkpointed=10)
    flip(wal(path), 32 + 30 * WAL_FRAME_BYTES + 100)
    spool = Spool(path)
    found = drain(spool)
    assert set(found) == set(range(COUNT))
    assert len(kept_aside(path)) == 1
    assert "the log of the spool" in caplog.text
    assert "events behind the damage are found and go on" in caplog.text
    spool.close()


def test_a_torn_log_ends_where_it_is_torn(path: Path) -> None:
    """Of a log that was cut off (a power cut), what stands before the cut is there, in order."""
    left_behind(path, checkpointed=10)
    whole = wal(path).read_bytes()
    wal(path).write_bytes(whole[: len(whole) // 2 + 7])
    found = drained(path)
    assert found == list(range(len(found)))
    assert 30 < len(found) < 100


def test_garbage_is_kept_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is no database is replaced; it is kept under a name that says so, which the log names."""
    path.write_bytes(b"no database at all " * 1000)
    spool = Spool(path)
    fill(spool, 0, 3)
    assert drain(spool) == [0, 1, 2]
    (aside,) = kept_aside(path)
    assert (path.parent / aside).read_bytes().startswith(b"no database at all")
    assert f"the damaged one is kept as {path.parent / aside}" in caplog.text
    spool.close()


def test_a_file_without_its_first_page_is_read_all_the_same(path: Path) -> None:
    """Where SQLite can read nothing, the events are found in the bytes, in their order."""
    left_behind(path, checkpointed=COUNT)
    wal(path).unlink()
    raw = path.read_bytes()
    path.write_bytes(b"\0" * PAGE_BYTES + raw[PAGE_BYTES:])
    assert drained(path) == list(range(COUNT))


def test_a_truncated_file_loses_only_what_is_cut_off(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What stands in the pages that are left goes on, and the log says what happened."""
    left_behind(path, checkpointed=COUNT)
    wal(path).unlink()
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    found = drained(path)
    assert set(found) <= set(range(COUNT))
    assert len(found) > COUNT // 4
    assert len(kept_aside(path)) == 1
    assert "was damaged" in caplog.text


def test_events_longer_than_a_page_are_read_around_the_damage(path: Path) -> None:
    """Where the tree still stands, events whose bytes are scattered over pages are read, too."""
    left_behind(path, checkpointed=30, count=30, size_bytes=LARGE_BYTES)
    wal(path).unlink()
    raw = path.read_bytes()
    place = raw.index(b'{"number":15}')
    flip(path, place - place % PAGE_BYTES)  # the kind of the page
    found = drained(path)
    assert set(found) <= set(range(30))
    assert len(found) >= 25


def test_a_changed_digit_is_not_sent(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An event that is not what was recorded is kept aside with a word in the log; its neighbours are sent."""
    left_behind(path, checkpointed=COUNT)
    wal(path).unlink()
    flip(path, path.read_bytes().index(b'{"number":77}') + 11)
    damaged: list[int] = []
    spool = Spool(path, on_damaged=damaged.append)
    assert drain(spool) == [number for number in range(COUNT) if number != 77]
    assert sum(damaged) == 1
    assert (spool.events, spool.bytes) == (0, 0)
    assert kept_aside(path) == [f"{path.name}.damaged-events"]
    assert "1 events in the spool" in caplog.text
    spool.close()


@pytest.mark.parametrize("is_file_damaged", [False, True])
def test_a_damaged_event_counts_once(path: Path, *, is_file_damaged: bool) -> None:
    """The log holds many copies of a page: only an event of which none is whole is lost, and it counts as one."""
    left_behind(path, checkpointed=COUNT // 2)
    raw = wal(path).read_bytes()
    copies = {number: [found.start() for found in re.finditer(b'{"number":%d}' % number, raw)] for number in (77, 78)}
    assert min(map(len, copies.values())) > 1
    flip(wal(path), *(place + 11 for place in (*copies[77], copies[78][0])))
    if is_file_damaged:
        flip(path, 0)
    damaged: list[int] = []
    spool = Spool(path, on_damaged=damaged.append)
    assert set(drain(spool)) == set(range(COUNT)) - {77}
    assert sum(damaged) == 1
    spool.close()


@pytest.mark.parametrize("offset", range(-7, 0))
def test_an_event_behind_a_damaged_row_head_is_found(path: Path, offset: int) -> None:
    """With a flipped byte in what says how long a row is, SQLite reads other bytes; no event is lost."""
    left_behind(path, checkpointed=COUNT)
    wal(path).unlink()
    raw = path.read_bytes()
    start = raw.rindex(frames.MAGIC, 0, raw.index(b'{"number":77}'))
    flip(path, start + offset)
    assert set(drained(path)) == set(range(COUNT))


def test_damage_that_is_met_later_is_mended_then(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While the spool is open its file is overwritten: recording goes on, what is whole is sent, leases are void."""
    spool = Spool(path)
    fill(spool, 0, COUNT, 300)
    spool._file.run(Database.checkpoint)
    taken = spool.lease(10, 10**6)
    assert taken is not None
    with path.open("r+b") as file:
        file.seek(PAGE_BYTES)
        file.write(b"\xff" * PAGE_BYTES * 3)
    other = Spool(path)  # whose cache is empty: it meets the damage
    fill(other, COUNT, 10)
    spool.settle(taken)
    found = drain(other) + drain(spool)
    assert set(range(COUNT, COUNT + 10)) <= set(found)
    assert set(found) <= set(range(COUNT + 10))
    assert len(found) > COUNT // 2
    assert kept_aside(path)
    assert "was damaged" in caplog.text
    spool.close()
    other.close()


@pytest.mark.parametrize("stage", ["rebuilding", "log moved", "file moved"])
def test_an_interrupted_recovery_is_taken_up(path: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any step of replacing the file, the next start ends with every event that was whole."""
    left_behind(path, checkpointed=COUNT // 2)
    raw = path.read_bytes()
    place = raw.index(b'{"number":5}')
    flip(path, place - place % PAGE_BYTES)  # the kind of a page that is not in the log
    calls = {"rebuilding": "rebuilt", "log moved": f"{path.name}.damaged", "file moved": path.name}
    rename = Path.rename

    def killed(source: Path, target: Path) -> Path:
        is_it = target.name.endswith(calls[stage]) or (stage == "log moved" and target.name.startswith(calls[stage]))
        if is_it:
            raise KeyboardInterrupt
        return rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            Spool(path)
    assert set(drained(path)) == set(range(COUNT))
    assert not path.with_name(f"{path.name}.rebuilt").exists()


places = st.lists(st.integers(0, 2**20), min_size=1, max_size=12)


@contextmanager
def copied(remains: Path) -> Iterator[Path]:
    """A copy of the remains, to be damaged."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copytree(remains, Path(folder) / "copy")) / "spool"


class Said(logging.Handler):
    """The errors that the spool logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps it."""
        self.records.append(record)


def survives(path: Path) -> set[int]:
    """What is sent after the damage; nothing is lost or changed without a word, and the spool serves on."""
    said = Said()
    logger = logging.getLogger("usage_events.spool")
    logger.addHandler(said)
    try:
        spool = Spool(path)
        fill(spool, COUNT, 3)
        found = drain(spool)
        spool.close()
    finally:
        logger.removeHandler(said)
    assert set(found) <= set(range(COUNT + 3)), "an event that was never recorded"
    assert {COUNT, COUNT + 1, COUNT + 2} <= set(found)
    if set(found) != set(range(COUNT + 3)):
        assert kept_aside(path), "events are missing, and nothing is kept aside"
        assert said.records, "events are missing, and nothing is said"
    return set(found)


def whole_in(*raws: bytes) -> set[int]:
    """The events whose frames are whole in these bytes."""
    read = (frames.frame_at(raw, start) for raw in raws for start in frames.starts(raw))
    return set(numbers([frame.entry for frame in read if frame is not None]))


@settings(max_examples=40, deadline=None)
@given(places=places)
def test_flipped_bytes_of_the_file(remains: Path, places: list[int]) -> None:
    """Any bytes of the database: nothing that is whole is lost, nothing is lost without a word."""
    with copied(remains) as path:
        flip(path, *places)
        whole = whole_in(path.read_bytes(), wal(path).read_bytes())
        assert survives(path) >= whole


@settings(max_examples=40, deadline=None)
@given(places=places)
def test_flipped_bytes_of_the_head(remains: Path, places: list[int]) -> None:
    """Bytes of the header and the schema, where each means something; without a log that has them, too."""
    with copied(remains) as path:
        wal(path).unlink()
        flip(path, *(place % 100 for place in places))
        flip(path, *(PAGE_BYTES - 1 - place % 700 for place in places))
        whole = whole_in(path.read_bytes())
        assert len(whole) == COUNT // 2
        assert set(drained(path)) == whole


@settings(max_examples=40, deadline=None)
@given(places=places)
def test_flipped_bytes_of_the_log(remains: Path, places: list[int]) -> None:
    """Any bytes of the log: every event that is whole somewhere is sent."""
    with copied(remains) as path:
        flip(wal(path), *places)
        whole = whole_in(path.read_bytes(), wal(path).read_bytes())
        assert survives(path) >= whole


@settings(max_examples=40, deadline=None)
@given(kept=st.floats(0, 1))
def test_a_cut_tail_of_the_file(remains: Path, kept: float) -> None:
    """The file is cut off anywhere."""
    with copied(remains) as path:
        raw = path.read_bytes()
        path.write_bytes(raw[: int(len(raw) * kept)])
        whole = whole_in(path.read_bytes(), wal(path).read_bytes())
        assert survives(path) >= whole


@settings(max_examples=40, deadline=None)
@given(kept=st.floats(0, 1))
def test_a_cut_tail_of_the_log(remains: Path, kept: float) -> None:
    """The log is cut off anywhere: nobody can say what it held, and what is left is a beginning."""
    with copied(remains) as path:
        raw = wal(path).read_bytes()
        wal(path).write_bytes(raw[: int(len(raw) * kept)])
        found = drained(path)
        assert found == list(range(len(found)))
        assert len(found) >= COUNT // 2


def test_frames_are_found_among_anything() -> None:
    """Whole frames are read from between garbage and from behind a broken one."""
    first, second = frames.encode(entry(1), 1), frames.encode(entry(2), 2)
    raw = b"garbage" + first + first[:20] + second + frames.MAGIC
    read = [frames.frame_at(raw, start) for start in frames.starts(raw)]
    assert [None if one is None else one.entry for one in read] == [entry(1), None, entry(2), None]
    assert frames.decode(first + b" ") is None
    assert frames.decode(b"") is None


def test_what_is_no_damage_is_not_mended(path: Path) -> None:
    """A full disk while the file is read is the caller's to know, not a reason to replace the file."""
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    with pytest.raises(sqlite3.OperationalError):
        recovery.rebuild(path, "normal", b"", error, on_damaged=lambda _: None)
    assert list(path.parent.iterdir()) == []
