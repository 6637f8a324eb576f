"""The watch: gauges that follow the table, through outages, and gone at once when it is told to stop."""

import asyncio

import structlog
from harness import until

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


def gauge(metrics: Metrics, name: str, **labels: str) -> float | None:
    """What /metrics would show."""
    return metrics.registry.get_sample_value(f"usage_worker_{name}", labels)


async def test_the_gauges_follow_the_table() -> None:
    """A reason whose last letter is gone is 0 again, and so is the age."""
    metrics = Metrics()
    census = FakeCensus(
        OpenLetters({"invalid": 3, "bad_json": 1}, 12.5), OpenLetters({"invalid": 2, "bad_json": 0}, 0.0)
    )
    watch = Watch(census, metrics, interval_seconds=0.0)
    running = asyncio.ensure_future(watch.run())
    await until(lambda: census.is_hanging, "both counts are made")
    watch.stop()
    await asyncio.wait_for(running, 5)
    assert gauge(metrics, "dead_letters_open", reason="invalid") == 2
    assert gauge(metrics, "dead_letters_open", reason="bad_json") == 0
    assert gauge(metrics, "dead_letters_oldest_open_seconds") == 0
    assert census.was_abandoned


async def test_an_outage_is_told_once_and_keeps_what_was_true_last() -> None:
    """The database away for two counts: one warning, the gauges stand still, and the next count goes on."""
    metrics = Metrics()
    away = SystemUnavailableError("away")
    census = FakeCensus(OpenLetters({"invalid": 3}, 1.0), away, away)
    watch = Watch(census, metrics, interval_seconds=0.0)
    with structlog.testing.capture_logs() as logs:
        running = asyncio.ensure_future(watch.run())
        await until(lambda: census.is_hanging, "all answers are given")
        watch.stop()
        await asyncio.wait_for(running, 5)
    assert [line["log_level"] for line in logs] == ["warning"]
    assert gauge(metrics, "dead_letters_open", reason="invalid") == 3
