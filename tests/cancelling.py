"""Cancellation at a chosen place: a task is cancelled exactly at its n-th wait."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class CancelAt:
    """Runs a coroutine and cancels the task that runs it at its n-th wait.

    Args:
        at: which wait, from 1; where there are fewer, nothing is cancelled.
        also: called just before.
    """

    def __init__(self, at: int, also: Callable[[], object] = lambda: None) -> None:
        self.at = at
        self.waits = 0
        self._also = also

    async def run(self, inner: Coroutine[Any, Any, T]) -> T:
        """Run it, counting its waits."""
        result: T = await _Steps(self._steps(inner))
        return result

    def _steps(self, inner: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        resume: Callable[[], Any] = partial(inner.send, None)
        while True:
            try:
                waited_for = resume()
            except StopIteration as end:
                return end.value
            self.waits += 1
            if self.waits == self.at:
                self._also()
                task = asyncio.current_task()
                assert task is not None
                task.cancel()  # takes effect on what is waited for, at the yield
            try:
                yield waited_for
                resume = partial(inner.send, None)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is the coroutine's own
                resume = partial(inner.throw, error)


class _Steps:
    """Makes a generator something to wait for."""

    def __init__(self, steps: Generator[Any, Any, Any]) -> None:
        self._steps = steps

    def __await__(self) -> Generator[Any, Any, Any]:
        """See above."""
        return self._steps
