"""Retries: what the database or the broker cannot do now is tried until it can, with back-off and jitter."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import stamina

from worker.errors import SystemUnavailableError

BACKOFF_SECONDS_MAX = 5.0

T = TypeVar("T")


def retries() -> AsyncIterator[stamina.Attempt]:
    """For ever, with exponential back-off and jitter."""
    return stamina.retry_context(
        on=SystemUnavailableError,
        attempts=None,
        timeout=None,
        wait_initial=0.1,
        wait_max=BACKOFF_SECONDS_MAX,
        wait_jitter=1.0,
    ).__aiter__()


async def insist(act: Callable[[], Awaitable[T]]) -> T:
    """What it returns, however often it takes.

    The library is asked only once a try has failed: each use of it leaves 58 objects, 4 KiB, in cycles, which are
    looked for seldom.
    """
    try:
        return await act()
    except SystemUnavailableError as error:
        failed = error
    async for attempt in retries():
        with attempt:
            if attempt.num == 1:
                raise failed  # the first of the library's tries has been made already
            return await act()
    raise AssertionError("retries without an end have ended")
