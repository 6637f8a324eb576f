"""OpenTelemetry: spans by the GenAI semantic conventions.

Names are those of the conventions 1.41 (April 2026), the last that open-telemetry/semantic-conventions published before
they moved to open-telemetry/semantic-conventions-genai. Older names are accepted: `gen_ai.system` (to 1.36),
`gen_ai.usage.prompt_tokens` and `completion_tokens` (to 1.26), and the cache's names of OpenLLMetry.

Counts of the cache and of reasoning are inside of input and output, as the conventions say. An instrumentation that
leaves the cache out of the input (Anthropic's own count) needs `input_includes_cache=False`.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Unpack

from usage_events.errors import ProviderUsageError
from usage_events.event import UsageEvent
from usage_events.providers.answers import Counts, field, text
from usage_events.providers.calls import Call, Usage, event_of

CONVENTIONS_VERSION = "1.41.0"
_ASK = "gen_ai.usage.input_tokens and gen_ai.usage.output_tokens are attributes of spans of calls; bill no other span"
_USAGE = "gen_ai.usage."
_INPUT = (f"{_USAGE}input_tokens", f"{_USAGE}prompt_tokens")
_OUTPUT = (f"{_USAGE}output_tokens", f"{_USAGE}completion_tokens")
_CACHE_READ = (f"{_USAGE}cache_read.input_tokens", f"{_USAGE}cache_read_input_tokens")
_CACHE_WRITE = (f"{_USAGE}cache_creation.input_tokens", f"{_USAGE}cache_creation_input_tokens")
_AROUND_CALLS = ("create_agent", "invoke_agent", "invoke_workflow", "execute_tool")
_OPERATION = "gen_ai.operation.name"


def usage_event(
    span: object, *, input_includes_cache: bool = True, accept_aggregate: bool = False, **call: Unpack[Call]
) -> UsageEvent:
    """The event of a span, or of its attributes. A span's end is the event's time, its operation the request type.

    `accept_aggregate` takes a span around calls too (`invoke_agent`), whose usage is that of the calls in it: only for
    an agent that runs elsewhere and leaves no spans of its calls.

    Raises:
        UsageMissingError: the span has no usage.
        ProviderUsageError: a count is none, the span is one around calls, or the cache holds more than the input.
        pydantic.ValidationError: the worker would refuse the event.
    """
    attributes = span if isinstance(span, Mapping) else field(span, "attributes")
    operation = text(attributes, _OPERATION)
    if operation in _AROUND_CALLS and not accept_aggregate:
        raise ProviderUsageError(
            f"{_OPERATION} is {operation}: what such a span counts is counted by the spans of the calls in it, too."
            " Bill those; or, where there are none, pass accept_aggregate=True"
        )
    ended_ns = None if isinstance(span, Mapping) else field(span, "end_time")
    if call.get("created_at") is None and isinstance(ended_ns, int):
        call["created_at"] = datetime.fromtimestamp(ended_ns / 1e9, UTC)
    return event_of(_usage_of(attributes, operation, input_includes_cache=input_includes_cache), call)


def _usage_of(attributes: Any, operation: str | None, *, input_includes_cache: bool) -> Usage:
    counts = Counts(attributes, "attributes")
    given, output = counts.get(*_INPUT), counts.get(*_OUTPUT)
    cached = (counts.get(*_CACHE_READ) or 0) + (counts.get(*_CACHE_WRITE) or 0)
    if given is not None and cached > given and input_includes_cache:
        raise ProviderUsageError(
            f"{_INPUT[0]} is {given}, and the cache's tokens are {cached}: they cannot be among them, as the"
            " conventions say they are. If this instrumentation leaves them out, pass input_includes_cache=False"
        )
    embeds = operation == "embeddings" and given is not None  # such a span has no count of output
    return Usage(
        provider=text(attributes, "gen_ai.provider.name", "gen_ai.system") or "unknown",
        ask=_ASK,
        input_tokens=given if given is None or input_includes_cache else given + cached,
        output_tokens=0 if output is None and embeds else output,
        breakdown=counts.named(
            cached_input_tokens=_CACHE_READ,
            cache_write_input_tokens=_CACHE_WRITE,
            reasoning_output_tokens=f"{_USAGE}reasoning.output_tokens",
        ),
        model=text(attributes, "gen_ai.response.model", "gen_ai.request.model"),
        response_id=text(attributes, "gen_ai.response.id"),
        service_tier=text(attributes, "openai.response.service_tier", "gen_ai.openai.response.service_tier"),
        request_type=operation,
    )
