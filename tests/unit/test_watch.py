"""The watch: gauges that follow the table, through outages, and gone at once when it is told to stop."""

import asyncio
from time import monotonic

import pytest
import structlog
from harness import until

from worker.clock import Clock, Reading
from worker.errors import SystemUnavailableError
from worker.metrics import Metrics
from worker.watch import OpenLetters, Watch


class FakeCensus:
    """Answers with what it was given, count by count; then it hangs until it is abandoned."""

    def __init__(self, *answers: OpenLetters | Exception) -> None:
        self.answers = list(answers)
        self.is_hanging = False
        self.was_abandoned = False

    async def count(self) -> OpenLetters:
        """One count."""
        if not self.answers:
            self.is_hanging = True
            await asyncio.Event().wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def abandon(self) -> None:
        """The count is given up."""
        self.was_abandoned = True


async def run_to_the_end(census: FakeCensus, clock: Clock | None = None) -> Metrics:
    """Let the watch take all answers, and stop it in the middle of the next count."""
    metrics = Metrics()
    watch = Watch(census, metrics, clock or Clock(), interval_seconds=0.0)
    running = asyncio.ensure_future(watch.run())
    await until(lambda: census.is_hanging, "all answers are given")
    watch.stop()
    await asyncio.wait_for(running, 5)
    assert census.was_abandoned
    await until(lambda: len(asyncio.all_tasks()) == 1, "no other task is left")
    return metrics


def gauge(metrics: Metrics, reason: str) -> float | None:
    """The number of open letters that the gauge of a reason shows."""
    return metrics.registry.get_sample_value("usage_worker_dead_letters_open", {"reason": reason})


def oldest_seconds(metrics: Metrics) -> float | None:
    """The age that the other gauge shows."""
    return metrics.registry.get_sample_value("usage_worker_dead_letters_oldest_open_seconds")


async def test_the_gauges_show_what_was_counted_last() -> None:
    """A reason whose last letter is gone goes back to 0, and so does the age."""
    first, last = (
        OpenLetters({"invalid": 3, "bad_json": 1}, 60.5, 4096, 2),
        OpenLetters({"invalid": 0, "bad_json": 2}, 0.0),
    )
    metrics = await run_to_the_end(FakeCensus(first))
    assert (gauge(metrics, "invalid"), gauge(metrics, "bad_json"), oldest_seconds(metrics)) == (3, 1, 60.5)
    assert metrics.registry.get_sample_value("usage_worker_dead_letters_bytes") == 4096
    assert metrics.registry.get_sample_value("usage_worker_partition_months_ahead") == 2
    metrics = await run_to_the_end(FakeCensus(first, last))
    assert (gauge(metrics, "invalid"), gauge(metrics, "bad_json"), oldest_seconds(metrics)) == (0, 2, 0)


async def test_an_outage_leaves_the_gauges_and_is_told_once() -> None:
    """The database away for two counts in turn: one warning, what was true last stands; then it counts again."""
    away = SystemUnavailableError("away")
    with structlog.testing.capture_logs() as logs:
        metrics = await run_to_the_end(FakeCensus(OpenLetters({"invalid": 3}, 9.0), away, away))
    assert [line["log_level"] for line in logs] == ["warning"]
    assert gauge(metrics, "invalid") == 3
    with structlog.testing.capture_logs() as logs:
        metrics = await run_to_the_end(FakeCensus(away, OpenLetters({"invalid": 4}, 9.0), away))
    assert [line["log_level"] for line in logs] == ["warning", "warning"]
    assert gauge(metrics, "invalid") == 4


async def test_it_sets_the_clock() -> None:
    """Events are judged by what the database said at the last count, however seldom any is refused."""
    clock = Clock(machine=lambda: 1000.0)
    await run_to_the_end(FakeCensus(OpenLetters({}, 0.0, clock=Reading(4600.0, monotonic()))), clock)
    assert clock.now() == pytest.approx(4600.0, abs=30.0)


async def test_it_stops_while_it_waits() -> None:
    """Between two counts it is gone at once."""
    census = FakeCensus(OpenLetters({"invalid": 1}, 1.0))
    watch = Watch(census, Metrics(), Clock(), interval_seconds=3600.0)
    running = asyncio.ensure_future(watch.run())
    await until(lambda: not census.answers, "it has counted")
    watch.stop()
    await asyncio.wait_for(running, 5)
    assert not census.is_hanging


async def test_cancelled_it_leaves_no_count_behind() -> None:
    """A second signal cancels the watch: the count under way is abandoned and no task stays."""
    census = FakeCensus()
    running = asyncio.ensure_future(Watch(census, Metrics(), Clock(), interval_seconds=0.0).run())
    await until(lambda: census.is_hanging, "a count is under way")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert census.was_abandoned
    await until(lambda: len(asyncio.all_tasks()) == 1, "no other task is left")


async def test_what_is_no_outage_comes_out() -> None:
    """A fault of the code itself is not taken for an outage."""
    with pytest.raises(ZeroDivisionError):
        await Watch(FakeCensus(ZeroDivisionError()), Metrics(), Clock(), interval_seconds=0.0).run()
