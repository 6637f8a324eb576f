"""Google: Gemini's `generate_content` and the Interactions API, on the Gemini API and on Vertex AI.

The prompt's count includes what is cached. Thoughts come on top of the candidates, and what tools at Google gave back
to the model on top of the prompt. Both spellings are taken: the SDK's objects and the JSON of the API.
"""

from collections.abc import Iterable
from typing import Unpack

from usage_events.event import UsageEvent
from usage_events.providers.answers import Counts, field, items, text
from usage_events.providers.calls import Call, Usage, event_of
from usage_events.providers.streams import Stream, StreamedCall

PROVIDER = "google"
_ASK = "usage_metadata stands in the whole answer, and in a stream's last chunk: read it to the end"
_MODALITIES = ("AUDIO", "IMAGE", "VIDEO", "DOCUMENT")
_ENDED = ("completed", "failed", "cancelled", "incomplete", "budget_exceeded")


def usage_event(response: object, **call: Unpack[Call]) -> UsageEvent:
    """The event of a whole answer, or of an interaction.

    Raises:
        UsageMissingError: the answer has no usage.
        ProviderUsageError: a count is none.
        pydantic.ValidationError: the worker would refuse the event.
    """
    return event_of(_usage_of(response), call)


def usage_event_of_stream(chunks: Iterable[object], **call: Unpack[StreamedCall]) -> UsageEvent:
    """The event of a stream's chunks, or of an interaction's events; see `StreamUsage`."""
    return StreamUsage().add_all(chunks).event(**call)


def _usage_of(answer: object) -> Usage:
    metadata = field(answer, "usage_metadata", "usageMetadata")
    if metadata is None and field(answer, "usage") is not None:
        return _interaction_usage(answer, Counts(field(answer, "usage"), "usage"))
    return _content_usage(answer, Counts(metadata, "usage_metadata"))


def _content_usage(answer: object, counts: Counts) -> Usage:
    prompt = counts.get("prompt_token_count", "promptTokenCount")
    tools = counts.get("tool_use_prompt_token_count", "toolUsePromptTokenCount")
    produced = counts.get(
        "candidates_token_count", "candidatesTokenCount", "response_token_count", "responseTokenCount"
    )
    thoughts = counts.get("thoughts_token_count", "thoughtsTokenCount")
    return Usage(
        provider=PROVIDER,
        ask=_ASK,
        input_tokens=None if prompt is None else prompt + (tools or 0),
        output_tokens=None if prompt is None else (produced or 0) + (thoughts or 0),  # a blocked prompt has neither
        total_tokens=counts.get("total_token_count", "totalTokenCount"),
        breakdown={
            **counts.named(
                cached_input_tokens=("cached_content_token_count", "cachedContentTokenCount"),
                tool_use_input_tokens=("tool_use_prompt_token_count", "toolUsePromptTokenCount"),
                reasoning_output_tokens=("thoughts_token_count", "thoughtsTokenCount"),
            ),
            **_by_modality(counts, "input", "prompt_tokens_details", "promptTokensDetails"),
            **_by_modality(counts, "output", "candidates_tokens_details", "candidatesTokensDetails"),
        },
        model=text(answer, "model_version", "modelVersion"),
        response_id=text(answer, "response_id", "responseId"),
        service_tier=counts.text("service_tier", "serviceTier", "traffic_type", "trafficType"),
        created=field(answer, "create_time", "createTime"),
    )


def _interaction_usage(answer: object, counts: Counts) -> Usage:
    given = counts.get("total_input_tokens")
    tools = counts.get("total_tool_use_tokens")
    produced, thoughts = counts.get("total_output_tokens"), counts.get("total_thought_tokens")
    return Usage(
        provider=PROVIDER,
        ask=_ASK,
        input_tokens=None if given is None else given + (tools or 0),
        output_tokens=None if given is None else (produced or 0) + (thoughts or 0),
        total_tokens=counts.get("total_tokens"),
        breakdown={
            **counts.named(
                cached_input_tokens="total_cached_tokens",
                tool_use_input_tokens="total_tool_use_tokens",
                reasoning_output_tokens="total_thought_tokens",
            ),
            **_by_modality(counts, "input", "input_tokens_by_modality"),
            **_by_modality(counts, "output", "output_tokens_by_modality"),
        },
        model=text(answer, "model"),
        response_id=text(answer, "id"),
        service_tier=text(answer, "service_tier"),
        created=field(answer, "created"),
    )


def _by_modality(counts: Counts, side: str, *names: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in names:
        for one in counts.each(name):
            modality = (one.text("modality") or "").upper()
            tokens = one.get("token_count", "tokenCount", "tokens")
            # The metadata has keys for what the documentation names; text is the rest.
            if tokens and modality in _MODALITIES and (side == "input" or modality in {"AUDIO", "IMAGE"}):
                found[f"{modality.lower()}_{side}_tokens"] = tokens
    return found


class StreamUsage(Stream):
    """Collects what a stream says. Counts grow from chunk to chunk; the last ones count."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, object] = {}
        self._ended = False

    def _take(self, chunk: object) -> None:
        if text(chunk, "event_type") is not None:
            self._add_event(chunk)
        else:
            self._add_chunk(chunk)

    def _add_chunk(self, chunk: object) -> None:
        self._keep(
            usage_metadata=field(chunk, "usage_metadata", "usageMetadata"),
            model_version=field(chunk, "model_version", "modelVersion"),
            response_id=field(chunk, "response_id", "responseId"),
            create_time=field(chunk, "create_time", "createTime"),
        )
        feedback = field(chunk, "prompt_feedback", "promptFeedback")
        self._ended = self._ended or field(feedback, "block_reason", "blockReason") is not None
        for candidate in items(chunk, "candidates"):
            reason = text(candidate, "finish_reason", "finishReason")
            self._ended = self._ended or reason not in {None, "FINISH_REASON_UNSPECIFIED"}
            self._hear(*(field(part, "text") for part in items(field(candidate, "content"), "parts")))

    def _add_event(self, event: object) -> None:
        interaction = field(event, "interaction")
        self._keep(
            usage=field(interaction, "usage") or field(field(event, "metadata"), "total_usage"),
            model=field(interaction, "model"),
            id=field(interaction, "id"),
            created=field(interaction, "created"),
            service_tier=field(interaction, "service_tier"),
        )
        self._ended = self._ended or text(interaction, "status") in _ENDED
        self._hear(field(field(event, "delta"), "text"))

    def _keep(self, **said: object) -> None:
        self._last |= {name: value for name, value in said.items() if value is not None}

    def so_far(self) -> Usage:
        """What the provider has said so far."""
        return _usage_of(self._last)

    @property
    def complete(self) -> bool:
        """Has the provider said all that it says of the usage?"""
        return self._ended
