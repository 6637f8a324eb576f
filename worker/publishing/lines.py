"""Lines to messages: each line is judged by the contract, the good ones go to RabbitMQ byte for byte."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing

from usage_events.direct import Confirmation
from usage_events.envelope import CONTENT_TYPE_JSON
from usage_events.publisher import UsagePublisher
from usage_events.rules import Window

from worker.decode import decode
from worker.publishing.files import Candidate, Reader, name_of, read_ndjson

_MICRO = 1_000_000
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


class TracePace:
    """Spreads events over time as their own times are spread, `speed` times faster. Pure, like `Pace`.

    What is late, as after an outage, goes at once.
    """

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._start: tuple[int, float] | None = None

    def delay(self, at_us: int, now: float) -> float:
        """Seconds to wait before an event of this time may go; the first one sets the beginning."""
        if self._start is None:
            self._start = (at_us, now)
        first_us, started = self._start
        return max(0.0, started + (at_us - first_us) / _MICRO / self._speed - now)


class LinePublisher:
    """Reads files of events and publishes them; stops at the first event that cannot be delivered."""

    def __init__(
        self,
        publisher: UsagePublisher,
        *,
        events_per_message: int,
        rules: LineRules | None,
        pace: Pace | TracePace | None,
        on_refused: Callable[[list[str]], None],
    ) -> None:
        """Without `rules` every event goes as it is; without a pace as fast as RabbitMQ takes it.

        `on_refused` hears all that is wrong with a line, each as `file:line: field: message`.
        """
        self.read_bytes = 0
        self._publisher = publisher
        self._events_per_message = events_per_message
        self._rules = rules
        self._pace = pace if isinstance(pace, Pace) else None
        self._trace_pace = pace if isinstance(pace, TracePace) else None
        self._on_refused = on_refused
        self._events: list[bytes] = []
        self._unconfirmed: set[Confirmation] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def publish(self, paths: Sequence[str], read: Reader = read_ndjson) -> None:
        """Returns when every good line is confirmed; `read` gives what a file holds.

        Raises:
            OSError: a file cannot be read.
            RefusedError: RabbitMQ refuses the events.
        """
        feeding = asyncio.create_task(self._feed(paths, read))
        try:
            await asyncio.wait({feeding, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                self._failed.result()
            await feeding
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)

    async def _feed(self, paths: Sequence[str], read: Reader) -> None:
        for path in paths:
            async with aclosing(read(path)) as pieces:
                async for candidates, size_bytes in pieces:
                    for candidate in candidates:
                        if self._is_good(candidate, name_of(path)):
                            await self._take(candidate)
                    self.read_bytes += size_bytes
        if self._events:
            await self._send()
        while self._unconfirmed:
            await asyncio.wait(self._unconfirmed)

    def _is_good(self, candidate: Candidate, name: str) -> bool:
        """Judges a candidate; a bad one is reported."""
        problems = candidate.problems
        if not problems and self._rules is not None:
            problems = self._rules.problems(candidate.text, time.time_ns() // 1000)
        if problems:
            self._on_refused([f"{name}:{candidate.line}: {_printable(problem)}" for problem in problems])
        return not problems

    async def _take(self, candidate: Candidate) -> None:
        """Keeps an event until its message is full, or until it is the next one's turn."""
        if self._trace_pace is not None and candidate.at_us is not None:
            delay = self._trace_pace.delay(candidate.at_us, asyncio.get_running_loop().time())
            if delay > 0:
                if self._events:
                    await self._send()
                await asyncio.sleep(delay)
        self._events.append(candidate.text)
        if len(self._events) == self._events_per_message:
            await self._send()

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
