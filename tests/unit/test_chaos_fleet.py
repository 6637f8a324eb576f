"""The chaos suite's workers and load, without servers: what logs show of a fault, where workers kill themselves."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from chaos import dying_worker
from chaos.dying_worker import Point, Progress
from chaos.fleet import TRACEBACK, Fleet, NotFeltError
from chaos.load import Load

from worker.postgres.writer_session import WriterSession


def fleet_with_log(folder: Path, text: str) -> Fleet:
    """One whose only worker has written this."""
    fleet = Fleet({}, folder)
    log = folder / "worker-0.log"
    log.write_text(text)
    fleet._logs.append(log)
    return fleet


async def test_what_was_said_before_a_fault_does_not_show_that_it_was_felt(tmp_path: Path) -> None:
    """Only what is said once more does."""
    fleet = fleet_with_log(tmp_path, "away\n")
    said = fleet.times_said("away")
    with pytest.raises(NotFeltError, match="in vain"):
        await fleet.until_said("away", said, seconds_max=0)
    fleet_with_log(tmp_path, "away\naway\n")
    await fleet.until_said("away", said)


def test_an_error_that_a_fault_allows_hides_no_other(tmp_path: Path) -> None:
    """A worker may end with the one, and not with another."""
    log = f"{TRACEBACK}:\nValueError: no\n"
    assert fleet_with_log(tmp_path, log).tracebacks(but={"MemoryError"}) == [log]
    log = f"{TRACEBACK}:\nMemoryError\n"
    fleet = fleet_with_log(tmp_path, log)
    assert fleet.tracebacks(but={"MemoryError"}) == []
    assert fleet.tracebacks() == [log]


def test_a_point_lets_as_many_pass_where_its_seed_is_the_same() -> None:
    """And each worker of a run has a number of its own."""
    assert [Point(1000, f"7 {worker}")._left for worker in range(5)] == [
        Point(1000, f"7 {worker}")._left for worker in range(5)
    ]
    assert len({Point(1000, f"7 {worker}")._left for worker in range(5)}) > 1


def test_a_load_makes_so_many_rows() -> None:
    """Of what is refused, and of what others publish as well, there are none."""
    assert Load(producers=2, rate=100, bad_share=0.1).rows_per_second == pytest.approx(180)
    assert Load(producers=4, rate=100, bad_share=0, same_events=True).rows_per_second == pytest.approx(100)
    assert Load(producers=2, rate=100, bad_share=0, ahead_seconds=(240, 3600)).rows_per_second == pytest.approx(100)
    assert Load(producers=2, rate=100, bad_share=0, unreadable_share=1).rows_per_second == 0


class Counting(Point):
    """Counts who reaches it, and kills nobody."""

    def __init__(self) -> None:
        super().__init__(0)
        self.reached = 0

    def reach(self) -> None:
        """Reached once more."""
        self.reached += 1


async def test_between_the_writers_commits_is_after_one_and_before_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that is alone, or fails, is no such moment."""

    @asynccontextmanager
    async def transaction(_: WriterSession) -> AsyncIterator[None]:
        yield

    monkeypatch.setattr(WriterSession, "transaction", transaction)
    point = Counting()
    dying_worker.between_the_writers_commits(point)
    one, other = (WriterSession("", "", name="") for _ in range(2))
    async with one.transaction():
        with pytest.raises(OSError, match="refused"):
            async with other.transaction():
                raise OSError("refused")
        assert point.reached == 0
        async with other.transaction():
            pass
        assert point.reached == 1
    assert point.reached == 1
    assert Progress.transactions == 0
