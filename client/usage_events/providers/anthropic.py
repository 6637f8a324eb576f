"""Anthropic: Messages, beta features too, on its own API, on Vertex AI and with its SDK for Bedrock.

Reads and writes of the cache come on top of `input_tokens`. Where the answer has `usage.iterations` (compaction, an
advisor, a fallback), these are the record of what is billed: the counts above them leave out compaction, advisors and
attempts that were refused, and may hold the first attempt's input only. An attempt that was refused before any output
is not charged; its counts are kept as `unbilled_input_tokens`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Unpack

from pydantic import JsonValue

from usage_events.event import UsageEvent
from usage_events.providers.answers import Counts, field, items, text
from usage_events.providers.calls import Call, Usage, event_of
from usage_events.providers.streams import Stream, StreamedCall

PROVIDER = "anthropic"
_ASK = "usage stands in each Message, and in a stream's message_start and message_delta events"
_ATTEMPTS = ("message", "fallback_message")
_SAID = (
    "input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens", "cache_creation",
    "output_tokens_details", "server_tool_use", "service_tier", "speed", "inference_geo", "iterations",
)  # fmt: skip


def usage_event(message: object, **call: Unpack[Call]) -> UsageEvent:
    """The event of a whole Message.

    Raises:
        UsageMissingError: the answer has no usage.
        ProviderUsageError: a count is none.
        pydantic.ValidationError: the worker would refuse the event.
    """
    return event_of(usage_of_message(message), call)


def usage_event_of_stream(events: Iterable[object], **call: Unpack[StreamedCall]) -> UsageEvent:
    """The event of a stream's events; see `StreamUsage`."""
    return StreamUsage().add_all(events).event(**call)


class _Tokens(NamedTuple):
    """The four counts that are billed."""

    fresh: int
    read: int
    written: int
    output: int

    @property
    def input(self) -> int:
        return self.fresh + self.read + self.written

    def plus(self, other: "_Tokens") -> "_Tokens":
        return _Tokens(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def at_least(self, other: "_Tokens") -> "_Tokens":
        return _Tokens(*(max(mine, theirs) for mine, theirs in zip(self, other, strict=True)))


_NONE = _Tokens(0, 0, 0, 0)


def _tokens(counts: Counts) -> _Tokens:
    return _Tokens(
        counts.get("input_tokens") or 0,
        counts.get("cache_read_input_tokens") or 0,
        counts.get("cache_creation_input_tokens") or 0,
        counts.get("output_tokens") or 0,
    )


def usage_of_message(message: object) -> Usage:
    """What a whole Message says.

    Raises:
        ProviderUsageError: a count is none.
    """
    silent = field(message, "content") is not None and not items(message, "content")
    refused = silent and text(message, "stop_reason") == "refusal"
    return _usage_of(message, field(message, "usage"), refused=refused)


def _usage_of(message: object, usage: object, *, refused: bool) -> Usage:
    """What a Message with this usage says; `refused`: before it had any content."""
    counts = Counts(usage, "usage")
    model = text(message, "model")
    known = counts.get("input_tokens") is not None or bool(counts.each("iterations"))
    billed, breakdown = _billed(counts, model, refused=refused)
    return Usage(
        provider=PROVIDER,
        ask=_ASK,
        input_tokens=billed.input if known else None,
        output_tokens=billed.output if known else None,
        breakdown=breakdown,
        model=model,
        response_id=text(message, "id"),
        service_tier=counts.text("service_tier"),
    )


def _billed(counts: Counts, model: str | None, *, refused: bool) -> tuple[_Tokens, dict[str, JsonValue]]:
    """What is charged for, and what it consists of."""
    top, attempts, compaction, beside, unbilled = _tokens(counts), _NONE, _NONE, _NONE, _NONE
    others: dict[str, dict[str, int]] = {}
    parts = counts.each("iterations")
    falls_back = any(part.text("type") == "fallback_message" for part in parts)
    for part in parts:
        tokens, kind, name = _tokens(part), part.text("type"), part.text("model")
        declined = falls_back and kind == "message" and tokens.output == 0
        if kind in _ATTEMPTS and (refused or declined):
            unbilled = unbilled.plus(tokens)
            continue
        if kind in _ATTEMPTS:
            attempts = attempts.plus(tokens)
        elif kind == "compaction":
            compaction = compaction.plus(tokens)
        else:
            beside = beside.plus(tokens)
        if name is not None and name != model:
            other = others.setdefault(name, {"input_tokens": 0, "output_tokens": 0})
            other["input_tokens"] += tokens.input
            other["output_tokens"] += tokens.output
    if refused:
        unbilled, top = unbilled.at_least(top), _NONE
    billed = attempts.at_least(top).plus(compaction).plus(beside)
    named = {
        "cached_input_tokens": billed.read,
        "cache_write_input_tokens": billed.written,
        "compaction_input_tokens": compaction.input,
        "compaction_output_tokens": compaction.output,
        "unbilled_input_tokens": unbilled.input,
        "unbilled_output_tokens": unbilled.output,
    }
    breakdown: dict[str, JsonValue] = {key: value for key, value in named.items() if value}
    if others:
        breakdown["other_models"] = {name: dict[str, JsonValue](tokens) for name, tokens in others.items()}
    return billed, breakdown | _details(counts, billed)


def _details(counts: Counts, billed: _Tokens) -> dict[str, JsonValue]:
    kept = counts.part("cache_creation").named(
        cache_write_5m_input_tokens="ephemeral_5m_input_tokens",
        cache_write_1h_input_tokens="ephemeral_1h_input_tokens",
    )
    if sum(kept.values()) != billed.written:
        kept = {}  # of the first attempt only, or of a stream's beginning
    details: dict[str, JsonValue] = {
        **kept,
        **counts.part("output_tokens_details").named(reasoning_output_tokens="thinking_tokens"),
        **counts.part("server_tool_use").named(
            web_search_requests="web_search_requests",
            web_fetch_requests="web_fetch_requests",
        ),
    }
    names = {name: counts.text(name) for name in ("speed", "inference_geo")}
    return details | {name: value for name, value in names.items() if value not in {None, "standard", "not_available"}}


class StreamUsage(Stream):
    """Collects what a stream says. The counts of `message_delta` are cumulative: the last ones count."""

    def __init__(self) -> None:
        super().__init__()
        self._message: object = None
        self._said: dict[str, Any] = {}
        self._stop_reason: str | None = None
        self._silent = True

    def _take(self, event: object) -> None:
        match text(event, "type"):
            case "message_start":
                self._message = field(event, "message")
                self._keep(field(self._message, "usage"))
            case "message_delta":
                self._stop_reason = text(field(event, "delta"), "stop_reason") or self._stop_reason
                self._keep(field(event, "usage"))
            case "content_block_start":
                self._silent = False
            case "content_block_delta":
                delta = field(event, "delta")
                self._hear(*(field(delta, name) for name in ("text", "thinking", "partial_json")))

    def _keep(self, usage: object) -> None:
        self._said |= {name: value for name in _SAID if (value := field(usage, name)) is not None}

    def so_far(self) -> Usage:
        """What the provider has said so far."""
        refused = self._silent and self._stop_reason == "refusal"
        return _usage_of(self._message, self._said, refused=refused)

    @property
    def complete(self) -> bool:
        """Has the provider said all that it says of the usage?"""
        return self._stop_reason is not None


def tells(payload: Mapping[str, Any]) -> bool:
    """Is this an event of an Anthropic stream?"""
    return str(payload.get("type", "")).startswith(("message_", "content_block_"))
