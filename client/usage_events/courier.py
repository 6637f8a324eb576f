"""Carries messages to RabbitMQ over a link that is opened anew where it is lost."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from usage_events import backoff
from usage_events.envelope import MESSAGE_BYTES_MAX
from usage_events.errors import BrokerUnavailableError, MessageTooLargeError, RefusedError, UsageEventsError
from usage_events.link import CLOSE_TIMEOUT_SECONDS, Link, Target
from usage_events.messages import Message
from usage_events.traces import PublishSpans

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

ABORT_TIMEOUT_SECONDS = 0.5  # for the end of the connection, where nothing else is waited for

_logger = logging.getLogger(__name__)


class Courier:
    """Delivers each message until it is confirmed or refused; any number at once."""

    def __init__(self, target: Target, *, traces: bool = False) -> None:
        """With `traces` each message has a span.

        Raises:
            ValueError: OpenTelemetry's API is not installed.
        """
        self.target = target
        self._spans = PublishSpans(target) if traces else None
        self.bytes_max = MESSAGE_BYTES_MAX  # of a message; less where the broker has said so
        self.trouble: UsageEventsError | None = None  # what stands between this and the broker now
        self._link: Link | None = None
        self._linking = asyncio.Lock()
        self._refused: RefusedError | None = None
        self._refusals = 0

    async def connect(self) -> None:
        """Connects now, and tries only once.

        Raises:
            BrokerUnavailableError: RabbitMQ cannot be reached.
            RefusedError: the user is refused, or the exchange does not exist.
        """
        async with self._linking:
            await self._open_link()

    def origin(self) -> "SpanContext | None":
        """The span that the caller is in, where spans are wanted."""
        return None if self._spans is None else self._spans.origin()

    async def deliver(self, message: Message, routing_key: str, origins: Sequence["SpanContext"] = ()) -> None:
        """Returns when a queue holds the message for good, for as long as that takes.

        `origins` are the spans that have recorded its events.

        Raises:
            MessageTooLargeError: the broker takes only smaller ones; `bytes_max` knows by now.
            RefusedError: it came back, or the exchange is not there or may not be written to.
        """
        body = message.body
        if self._spans is None:
            await self._deliver(body, routing_key, None)
            return
        with self._spans.around(origins, routing_key, events=message.events_count, body_bytes=len(body)) as headers:
            await self._deliver(body, routing_key, headers)

    async def _deliver(self, body: bytes, routing_key: str, headers: Mapping[str, str] | None) -> None:
        for delay_seconds in backoff.delays():
            try:
                link = await self._live_link()
                await link.publish(body, routing_key, headers)
            except BrokerUnavailableError as error:
                self.trouble = error
                _logger.debug("a message of %d bytes goes again: %s", len(body), error)
                await asyncio.sleep(delay_seconds)
            except MessageTooLargeError as error:
                self.bytes_max = min(self.bytes_max, error.bytes_max)
                raise
            except UsageEventsError as error:
                self.trouble = error
                raise
            else:
                self.trouble = None
                return

    async def close(self, timeout_seconds: float) -> None:
        """Disconnects; a broker that does not answer is waited for no longer than this."""
        if self._link is not None:
            link, self._link = self._link, None
            await link.close(timeout_seconds)

    async def _live_link(self) -> Link:
        """The link, opened anew where it is lost; one delivery tries, and the others wait for it."""
        if self._link is not None and not self._link.is_lost:
            return self._link
        refusals_before = self._refusals
        async with self._linking:
            if self._refused is not None and self._refusals > refusals_before:
                raise self._refused  # who waited for a connection that was refused need not ask for another
            for delay_seconds in backoff.delays():
                try:
                    return await self._open_link()
                except BrokerUnavailableError as error:
                    self.trouble = error
                    _logger.warning("%s; trying again in %.1f s", error, delay_seconds)
                    await asyncio.sleep(delay_seconds)
        raise AssertionError("delays have no end")

    async def _open_link(self) -> Link:
        if self._link is not None:
            if not self._link.is_lost:
                return self._link
            lost, self._link = self._link, None
            await lost.close()
        try:
            self._link = await Link.open(self.target)
        except RefusedError as error:
            self._refused = error
            self._refusals += 1
            raise
        return self._link


def seconds_to_close(deadline: float | None) -> float:
    """For the end of the connection, when all is confirmed; `deadline` is in the loop's time."""
    if deadline is None:
        return CLOSE_TIMEOUT_SECONDS
    left = deadline - asyncio.get_running_loop().time()
    return min(max(left, ABORT_TIMEOUT_SECONDS), CLOSE_TIMEOUT_SECONDS)
