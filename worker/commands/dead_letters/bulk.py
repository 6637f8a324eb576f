"""What commands that change many letters have in common: the first Ctrl-C ends them in order, a bar shows how far."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EXIT_PARTLY = 3
QUIET_SECONDS = 1.0
REFRESH_SECONDS = 0.2


class Work:
    """How far a command is. `stop` asks it to end after the transaction that is under way."""

    def __init__(self, what: str, total: int) -> None:
        self.what = what
        self.total = total
        self.done = 0
        self.is_stopped = False

    def stop(self) -> None:
        """End soon."""
        self.is_stopped = True


@asynccontextmanager
async def working(what: str, total: int) -> AsyncIterator[Work]:
    """The work that the body does; the second signal cancels it, and its transaction is rolled back."""
    work = Work(what, total)
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - this runs in one

    def on_signal() -> None:
        if work.is_stopped:
            task.cancel()
        work.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    bar = asyncio.create_task(_show(work))
    try:
        yield work
    except asyncio.CancelledError:
        raise click.Abort from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        bar.cancel()
        await asyncio.gather(bar, return_exceptions=True)


async def _show(work: Work) -> None:
    """Draws until it is cancelled, on a terminal, and once it has taken a second."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return
    await asyncio.sleep(QUIET_SECONDS)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(work.what, total=work.total)
        while True:
            progress.update(task, description=work.what, total=work.total, completed=work.done)
            await asyncio.sleep(REFRESH_SECONDS)


def plural(count: int, noun: str = "letter") -> str:
    """`1 letter`, `2,000 letters`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
