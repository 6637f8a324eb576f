"""Lines to messages: each line is judged by the contract, the good ones go to RabbitMQ byte for byte."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing

from usage_events.contract import CONTENT_TYPE_JSON, MESSAGE_BYTES_MAX
from usage_events.direct import Confirmation
from usage_events.publisher import UsagePublisher
from usage_events.rules import Window

from worker.decode import decode
from worker.ndjson import STANDARD_INPUT, read_chunks

_BLANKS = b" \t\r\n"
_CREDIT_SECONDS_MAX = 1.0


class LineRules:
    """Judges a line as the worker will judge its event."""

    def __init__(self, *, max_age_seconds: int, max_ahead_seconds: int) -> None:
        self._max_age_seconds = max_age_seconds
        self._max_ahead_seconds = max_ahead_seconds

    def problems(self, text: bytes, now_us: int) -> list[str]:
        """What is wrong with the event in `text`, as `field: message`; nothing where it will be accepted."""
        if text[:1] == b"[":
            return ["an array; write one event a line"]
        window = Window.around(now_us, max_age_seconds=self._max_age_seconds, max_ahead_seconds=self._max_ahead_seconds)
        return [
            _printable(f"{error['field']}: {error['message']}" if error["field"] else error["message"])
            for reject in decode(text, CONTENT_TYPE_JSON, None, window).rejects
            for error in reject.refusal.errors
        ]


class Pace:
    """Spreads events over time. Pure: the clock's reading is passed in, in seconds.

    Time lost to a slow broker is caught up for one second at most: no burst follows an outage.
    """

    def __init__(self, events_per_second: float) -> None:
        self._events_per_second = events_per_second
        self._due: float | None = None

    def delay(self, events_count: int, now: float) -> float:
        """Seconds to wait before these events may go."""
        due = now if self._due is None else max(self._due, now - _CREDIT_SECONDS_MAX)
        self._due = due + events_count / self._events_per_second
        return max(0.0, due - now)


class LinePublisher:
    """Reads files of events and publishes them; stops at the first event that cannot be delivered."""

    def __init__(
        self,
        publisher: UsagePublisher,
        *,
        events_per_message: int,
        rules: LineRules | None,
        pace: Pace | None,
        on_refused: Callable[[list[str]], None],
    ) -> None:
        """Without `rules` every line goes as it is; without `pace` as fast as RabbitMQ takes it.

        `on_refused` hears all that is wrong with a line, each as `file:line: field: message`.
        """
        self.read_bytes = 0
        self._publisher = publisher
        self._events_per_message = events_per_message
        self._rules = rules
        self._pace = pace
        self._on_refused = on_refused
        self._events: list[bytes] = []
        self._unconfirmed: set[Confirmation] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def publish(self, paths: Sequence[str]) -> None:
        """Returns when every good line is confirmed.

        Raises:
            OSError: a file cannot be read.
            RefusedError: RabbitMQ refuses the events.
        """
        feeding = asyncio.create_task(self._feed(paths))
        try:
            await asyncio.wait({feeding, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                self._failed.result()
            await feeding
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)

    async def _feed(self, paths: Sequence[str]) -> None:
        for path in paths:
            name = "<stdin>" if path == STANDARD_INPUT else path
            async with aclosing(read_chunks(path, MESSAGE_BYTES_MAX)) as chunks:
                async for lines, size_bytes in chunks:
                    for number, text in lines:
                        if self._take(f"{name}:{number}", text):
                            await self._send()
                    self.read_bytes += size_bytes
        if self._events:
            await self._send()
        while self._unconfirmed:
            await asyncio.wait(self._unconfirmed)

    def _take(self, place: str, text: bytes) -> bool:
        """Keeps the event of a line, or reports it; says whether a message is full."""
        problems = [f"longer than {MESSAGE_BYTES_MAX:,} bytes, the limit of a message"]
        if len(text) <= MESSAGE_BYTES_MAX:
            text = text.strip(_BLANKS)
            if not text:
                return False
            problems = [] if self._rules is None else self._rules.problems(text, time.time_ns() // 1000)
        if not problems:
            self._events.append(text)
            return len(self._events) == self._events_per_message
        self._on_refused([f"{place}: {problem}" for problem in problems])
        return False

    async def _send(self) -> None:
        events, self._events = self._events, []
        if self._pace is not None:
            await asyncio.sleep(self._pace.delay(len(events), asyncio.get_running_loop().time()))
        confirmation = await self._publisher.send(events)
        self._unconfirmed.add(confirmation)
        confirmation.add_done_callback(self._settle)

    def _settle(self, confirmation: Confirmation) -> None:
        self._unconfirmed.discard(confirmation)
        error = None if confirmation.cancelled() else confirmation.exception()
        if error is not None and not self._failed.done():
            self._failed.set_exception(error)


def _printable(text: str) -> str:
    """A producer's text must not steer the terminal."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
