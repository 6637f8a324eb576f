"""`usage-worker`, but that it kills itself at a named point: the product has no hook for tests.

CHAOS_POINT names the point, CHAOS_PASSES how often it may be passed before: a number up to it, which CHAOS_POINT_SEED
and CHAOS_WORKER, the worker's number, decide.
"""

import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from chaos.patching import put, run_worker
from worker import app
from worker.held import Held
from worker.pipeline import Pipeline
from worker.postgres import store as store_module
from worker.postgres.store import PostgresStore
from worker.postgres.writer_session import WriterSession
from worker.rabbitmq.source import RabbitSource

PASSES_MAX = 20


class Point:
    """Passed a few times, then deadly."""

    def __init__(self, passes_max: int, seed: str = "") -> None:
        self._left = random.Random(seed).randint(0, passes_max)

    def reach(self) -> None:
        """Pass it, or die."""
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


class Progress:
    """What the worker is doing."""

    is_stopping = False
    transactions = 0  # that are open


def after_copy_before_commit(point: Point) -> None:
    """The rows and the letters are in, the transaction is open."""
    _reach_after(store_module, "record", point)


def after_commit_before_ack(point: Point) -> None:
    """The outcome is stored, and nobody has told the broker."""
    _reach_after(PostgresStore, "write", point)


def between_the_writers_commits(point: Point) -> None:
    """One writer has committed, another's transaction is open."""

    @asynccontextmanager
    async def transaction(session: WriterSession) -> AsyncIterator[Any]:
        begun = 0
        try:
            async with before(session) as connection:
                Progress.transactions += (begun := 1)
                yield connection
        finally:
            Progress.transactions -= begun
        if Progress.transactions:  # this one is committed
            point.reach()

    before = put(WriterSession, "transaction", transaction)


def after_ack(point: Point) -> None:
    """The acknowledgement may still be in the socket."""
    _reach_after(RabbitSource, "acknowledge", point)


def while_the_prefetch_changes(point: Point) -> None:
    """The consumer is cancelled, its acknowledgements are not sent, and no new one is there."""
    _reach_after(RabbitSource, "_cancel", point)


def during_the_flush_of_a_stop(point: Point) -> None:
    """SIGTERM has come, and a part of what was held is stored."""

    def stop(pipeline: Pipeline) -> None:
        Progress.is_stopping = True
        before(pipeline)

    before = put(Pipeline, "stop", stop)
    _reach_after(PostgresStore, "write", point, lambda: Progress.is_stopping)


def before_giving_back(point: Point) -> None:
    """What is held is about to go back to the broker."""

    async def give_back(held: Held) -> None:
        if len(held):
            point.reach()
        await before(held)

    before = put(Held, "give_back", give_back)


def in_the_decoder(point: Point) -> None:
    """A delivery is taken, and nothing is made of it yet."""

    def decode(*arguments: Any) -> Any:
        point.reach()
        return before(*arguments)

    before = put(app, "decode_delivery", decode)


def _reach_after(owner: object, name: str, point: Point, condition: Callable[[], bool] = lambda: True) -> None:
    async def followed(*arguments: Any, **named: Any) -> Any:
        result = await before(*arguments, **named)
        if condition():
            point.reach()
        return result

    before: Callable[..., Awaitable[Any]] = put(owner, name, followed)


POINTS: dict[str, Callable[[Point], None]] = {
    made.__name__: made
    for made in (
        after_copy_before_commit,
        after_commit_before_ack,
        between_the_writers_commits,
        after_ack,
        while_the_prefetch_changes,
        during_the_flush_of_a_stop,
        before_giving_back,
        in_the_decoder,
    )
}

if __name__ == "__main__":
    seed = f"{os.environ.get('CHAOS_POINT_SEED')} {os.environ.get('CHAOS_WORKER')}"
    POINTS[os.environ["CHAOS_POINT"]](Point(int(os.environ.get("CHAOS_PASSES", str(PASSES_MAX))), seed))
    run_worker()
