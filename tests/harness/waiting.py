"""Waiting for a condition: looked at often, given up after a while, with a text that helps."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from time import monotonic

POLL_SECONDS = 0.02


async def until(
    condition: Callable[[], bool | Awaitable[bool]],
    what: str,
    *,
    seconds_max: float = 30.0,
    details: Callable[[], str] = str,
) -> None:
    """Return as soon as `condition` holds.

    Args:
        condition: may be a coroutine function.
        what: what is waited for, as a sentence would say it.
        seconds_max: when to give up.
        details: what helps to understand a failure, asked for only then.

    Raises:
        TimeoutError: it has not become true.
    """
    give_up_at = monotonic() + seconds_max
    while True:
        holds = condition()
        if inspect.isawaitable(holds):
            holds = await holds
        if holds:
            return
        if monotonic() > give_up_at:
            raise TimeoutError(f"waited {seconds_max:g} s in vain until {what}\n{details()}")
        await asyncio.sleep(POLL_SECONDS)
