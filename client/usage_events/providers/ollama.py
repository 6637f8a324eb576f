"""Ollama: `/api/chat`, `/api/generate` and `/api/embed`. Its OpenAI-compatible endpoints are the module `openai`'s.

Counts that are 0 are left out of its answers, and older versions left `prompt_eval_count` out where the prompt was
cached: an answer with an `eval_count` alone is billed without input, and marked `partial`, unless the caller estimates
it. Tokens from the cache are inside of `prompt_eval_count`. Its answers have no id.
"""

from collections.abc import Iterable
from typing import ClassVar, Unpack

from usage_events.event import UsageEvent
from usage_events.providers.answers import Counts, field, text
from usage_events.providers.calls import Usage
from usage_events.providers.streams import Stream, StreamedCall

PROVIDER = "ollama"
_ASK = "prompt_eval_count and eval_count stand in the last object of an answer, the one with done: true"


def usage_event(response: object, **call: Unpack[StreamedCall]) -> UsageEvent:
    """The event of a whole answer.

    Raises:
        UsageMissingError: the answer has no counts.
        ProviderUsageError: a count is none.
        pydantic.ValidationError: the worker would refuse the event.
    """
    return usage_event_of_stream([response], **call)


def usage_event_of_stream(chunks: Iterable[object], **call: Unpack[StreamedCall]) -> UsageEvent:
    """The event of a stream's objects; see `StreamUsage`."""
    return StreamUsage().add_all(chunks).event(**call)


class StreamUsage(Stream):
    """Collects what a stream says. The counts come with its last object."""

    _input_where_unsaid: ClassVar[int | None] = 0

    def __init__(self) -> None:
        super().__init__()
        self._last: object = None

    def _take(self, chunk: object) -> None:
        self._last = chunk
        message = field(chunk, "message")
        self._hear(field(message, "thinking"), field(message, "content"))
        self._hear(field(chunk, "thinking"), field(chunk, "response"))

    def so_far(self) -> Usage:
        """What the provider has said so far."""
        counts = Counts(self._last, "response")
        input_tokens, output_tokens = counts.get("prompt_eval_count"), counts.get("eval_count")
        if output_tokens is None and input_tokens is not None and self.complete:
            output_tokens = 0
        return Usage(
            provider=PROVIDER,
            ask=_ASK,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            breakdown=counts.named(cached_input_tokens="prompt_eval_cached_count"),
            model=text(self._last, "model"),
            created=field(self._last, "created_at"),
        )

    @property
    def complete(self) -> bool:
        """Has the provider said all that it says of the usage?"""
        return self._last is not None and field(self._last, "done") is not False
