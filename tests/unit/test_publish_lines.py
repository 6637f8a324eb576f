"""What `publish` does with lines: cutting, judging and pacing them, without a broker."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from usage_events.envelope import MESSAGE_BYTES_MAX, MESSAGE_EVENTS_MAX
from usage_events.errors import UnroutableError
from usage_events.publisher import UsagePublisher

from worker.commands.publish import EVENTS_PER_MESSAGE_MAX, Counts
from worker.errors import ConfigurationError
from worker.ndjson import Line, LineSplitter, read_chunks
from worker.publishing.csv_events import Recipe
from worker.publishing.files import CsvFiles
from worker.publishing.lines import LinePublisher, LineRules, Pace, TracePace

NOW_US = 1_772_000_000_000_000  # 2026-02-25T06:13:20Z
RULES = LineRules(max_age_seconds=3_024_000, max_ahead_seconds=300)
LIMIT = 16


def event(**changes: object) -> bytes:
    """A line that is right, but for the changes."""
    fields: dict[str, object] = {
        "id": str(uuid4()),
        "user_id": str(uuid4()),
        "organization_id": str(uuid4()),
        "input_tokens": 3,
        "created_at": "2026-02-25T06:00:00Z",
    }
    return json.dumps(fields | changes).encode()


class FakePublisher:
    """Stands in for the connection: keeps what is sent, and answers each time alike."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.sent: list[list[bytes]] = []

    async def send(self, events: list[bytes]) -> "asyncio.Future[list[None]]":
        """Answers at once, as the error says."""
        self.sent.append(events)
        answer: asyncio.Future[list[None]] = asyncio.get_running_loop().create_future()
        if self.error is None:
            answer.set_result([])
        else:
            answer.set_exception(self.error)
        return answer


def make(publisher: FakePublisher, refused: list[str], **changes: Any) -> LinePublisher:
    """A line publisher on the fake, which judges nothing unless told to."""
    options: dict[str, Any] = {"events_per_message": 2, "rules": None, "pace": None, "on_refused": refused.extend}
    return LinePublisher(cast("UsagePublisher", publisher), **(options | changes))


@given(st.lists(st.binary(max_size=LIMIT).filter(lambda text: b"\n" not in text)), st.integers(1, 9), st.booleans())
def test_lines_are_whole_however_the_file_arrives(texts: list[bytes], piece_bytes: int, ends: bool) -> None:  # noqa: FBT001 - drawn
    """Whatever pieces a file comes in, its lines come out whole, in order and numbered from 1."""
    data = b"\n".join(texts) + (b"\n" if ends and texts else b"")
    splitter = LineSplitter(LIMIT)
    pieces = [data[start : start + piece_bytes] for start in range(0, len(data), piece_bytes)]
    lines = [line for piece in pieces for line in splitter.feed(piece)] + list(splitter.finish())
    expected = data.split(b"\n")
    if not expected[-1]:
        expected.pop()  # the file ends with a line's end: no line follows
    assert lines == [Line(number, text) for number, text in enumerate(expected, start=1)]


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000])
def test_an_endless_line_is_cut_off(piece_bytes: int) -> None:
    """Of a line past the limit only one byte more is kept, and the next line is found again."""
    data = b"x" * 500 + b"\nnext\n"
    splitter = LineSplitter(LIMIT)
    lines: list[Line] = []
    for start in range(0, len(data), piece_bytes):
        lines += splitter.feed(data[start : start + piece_bytes])
        assert len(splitter._rest) <= LIMIT + 1
    assert lines == [Line(1, b"x" * (LIMIT + 1)), Line(2, b"next")]


async def test_reads_a_file_in_chunks(tmp_path: Path) -> None:
    """Every byte of the file is accounted for, and a last line without an end is a line."""
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"one\ntwo")
    chunks = [chunk async for chunk in read_chunks(str(path), LIMIT)]
    assert [line for chunk in chunks for line in chunk.lines] == [Line(1, b"one"), Line(2, b"two")]
    assert sum(chunk.size_bytes for chunk in chunks) == 7


async def test_a_silent_pipe_does_not_hold_up_the_loop(tmp_path: Path) -> None:
    """While a named pipe has no writer, other work goes on; its lines arrive when they are written."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    chunks = read_chunks(str(path), LIMIT)
    reading = asyncio.ensure_future(anext(chunks))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not reading.done()
    with await asyncio.to_thread(path.open, "wb") as pipe:
        pipe.write(b"late\n")
    assert (await reading).lines == [Line(1, b"late")]
    await chunks.aclose()


def test_a_good_line_has_no_problems() -> None:
    """What the worker will store is not refused."""
    assert RULES.problems(event(), NOW_US) == []


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (b"[]", ["an array; write one event a line"]),
        (b"7", ["must be an object or an array of objects"]),
        (b'{"id":', ["the text ends where a value is expected, at byte 6"]),
        (event(input_tokens=-1), ["input_tokens: Input should be greater than or equal to 0"]),
        (event(tokens_used=2), ["tokens_used: 2 is less than its part 3"]),
        (event(created_at="2026-02-25T07:00:00Z"), ["created_at: 2500.000000 s later than what is accepted"]),
        (event(created_at="2026-01-01T00:00:00Z"), ["created_at: 1750400.000000 s older than what is accepted"]),
        (event(**{"\x1b[31m": 1}), ["\\x1b[31m: unknown field"]),
    ],
)
def test_problems_name_field_and_fault(text: bytes, problems: list[str]) -> None:
    """Each fault is told by field and message, in characters that leave a terminal alone."""
    assert RULES.problems(text, NOW_US) == problems


def test_all_problems_of_a_line_are_told() -> None:
    """A line with two faults need not be tried twice."""
    assert len(RULES.problems(event(input_tokens="3", endpoint=7), NOW_US)) == 2


def test_pace_spreads_events() -> None:
    """At 100 events a second, messages of 50 go every half second."""
    pace = Pace(100)
    assert [pace.delay(50, 10.0), pace.delay(50, 10.0), pace.delay(50, 10.5)] == [0.0, 0.5, 0.5]


def test_pace_catches_up_one_second_at_most() -> None:
    """After a minute's outage the lost time makes no burst: one second's worth goes at once, the rest in turn."""
    pace = Pace(100)
    pace.delay(50, 0.0)
    assert [pace.delay(50, 60.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_a_trace_keeps_its_spacing() -> None:
    """Sixty times faster, a minute is a second; what is late or out of order goes at once."""
    pace = TracePace(60)
    minute_us = 60_000_000
    assert [pace.delay(at * minute_us, 10.0) for at in (5, 6, 8, 4)] == [0.0, 1.0, 3.0, 0.0]
    assert [pace.delay(at * minute_us, 12.5) for at in (6, 8)] == [0.0, 0.5]


def csv_file(folder: Path, *seconds: float) -> str:
    """A file with a row for each time, in seconds since a minute."""
    path = folder / "calls.csv"
    rows = "".join(f"2026-02-25 06:00:{second:09.6f},{number}\n" for number, second in enumerate(seconds))
    path.write_text(f"created_at,input_tokens\n{rows}")
    return str(path)


def csv_files(said: list[str]) -> CsvFiles:
    """Reads such files."""
    return CsvFiles(Recipe(id_source="tests"), ",", needs_times=True, say=said.append)


async def test_events_that_are_due_together_go_together(tmp_path: Path) -> None:
    """A pause of the trace ends a message: nothing is held back until a message is full, nor sent before its time."""
    path, publisher, said = csv_file(tmp_path, 0, 0, 0.05, 0.05, 0.05), FakePublisher(), list[str]()
    await make(publisher, [], events_per_message=10, pace=TracePace(1)).publish([path], csv_files(said).read)
    tokens = [[json.loads(text)["input_tokens"] for text in group] for group in publisher.sent]
    assert tokens == [[0, 1], [2, 3, 4]]
    assert said == [f"{path}: times without an offset were taken as UTC"]


async def test_times_are_moved_so_that_the_newest_is_the_given_one(tmp_path: Path) -> None:
    """One offset for all, whatever the order of the rows, and no more events than rows."""
    path, publisher = csv_file(tmp_path, 3, 59.5, 1), FakePublisher()
    files = csv_files([])
    assert await files.shift_to(NOW_US, [path]) == NOW_US - (1_771_999_259_500_000 - 60_000_000 * 0)
    await make(publisher, []).publish([path], files.read)
    times = [json.loads(text)["created_at"] for group in publisher.sent for text in group]
    assert times == ["2026-02-25T06:12:23.500000Z", "2026-02-25T06:13:20.000000Z", "2026-02-25T06:12:21.500000Z"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "calls.csv is empty: its first line must name the columns"),
        ("time,input_tokens\n", "name it with --map created_at=COLUMN; the columns are: time, input_tokens"),
    ],
)
async def test_a_file_that_does_not_fit_is_an_error(tmp_path: Path, text: str, error: str) -> None:
    """It is told before anything of it is sent."""
    path, publisher = tmp_path / "calls.csv", FakePublisher()
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=error):
        await make(publisher, []).publish([str(path)], csv_files([]).read)
    assert publisher.sent == []


async def test_there_must_be_a_time_to_move(tmp_path: Path) -> None:
    """A file without rows, and standard input, which cannot be read twice, are told."""
    with pytest.raises(ConfigurationError, match="has a time that can be read: nothing to move"):
        await csv_files([]).shift_to(NOW_US, [csv_file(tmp_path)])
    with pytest.raises(ConfigurationError, match="standard input cannot be read twice"):
        await csv_files([]).shift_to(NOW_US, ["-"])


async def test_bad_rows_are_told_with_their_line(tmp_path: Path) -> None:
    """What the conversion finds is not told again by the rules; control characters are escaped."""
    path, refused, publisher = tmp_path / "calls.csv", list[str](), FakePublisher()
    path.write_text('created_at,input_tokens\n2026-02-25 06:00:00,\x1b[31m\n"2026-02-25\n06:00",1\n')
    await make(publisher, refused, rules=RULES).publish([str(path)], csv_files([]).read)
    assert refused[0] == f"{path}:2: input_tokens: '\\x1b[31m' is no whole number"
    assert refused[1].startswith(f"{path}:3: created_at: '2026-02-25\\n06:00' is no time; ")
    assert (len(refused), publisher.sent) == (2, [])


async def test_lines_go_verbatim_in_groups(tmp_path: Path) -> None:
    """Bytes between a line's blanks are untouched, blank lines are skipped, and groups span files."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b'  {"a" : 1.0}\r\n\n \t\n{"b":\xff}\n{"c":3}')
    second.write_bytes(b'{"d":4}\n{"e":5}\n')
    publisher = FakePublisher()
    lines = make(publisher, [])
    await lines.publish([str(first), str(second)])
    assert publisher.sent == [[b'{"a" : 1.0}', b'{"b":\xff}'], [b'{"c":3}', b'{"d":4}'], [b'{"e":5}']]
    assert lines.read_bytes == first.stat().st_size + second.stat().st_size


async def test_bad_lines_are_left_out_with_their_place(tmp_path: Path) -> None:
    """A bad line is reported with file and line, and its neighbours go."""
    path = tmp_path / "events"
    now = "2126-02-25T06:00:00Z"
    good = event(created_at=now)
    rules = LineRules(max_age_seconds=3_024_000, max_ahead_seconds=10**10)
    path.write_bytes(b"\n".join([good, event(created_at=now, input_tokens=True), good]))
    publisher, refused = FakePublisher(), list[str]()
    await make(publisher, refused, rules=rules).publish([str(path)])
    assert publisher.sent == [[good, good]]
    assert refused == [f"{path}:2: input_tokens: Input should be a valid integer"]


async def test_a_line_longer_than_a_message_is_refused_unread(tmp_path: Path) -> None:
    """Nothing judges or sends a line that no message can hold, not even without validation."""
    path = tmp_path / "events"
    path.write_bytes(b"x" * (MESSAGE_BYTES_MAX + 1) + b"\n" + b"y" * MESSAGE_BYTES_MAX)
    publisher, refused = FakePublisher(), list[str]()
    await make(publisher, refused).publish([str(path)])
    assert publisher.sent == [[b"y" * MESSAGE_BYTES_MAX]]
    assert refused == [f"{path}:1: longer than 1,048,576 bytes, the limit of a message"]


async def test_stops_at_the_first_event_that_cannot_be_delivered(tmp_path: Path) -> None:
    """An error of the broker ends the command also while the input is silent, instead of reading on."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    publisher = FakePublisher(UnroutableError("no queue is bound"))
    publishing = asyncio.ensure_future(make(publisher, []).publish([str(path)]))
    with await asyncio.to_thread(path.open, "wb") as pipe:
        pipe.write(b"{}\n{}\n")
        pipe.flush()
        with pytest.raises(UnroutableError, match="no queue is bound"):
            await publishing
    assert publisher.sent == [[b"{}", b"{}"]]


async def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    """A file that vanished after the command line was checked is named."""
    with pytest.raises(FileNotFoundError, match="gone"):
        await make(FakePublisher(), []).publish([str(tmp_path / "gone")])


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        (Counts(10_000, 100, refused=2), "10,000 events confirmed in 100 messages, 2 lines refused"),
        (Counts(1, 1, refused=1), "1 event confirmed in 1 message, 1 line refused"),
        (
            Counts(0, 0, returned=3, unconfirmed=4),
            "0 events confirmed in 0 messages, 3 events came back, 4 events not confirmed",
        ),
    ],
)
def test_counts_for_a_reader(counts: Counts, text: str) -> None:
    """The last line says what matters, in grammar."""
    assert counts.text() == text


def test_the_help_states_the_contracts_limit() -> None:
    """The number that --help shows without loading the contract is the contract's."""
    assert EVENTS_PER_MESSAGE_MAX == MESSAGE_EVENTS_MAX
