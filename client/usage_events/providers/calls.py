"""What all providers have in common: what the caller says of a call, what the provider says, and the event of both."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, Required, TypedDict
from uuid import UUID

from pydantic import JsonValue

from usage_events.contract import MODEL_CHARACTERS_MAX
from usage_events.errors import ProviderUsageError, UsageMissingError
from usage_events.event import UsageEvent
from usage_events.providers.answers import moment

METADATA_KEYS = {
    "provider": "who answered",
    "provider_response_id": "the answer's id",
    "provider_model": "the model's whole name or ARN, where `model` is a shorter form of it",
    "provider_total_tokens": "the provider's total, where it is less than the sum of its parts (the parts are billed)",
    "service_tier": "the tier that served the call",
    "speed": "Anthropic's mode, where it is priced apart",
    "inference_geo": "where the model ran, where the provider says so",
    "usage": "`partial`: a stream was cut, and this is what the provider had said; `estimated`: with an estimate in it",
    "cached_input_tokens": "of the input: read from the provider's cache",
    "cache_write_input_tokens": "of the input: written to the cache",
    "cache_write_5m_input_tokens": "of these: kept for 5 minutes",
    "cache_write_30m_input_tokens": "of these: kept for 30 minutes",
    "cache_write_1h_input_tokens": "of these: kept for an hour",
    "cache_write_12h_input_tokens": "of these: kept for 12 hours",
    "audio_input_tokens": "of the input: audio",
    "image_input_tokens": "of the input: images",
    "video_input_tokens": "of the input: video",
    "document_input_tokens": "of the input: documents",
    "tool_use_input_tokens": "of the input: what tools at the provider gave back to the model",
    "compaction_input_tokens": "of the input: read to compact the conversation",
    "reasoning_output_tokens": "of the output: reasoning",
    "audio_output_tokens": "of the output: audio",
    "image_output_tokens": "of the output: images",
    "accepted_prediction_output_tokens": "of the output: predicted and used",
    "rejected_prediction_output_tokens": "of the output: predicted and not used",
    "compaction_output_tokens": "of the output: written to compact the conversation",
    "unattributed_output_tokens": "of the output: in the provider's total, but in none of its parts",
    "unbilled_input_tokens": "beside the input: of attempts that were refused before any output, for no charge",
    "unbilled_output_tokens": "beside the output: likewise",
    "other_models": "of input and output: what models other than `model` used, by model",
    "web_search_requests": "searches at the provider, which are charged apart",
    "web_fetch_requests": "pages fetched at the provider",
}

Mark = Literal["partial", "estimated"]


class Call(TypedDict, total=False):
    """What the caller says. What is not given, or `None`, is absent."""

    user_id: Required[UUID | str]
    organization_id: Required[UUID | str]
    endpoint: str | None
    request_type: str | None
    metadata: Mapping[str, Any] | None
    """Goes to `request_metadata`, beside the provider's breakdown."""
    model: str | None
    """The model that was asked for: taken where the answer does not say which one ran."""
    provider: str | None
    """Who answered, where it is not the module's own provider (an Azure deployment, a compatible server)."""
    id: UUID | str | None
    id_from_response: bool
    """Makes the event's id of the answer's: `UsageEvent.id_for(provider, response.id)`."""
    created_at: datetime | None
    estimated_cost_usd: Decimal | float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a provider says of one call. Counts are as they are billed; `None`: it says nothing."""

    provider: str
    ask: str
    """How to get the usage where it is missing."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    breakdown: Mapping[str, JsonValue] = field(default_factory=dict)
    model: str | None = None
    response_id: str | None = None
    service_tier: str | None = None
    created: object = None
    """When, as the provider writes it."""
    request_type: str | None = None
    mark: Mark | None = None


def event_of(usage: Usage, call: Call, arguments: type = Call) -> UsageEvent:
    """The event of a call; `arguments` is the type that `call` has.

    Raises:
        TypeError: `call` has an argument that does not exist: a misspelt one must not be dropped.
        UsageMissingError: the provider does not say what the call used.
        ProviderUsageError: the answer, or what the caller says of it, does not make an event.
        pydantic.ValidationError: the worker would refuse the event.
    """
    _check_names(call, arguments)
    usage = attributed(usage)
    if usage.input_tokens is None or usage.output_tokens is None:
        raise UsageMissingError(f"the answer of {call.get('provider') or usage.provider} has no usage: {usage.ask}")
    provider = call.get("provider") or usage.provider
    identity, created_at = _identity(usage, call, provider)
    name = usage.model or call.get("model")
    model = None if name is None else short_model(name)
    said = {
        "provider": provider,
        "provider_response_id": usage.response_id,
        "provider_model": name if name != model else None,
        "service_tier": usage.service_tier,
        "usage": usage.mark,
        **usage.breakdown,
    }
    fields = {
        "id": identity,
        "created_at": created_at,
        "user_id": call.get("user_id"),  # where it is missing, the event says so
        "organization_id": call.get("organization_id"),
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "endpoint": call.get("endpoint"),
        "model": model,
        "request_type": call.get("request_type") or usage.request_type,
        "request_metadata": _own(call) | {key: value for key, value in said.items() if value is not None},
        "estimated_cost_usd": call.get("estimated_cost_usd"),
    }
    return UsageEvent.model_validate({name: value for name, value in fields.items() if value is not None})


def _check_names(call: Call, arguments: type) -> None:
    names = arguments.__annotations__.keys()
    unknown = sorted(call.keys() - names)
    if unknown:
        raise TypeError(f"{', '.join(unknown)}: no such argument; there are {', '.join(sorted(names))}")


def attributed(usage: Usage) -> Usage:
    """The usage with what its total has beyond its parts.

    A total above the sum of the parts holds output that the provider names nowhere (thoughts, reasoning): the input was
    known before. Below the sum, the parts stand, and the total is kept for whoever wonders.
    """
    if usage.total_tokens is None or usage.input_tokens is None:
        return usage
    rest = usage.total_tokens - usage.input_tokens - (usage.output_tokens or 0)
    if rest < 0:
        breakdown = {**usage.breakdown, "provider_total_tokens": usage.total_tokens}
        return replace(usage, total_tokens=None, breakdown=breakdown)
    breakdown = {**usage.breakdown, **({"unattributed_output_tokens": rest} if rest else {})}
    return replace(usage, total_tokens=None, output_tokens=(usage.output_tokens or 0) + rest, breakdown=breakdown)


def short_model(name: str) -> str:
    """A model's name as an event can hold it: an ARN's last part, and at most 100 characters."""
    if name.startswith("arn:"):
        name = name.rpartition("/")[2] if "/" in name else name.rpartition(":")[2]
    return name[:MODEL_CHARACTERS_MAX]


def _own(call: Call) -> dict[str, Any]:
    own = dict(call.get("metadata") or {})
    taken = sorted(METADATA_KEYS.keys() & own.keys())
    if taken:
        raise ProviderUsageError(
            f"metadata has {', '.join(taken)}: what the provider says is written under that key;"
            " use another one (provider= and model= are arguments of their own)"
        )
    return own


def _identity(usage: Usage, call: Call, provider: str) -> tuple[UUID | str | None, datetime | None]:
    """The event's id and time, as far as they are given. An event that is made again has to get the same time, too."""
    identity, created_at = call.get("id"), call.get("created_at")
    if not call.get("id_from_response"):
        return identity, created_at
    if identity is not None:
        raise ProviderUsageError("id and id_from_response are both given: an event has one id")
    if usage.response_id is None:
        raise ProviderUsageError(f"the answer of {provider} has no id to make the event's of: give id= instead")
    created_at = created_at or moment(usage.created)
    if created_at is None:
        raise ProviderUsageError(
            f"the answer of {provider} does not say when it was made: with id_from_response give created_at=, the same"
            " one each time, or the event made again is refused as id_conflict"
        )
    return UsageEvent.id_for(provider, usage.response_id), created_at
