"""What commands that change many letters have in common: the first Ctrl-C ends them in order, a bar shows how far."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from worker.commands.dead_letters.showing import say
from worker.commands.options import EXIT_PARTLY

if TYPE_CHECKING:
    from worker.postgres.dead_letters.settling import Lot

QUIET_SECONDS = 1.0
REFRESH_SECONDS = 0.2


class Work:
    """How far a command is. `stop` asks it to end after the transaction that is under way; `on_stop` hears of it.

    `note` stands behind the bar.
    """

    def __init__(self, what: str, total: int, on_stop: Callable[[], None] = lambda: None) -> None:
        self.what = what
        self.total = total
        self.note = ""
        self._on_stop = on_stop
        self.done = 0
        self.busy = 0
        self.body_bytes = 0
        self.is_stopped = False
        self.has_failed = False

    def stop(self) -> None:
        """End soon."""
        self.is_stopped = True
        self._on_stop()


@asynccontextmanager
async def working(what: str, total: int, on_stop: Callable[[], None] = lambda: None) -> AsyncIterator[Work]:
    """The work that the body does; the second signal cancels it, and its transaction is rolled back."""
    work = Work(what, total, on_stop)
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - this runs in one

    def on_signal() -> None:
        if work.is_stopped:
            task.cancel()
        work.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        async with drawing(work):
            yield work
    except asyncio.CancelledError:
        raise click.Abort from None
    except BaseException:
        work.has_failed = True
        raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@asynccontextmanager
async def drawing(work: Work) -> AsyncIterator[None]:
    """A bar, on a terminal, once it has taken a second."""
    bar = asyncio.create_task(_draw(work))
    try:
        yield
    finally:
        bar.cancel()
        await asyncio.gather(bar, return_exceptions=True)


async def take_all(lots: AsyncIterator["Lot"], *, doing: str, past: str, total: int, as_json: bool) -> int:
    """Take lot after lot, and say what became of them, also where it fails; the exit status."""
    work = Work(doing, total)
    try:
        async with working(doing, total) as work:
            async for lot in lots:
                work.done += lot.done
                work.busy += len(lot.busy)
                work.body_bytes += lot.body_bytes
                if work.is_stopped:
                    break
    finally:
        if as_json:
            say(json.dumps(_facts(work, past)))
        else:
            say("\n".join(_lines(work, past)))
    return EXIT_PARTLY if work.busy or work.is_stopped else 0


def _facts(work: Work, past: str) -> dict[str, Any]:
    facts = {past: work.done, "chosen": work.total, "busy": work.busy, "stopped": work.is_stopped}
    return facts | {"body_bytes": work.body_bytes} if work.body_bytes else facts


def _lines(work: Work, past: str) -> Iterator[str]:
    space = f": {size_text(work.body_bytes)} of bodies" if work.body_bytes else ""
    yield f"{past} {plural(work.done)}{'' if work.done == work.total else f' of {work.total:,}'}{space}"
    if work.is_stopped:
        yield "stopped: nothing is half done; run this again to go on"
    elif work.has_failed:
        yield "ended early: nothing is half done; run this again to go on"
    elif work.busy:
        yield f"{work.busy:,} were in other hands all the time; run this again"
    elif work.done < work.total:
        yield "the others were changed by somebody else meanwhile"


async def _draw(work: Work) -> None:
    """Draws until it is cancelled."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return
    await asyncio.sleep(QUIET_SECONDS)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(work.what, total=work.total or None, note=work.note)
        while True:
            progress.update(task, description=work.what, total=work.total or None, completed=work.done, note=work.note)
            await asyncio.sleep(REFRESH_SECONDS)


def plural(count: int, noun: str = "letter") -> str:
    """`1 letter`, `2,000 letters`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size_text(count: int) -> str:
    """A number of bytes: `512 bytes`, `9.1 MB`."""
    size = float(count)
    if size < 1000:  # noqa: PLR2004 - the factor of SI's prefixes
        return f"{count} bytes"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 1000:  # noqa: PLR2004 - as above
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"
