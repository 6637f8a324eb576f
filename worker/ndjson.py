"""Files of lines, read a chunk at a time: memory does not grow with the file, nor with a line."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from io import FileIO
from threading import Thread
from typing import NamedTuple, TypeVar

CHUNK_BYTES = 256 * 1024
STANDARD_INPUT = "-"

Result = TypeVar("Result")


class Line(NamedTuple):
    """A line with its number, which begins at 1, and without its end; cut off where it is too long."""

    number: int
    text: bytes


class Chunk(NamedTuple):
    """The lines that ended in one piece of a file, and how long the piece was."""

    lines: list[Line]
    size_bytes: int


class LineSplitter:
    """Cuts pieces of a file into lines. Pure.

    Of a line longer than `line_bytes_max` one byte more than that is kept, which shows that it is too long.
    """

    def __init__(self, line_bytes_max: int) -> None:
        self._kept_bytes_max = line_bytes_max + 1
        self._number = 0
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[Line]:
        """The lines that end in this piece."""
        *ended, rest = (self._rest + piece).split(b"\n")
        self._rest = rest[: self._kept_bytes_max]
        for text in ended:
            self._number += 1
            yield Line(self._number, text[: self._kept_bytes_max])

    def finish(self) -> Iterator[Line]:
        """The last line, where the file does not end with a line's end."""
        if self._rest:
            yield from self.feed(b"\n")


async def read_chunks(path: str, line_bytes_max: int) -> AsyncGenerator[Chunk, None]:
    """The lines of a file, or of standard input where `path` is `-`.

    Raises:
        OSError: the file cannot be read.
    """
    splitter = LineSplitter(line_bytes_max)
    file = await _in_daemon_thread(lambda: _open(path))  # to open a named pipe may wait too
    with file:
        descriptor = file.fileno()
        while piece := await _in_daemon_thread(lambda: os.read(descriptor, CHUNK_BYTES)):
            yield Chunk(list(splitter.feed(piece)), len(piece))
    yield Chunk(list(splitter.finish()), 0)


def _open(path: str) -> FileIO:
    if path == STANDARD_INPUT:
        # By number: `sys.stdin` has a lock, and a thread that waits for input with it blocks the interpreter's end.
        return FileIO(0, closefd=False)
    return FileIO(path)


async def _in_daemon_thread(call: Callable[[], Result]) -> Result:
    """Like `asyncio.to_thread`, but a call that never returns (a silent pipe) does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: Exception | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type] # without an error there is a result

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except Exception as raised:  # noqa: BLE001 - handed on to the one who waits
            error = raised
        with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    Thread(target=run, daemon=True).start()
    return await done
