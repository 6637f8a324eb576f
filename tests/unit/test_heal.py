"""The healer: rounds without end, through outages, and gone at once when it is told to stop."""

import asyncio

import pytest
import structlog
from harness import until

from worker.errors import SystemUnavailableError
from worker.heal import Healer


class FakeHealing:
    """Answers with what it was given, round by round; then it hangs until it is abandoned."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.rounds = 0
        self.is_hanging = False
        self.was_abandoned = False

    async def heal(self) -> int:
        """One round."""
        self.rounds += 1
        if not self.answers:
            self.is_hanging = True
            await asyncio.Event().wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def abandon(self) -> None:
        """The round is given up."""
        self.was_abandoned = True


async def test_an_outage_costs_rounds_and_is_told_once() -> None:
    """The database away for two rounds: one warning, and the next round heals; the end comes in the middle of one."""
    away = SystemUnavailableError("away")
    healing = FakeHealing(away, away, 7, 0)
    healer = Healer(healing, interval_seconds=0.0)
    with structlog.testing.capture_logs() as logs:
        running = asyncio.ensure_future(healer.run())
        await until(lambda: healing.is_hanging, "all answers are given")
        healer.stop()
        await asyncio.wait_for(running, 5)
    assert [line["log_level"] for line in logs] == ["warning", "info"]
    assert logs[1]["letters"] == 7
    assert healing.was_abandoned


async def test_it_stops_while_it_waits() -> None:
    """Between two rounds it is gone at once, and has not begun one."""
    healing = FakeHealing()
    healer = Healer(healing, interval_seconds=3600.0)
    running = asyncio.ensure_future(healer.run())
    await asyncio.sleep(0)
    healer.stop()
    await asyncio.wait_for(running, 5)
    assert healing.rounds == 0


async def test_cancelled_it_leaves_no_round_behind() -> None:
    """A second signal cancels the healer: the round under way is abandoned and no task stays."""
    healing = FakeHealing()
    running = asyncio.ensure_future(Healer(healing, interval_seconds=0.0).run())
    await until(lambda: healing.is_hanging, "a round is under way")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert healing.was_abandoned
    await until(lambda: len(asyncio.all_tasks()) == 1, "no other task is left")


async def test_what_is_no_outage_comes_out() -> None:
    """A fault of the code itself is not taken for an outage."""
    with pytest.raises(ZeroDivisionError):
        await Healer(FakeHealing(ZeroDivisionError()), interval_seconds=0.0).run()
