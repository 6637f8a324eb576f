"""Streams: what a provider says while it answers, and what an event says of an answer that was cut off."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import ClassVar, Self, TypedDict, Unpack

from usage_events.errors import UsageMissingError
from usage_events.event import UsageEvent
from usage_events.providers.answers import checked_count
from usage_events.providers.calls import Call, Usage, attributed, event_of


class Estimates(TypedDict, total=False):
    """For a stream that was cut off before the provider had said its usage; elsewhere they are not looked at."""

    estimate_input_tokens: int | None
    estimate_output_tokens: int | Callable[[str], int] | None
    """A number, or what counts the tokens of the text that has come so far."""


class StreamedCall(Call, Estimates, total=False):
    """What the caller says of a streamed call."""


class Stream(ABC):
    """Collects what a stream says. Whenever it ends, `event` is the call's event, as far as the provider has spoken."""

    _input_where_unsaid: ClassVar[int | None] = None

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._started = False

    def add(self, chunk: object) -> None:
        """Takes the stream's next chunk or event."""
        self._started = True
        self._take(chunk)

    def add_all(self, chunks: Iterable[object]) -> Self:
        """Takes all of them; the stream itself, for its `event`."""
        for chunk in chunks:
            self.add(chunk)
        return self

    @property
    def started(self) -> bool:
        """Has anything come? Where the connection failed before that, there may be no call to bill."""
        return self._started

    @abstractmethod
    def _take(self, chunk: object) -> None: ...

    @abstractmethod
    def so_far(self) -> Usage:
        """What the provider has said so far."""

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Has the provider said all that it says of the usage?"""

    def _named(self, usage: Usage, call: StreamedCall) -> Usage:  # noqa: ARG002 - for what only the caller knows
        return usage

    def _hear(self, *pieces: object) -> None:
        self._pieces += [piece for piece in pieces if isinstance(piece, str)]

    @property
    def text(self) -> str:
        """The text that has come so far, of whatever kind: answers, reasoning, arguments of tools."""
        return "".join(self._pieces)

    def event(self, **call: Unpack[StreamedCall]) -> UsageEvent:
        """The call's event. Where the stream was cut off, `request_metadata["usage"]` says `partial` or `estimated`.

        Raises:
            UsageMissingError: the provider has not said what the call used, and no estimate is given.
            ProviderUsageError: the answer, or what the caller says of it, does not make an event.
            pydantic.ValidationError: the worker would refuse the event.
        """
        usage = attributed(self._named(self.so_far(), call))
        if not (self.complete and usage.input_tokens is not None and usage.output_tokens is not None):
            usage = _settled(usage, call, self.text, self._input_where_unsaid)
        return event_of(usage, call, StreamedCall)


def _settled(usage: Usage, call: StreamedCall, text: str, input_where_unsaid: int | None) -> Usage:
    """What there is of a call whose usage has not been said, or not to the end."""
    input_tokens, output_tokens = usage.input_tokens, usage.output_tokens
    estimated = False
    if input_tokens is None and (given := call.get("estimate_input_tokens")) is not None:
        input_tokens, estimated = checked_count(given, "estimate_input_tokens"), True
    if (output := call.get("estimate_output_tokens")) is not None:
        guess = checked_count(output(text) if callable(output) else output, "estimate_output_tokens")
        output_tokens, estimated = max(guess, output_tokens or 0), True
    if input_tokens is None and output_tokens is not None:
        input_tokens = input_where_unsaid
    if input_tokens is None:
        raise UsageMissingError(
            f"the stream of {call.get('provider') or usage.provider} ended before it had said its usage: {usage.ask};"
            " for a stream that was cut off give estimate_input_tokens= and estimate_output_tokens="
        )
    return replace(
        usage,
        input_tokens=input_tokens,
        output_tokens=output_tokens or 0,
        mark="estimated" if estimated else "partial",
    )
