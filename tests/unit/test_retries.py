"""Retries: until it works, with the library's pauses, and without its garbage where it works at once."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import stamina
from rig import Rig, running

from worker.errors import SystemUnavailableError
from worker.retries import insist

BATCHES = 200


class Act:
    """Fails so many times, then has a result."""

    def __init__(self, failures: int) -> None:
        self.tries = 0
        self._failures = failures

    async def __call__(self) -> str:
        """One try."""
        self.tries += 1
        if self.tries <= self._failures:
            raise SystemUnavailableError(f"{self.tries}")
        return "done"


@pytest.mark.parametrize("failures", [0, 1, 2, 7])
async def test_it_is_tried_until_it_works(failures: int) -> None:
    """Once more than it fails, and not once more than that."""
    act = Act(failures)
    with stamina.set_testing(True, attempts=10**9):  # tries follow each other at once
        assert await insist(act) == "done"
    assert act.tries == failures + 1


async def test_each_failure_but_none_else_is_followed_by_a_pause() -> None:
    """The first failure too: a database that has just gone is not asked again at once."""
    pauses: list[float] = []
    stamina.instrumentation.set_on_retry_hooks([lambda details: pauses.append(details.wait_for)])
    try:
        with stamina.set_testing(True, attempts=10**9):
            await insist(Act(3))
    finally:
        stamina.instrumentation.set_on_retry_hooks(None)
    assert len(pauses) == 3


async def test_another_error_comes_out() -> None:
    """What no waiting mends is not tried again."""

    async def act() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await insist(act)


@contextmanager
def nothing_collected() -> Iterator[None]:
    """Garbage in cycles stays, for who counts it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def test_a_batch_leaves_no_garbage_in_cycles() -> None:
    """Memory stays flat without the collector, which a worker runs seldom: it had grown by 20 MiB in ten minutes."""
    rig = Rig(events_max=1)
    async with running(rig):
        rig.publish(10)
        await rig.until(lambda: len(rig.source.settled) == 10)
        with nothing_collected():
            rig.publish(BATCHES)
            await rig.until(lambda: len(rig.source.settled) == 10 + BATCHES)
            garbage = gc.collect()
    assert len(rig.database.batches) == 10 + BATCHES
    assert garbage < BATCHES
