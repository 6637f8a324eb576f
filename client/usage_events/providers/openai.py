"""OpenAI: Chat Completions, Responses, embeddings, images, transcriptions; and servers that speak like it.

Cached, reasoning, audio and prediction tokens are inside of the totals. A server whose total is larger than prompt and
completion together (some leave reasoning out of the completion) has the rest billed as output.

A Realtime session bills each of its responses: make an event of each `response.done`, of its `response`, with `model=`.
"""

from collections.abc import Iterable
from typing import Unpack

from usage_events.errors import ProviderUsageError
from usage_events.event import UsageEvent
from usage_events.providers.answers import Counts, field, items, text
from usage_events.providers.calls import Call, Usage, event_of
from usage_events.providers.streams import Stream, StreamedCall

PROVIDER = "openai"
_ASK = (
    "stream with stream_options={'include_usage': True} and read to the end;"
    " a response that runs in the background has it when it is completed"
)
_LAST_OF_A_STREAM = ("response.completed", "response.incomplete", "response.failed", "transcript.text.done")
_LAST_OF_AN_IMAGE = ("image_generation.completed", "image_edit.completed")


def usage_event(response: object, **call: Unpack[Call]) -> UsageEvent:
    """The event of a whole answer.

    Raises:
        UsageMissingError: the answer has no usage.
        ProviderUsageError: its usage cannot be billed.
        pydantic.ValidationError: the worker would refuse the event.
    """
    return event_of(usage_of(response, field(response, "usage")), call)


def usage_event_of_stream(chunks: Iterable[object], **call: Unpack[StreamedCall]) -> UsageEvent:
    """The event of a stream's chunks (Chat Completions) or events (Responses); see `StreamUsage`."""
    return StreamUsage().add_all(chunks).event(**call)


def usage_of(answer: object, usage: object) -> Usage:
    """What an answer with this usage says.

    Raises:
        ProviderUsageError: a count is none, or the usage is in seconds.
    """
    counts = Counts(usage, "usage")
    if counts.text("type") == "duration":
        raise ProviderUsageError("usage.type is 'duration': seconds are no tokens; make the UsageEvent yourself")
    return Usage(
        provider=PROVIDER,
        ask=_ASK,
        input_tokens=counts.get("prompt_tokens", "input_tokens"),
        output_tokens=counts.get("completion_tokens", "output_tokens"),  # none for embeddings: the total says so
        total_tokens=counts.get("total_tokens"),
        breakdown=_breakdown(counts),
        model=text(answer, "model"),
        response_id=text(answer, "id"),
        service_tier=text(answer, "service_tier"),
        created=field(answer, "created", "created_at"),
    )


def _breakdown(counts: Counts) -> dict[str, int]:
    inputs = counts.part("prompt_tokens_details", "input_tokens_details", "input_token_details")
    outputs = counts.part("completion_tokens_details", "output_tokens_details", "output_token_details")
    return {
        **inputs.named(
            cached_input_tokens="cached_tokens",
            cache_write_input_tokens="cache_write_tokens",
            audio_input_tokens="audio_tokens",
            image_input_tokens="image_tokens",
        ),
        **inputs.part("cache_write_tokens_details").named(
            cache_write_30m_input_tokens="ttl_30m_tokens",
            cache_write_12h_input_tokens="ttl_12h_tokens",
        ),
        **outputs.named(
            reasoning_output_tokens="reasoning_tokens",
            audio_output_tokens="audio_tokens",
            image_output_tokens="image_tokens",
            accepted_prediction_output_tokens="accepted_prediction_tokens",
            rejected_prediction_output_tokens="rejected_prediction_tokens",
        ),
    }


class StreamUsage(Stream):
    """Collects what a stream says: chunks of Chat Completions, or events of Responses, images and transcriptions."""

    def __init__(self) -> None:
        super().__init__()
        self._answer: object = None
        self._said: object = None
        self._tier: str | None = None
        self._ended = False
        self._unfinished: dict[object, bool] = {}

    def _take(self, chunk: object) -> None:
        kind = text(chunk, "type")
        if kind is None or field(chunk, "choices") is not None:
            self._add_chunk(chunk)
        else:
            self._add_event(kind, chunk)

    def _add_event(self, kind: str, event: object) -> None:
        answer = field(event, "response") or event
        if text(answer, "id") is not None:
            self._answer = answer
        self._said = field(answer, "usage") or self._said
        self._ended = self._ended or kind in _LAST_OF_A_STREAM or kind in _LAST_OF_AN_IMAGE
        if kind.endswith(".delta") and not kind.endswith("audio.delta"):  # audio is base64, no text
            self._hear(field(event, "delta"))

    def _add_chunk(self, chunk: object) -> None:
        choices, usage = items(chunk, "choices"), field(chunk, "usage")
        if text(chunk, "id") is not None and self._answer is None:
            self._answer = chunk
        self._tier = text(chunk, "service_tier") or self._tier
        for choice in choices:
            index = field(choice, "index") or 0
            self._unfinished[index] = self._unfinished.get(index, True) and field(choice, "finish_reason") is None
            self._hear_choice(choice)
        if usage is not None:
            # The last chunk says it, without choices; of servers that count as they go the last that came counts.
            self._said = usage
            self._ended = self._ended or not choices

    def _hear_choice(self, choice: object) -> None:
        delta = field(choice, "delta")
        names = ("reasoning_content", "reasoning", "content", "refusal")
        self._hear(field(choice, "text"), *(field(delta, name) for name in names))
        for tool in items(delta, "tool_calls"):
            self._hear(field(field(tool, "function"), "arguments"))

    def so_far(self) -> Usage:
        """What the provider has said so far."""
        answer = {
            "id": field(self._answer, "id"),
            "model": field(self._answer, "model"),
            "service_tier": self._tier or field(self._answer, "service_tier"),
            "created": field(self._answer, "created", "created_at"),
        }
        return usage_of(answer, self._said)

    @property
    def complete(self) -> bool:
        """Has the provider said all that it says of the usage?"""
        finished = bool(self._unfinished) and not any(self._unfinished.values())
        return self._said is not None and (self._ended or finished)
