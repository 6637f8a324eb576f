"""Amazon Bedrock: Converse, ConverseStream, InvokeModel and InvokeModelWithResponseStream.

Reads and writes of the cache come on top of `inputTokens`. No answer says which model ran (but that of a prompt
router): give `model=`, the `modelId` of the call; of an ARN the event's `model` is the last part, and the whole stands
in `request_metadata["provider_model"]`.

InvokeModel: the counts are in the body, for the families that have them there (`body=`: its bytes, or the JSON that was
read of it), and in the headers `x-amzn-bedrock-input-token-count`, `-output-token-count`,
`-cache-read-input-token-count` and `-cache-write-input-token-count`.

Bedrock goes on, and bills all of it, when a client stops reading a stream: read a stream to its end where you can.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NotRequired, Unpack

from usage_events.errors import ProviderUsageError
from usage_events.event import UsageEvent
from usage_events.providers import anthropic, openai
from usage_events.providers.answers import Counts, checked_count, field, text
from usage_events.providers.calls import Call, Usage, event_of
from usage_events.providers.streams import Stream, StreamedCall

PROVIDER = "bedrock"
_ASK = (
    "Converse has it in usage, ConverseStream in its last event, metadata; for InvokeModel pass the whole response of"
    " boto3 with its ResponseMetadata, and body= (what response['body'].read() gave)"
)
_HEADER = "x-amzn-bedrock-"
_METRICS = "amazon-bedrock-invocationMetrics"
_KEPT = {"5m": "cache_write_5m_input_tokens", "1h": "cache_write_1h_input_tokens"}


class InvokeCall(Call):
    """What the caller says of a call; `body`: the body of an answer of InvokeModel."""

    body: NotRequired[Mapping[str, Any] | bytes | str | None]


def usage_event(response: object, **call: Unpack[InvokeCall]) -> UsageEvent:
    """The event of a whole answer of Converse or InvokeModel.

    Raises:
        UsageMissingError: the answer has no usage.
        ProviderUsageError: a count is none, or the model is not given.
        pydantic.ValidationError: the worker would refuse the event.
    """
    body = call.get("body")
    if isinstance(body, (bytes, str)):
        body = _parsed(body)
    if field(response, "usage") is not None:
        usage = _converse_usage(response)
    else:
        usage = _body_usage(body) or _header_usage(response)
    return event_of(_named(usage, response, response, call), call, InvokeCall)


def usage_event_of_stream(
    events: Iterable[object], *, response: object = None, **call: Unpack[StreamedCall]
) -> UsageEvent:
    """The event of a stream's events, and of the response that they came in; see `StreamUsage`."""
    return StreamUsage(response).add_all(events).event(**call)


def _named(usage: Usage, answer: object, response: object, call: Call) -> Usage:
    """The usage with what Bedrock says around it: beside the counts, and in the response of boto3."""
    metadata = field(response, "ResponseMetadata")
    headers = field(metadata, "HTTPHeaders")
    router = field(field(answer, "trace"), "promptRouter")
    model = text(router, "invokedModelId") or call.get("model")
    if model is None:
        raise ProviderUsageError("an answer of Bedrock does not say which model ran: give model=, the call's modelId")
    tier = text(field(answer, "serviceTier"), "type") or text(response, "serviceTier")
    return replace(
        usage,
        provider=PROVIDER,
        ask=_ASK,
        model=model,
        response_id=text(metadata, "RequestId") or usage.response_id,
        service_tier=tier or text(headers, f"{_HEADER}service-tier"),
        created=field(headers, "date"),
    )


def _parsed(body: bytes | str) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except ValueError as error:
        raise ProviderUsageError(f"the body begins with {body[:80]!r}, which is no JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ProviderUsageError(f"the body begins with {body[:80]!r}; an answer is a JSON object")
    return parsed


def _converse_usage(response: object) -> Usage:
    counts = Counts(field(response, "usage"), "usage")
    usage = _summed(
        counts.get("inputTokens"),
        counts.get("outputTokens"),
        counts.get("cacheReadInputTokens", "cacheReadInputTokenCount"),
        counts.get("cacheWriteInputTokens", "cacheWriteInputTokenCount"),
    )
    kept = {
        _KEPT[ttl]: tokens
        for detail in counts.each("cacheDetails")
        if (ttl := detail.text("ttl")) in _KEPT and (tokens := detail.get("inputTokens"))
    }
    return replace(usage, total_tokens=counts.get("totalTokens"), breakdown={**usage.breakdown, **kept})


def _summed(fresh: int | None, output: int | None, read: int | None, written: int | None) -> Usage:
    parts = {"cached_input_tokens": read, "cache_write_input_tokens": written}
    return Usage(
        provider=PROVIDER,
        ask=_ASK,
        input_tokens=None if fresh is None else fresh + (read or 0) + (written or 0),
        output_tokens=output,
        breakdown={key: value for key, value in parts.items() if value},
    )


def _header_usage(response: object) -> Usage:
    headers = field(field(response, "ResponseMetadata"), "HTTPHeaders")

    def said(name: str) -> int | None:
        value = text(headers, f"{_HEADER}{name}-token-count")
        if value is None:
            return None
        return checked_count(
            int(value) if value.isascii() and value.isdigit() else value, f"{_HEADER}{name}-token-count"
        )

    read, written = said("cache-read-input"), said("cache-write-input")
    output, fresh = said("output"), said("input")
    return _summed(fresh, 0 if output is None and fresh is not None else output, read, written)


def _body_usage(body: object) -> Usage | None:
    """What the body of InvokeModel says, for the families that say it there: else `None`."""
    counts = Counts(body, "body")
    usage = field(body, "usage")
    if field(usage, "inputTokens") is not None:  # Amazon Nova
        return _converse_usage(body)
    if field(usage, "input_tokens") is not None:  # Anthropic
        return anthropic.usage_of_message(body)
    if field(usage, "prompt_tokens") is not None:  # OpenAI, Mistral, DeepSeek, Qwen
        return openai.usage_of(body, usage)
    if (prompt := counts.get("prompt_token_count")) is not None:  # Meta Llama
        return _summed(prompt, counts.get("generation_token_count"), None, None)
    if (prompt := counts.get("inputTextTokenCount")) is not None:  # Amazon Titan, its embeddings too
        results = [result.get("tokenCount") or 0 for result in counts.each("results")]
        return _summed(prompt, sum(results), None, None)
    return None


class StreamUsage(Stream):
    """Collects what a stream says: events of ConverseStream, or of InvokeModelWithResponseStream.

    `response` is what boto3 gave, around the stream: the request's id and time stand in it.
    """

    def __init__(self, response: object = None) -> None:
        super().__init__()
        self._response = response
        self._metadata: object = None
        self._metrics: object = None
        self._inner: Stream | None = None

    def _take(self, event: object) -> None:
        raw = field(field(event, "chunk"), "bytes")
        if raw is not None:
            self._add_payload(_parsed(raw))
        else:
            self._add_event(event)

    def _add_event(self, event: object) -> None:
        delta = field(field(event, "contentBlockDelta"), "delta")
        self._hear(field(delta, "text"), field(field(delta, "reasoningContent"), "text"))
        self._hear(field(field(delta, "toolUse"), "input"))
        self._metadata = field(event, "metadata") or self._metadata

    def _add_payload(self, payload: dict[str, Any]) -> None:
        self._metrics = payload.get(_METRICS) or self._metrics
        if anthropic.tells(payload):
            self._inner = self._inner or anthropic.StreamUsage()
            self._inner.add(payload)
        elif "choices" in payload:
            self._inner = self._inner or openai.StreamUsage()
            self._inner.add(payload)
        else:
            self._hear(payload.get("generation"), payload.get("outputText"))  # Llama, Titan
            self._add_event(payload)

    @property
    def text(self) -> str:
        """The text that has come so far."""
        return self._inner.text if self._inner is not None else super().text

    def so_far(self) -> Usage:
        """What the provider has said so far."""
        if self._inner is not None and (self._inner.complete or self._metrics is None):
            return self._inner.so_far()
        if self._metrics is None:
            return _converse_usage(self._metadata)
        counts = Counts(self._metrics, _METRICS)
        return _summed(
            counts.get("inputTokenCount"),
            counts.get("outputTokenCount"),
            counts.get("cacheReadInputTokenCount"),
            counts.get("cacheWriteInputTokenCount"),
        )

    def _named(self, usage: Usage, call: StreamedCall) -> Usage:
        return _named(usage, self._metadata, self._response, call)

    @property
    def complete(self) -> bool:
        """Has the provider said all that it says of the usage?"""
        inner = self._inner is not None and self._inner.complete
        return self._metadata is not None or self._metrics is not None or inner
