"""The recorded shapes as objects of the providers' own SDKs, where these are installed.

They are no dependency: `uv run --with openai --with anthropic --with google-genai --with ollama --with
opentelemetry-sdk pytest tests/unit/test_provider_sdks.py` runs all of it.
"""

from collections.abc import Callable
from typing import Any

import pytest
from provider_cases import WHO, Case, case
from usage_events.providers import opentelemetry


def built(module: str, name: str) -> Callable[[Any], Any]:
    """How a class of an SDK is made of JSON; the test is skipped where the SDK is not installed."""
    kind = getattr(pytest.importorskip(module), name)
    make = getattr(kind, "model_validate", None) or kind
    assert callable(make)
    return make  # type: ignore[no-any-return]


def check(one: Case, answer: Any) -> None:
    """Do the SDK's objects become what the JSON becomes?"""
    event = one.event(answer)
    assert (event.input_tokens, event.output_tokens) == (one.expect["input_tokens"], one.expect["output_tokens"])
    assert event.model == one.expect["model"]
    assert event.request_metadata == one.expect["metadata"]


@pytest.mark.parametrize(
    ("name", "module", "kind"),
    [
        ("openai_chat", "openai.types.chat", "ChatCompletion"),
        ("openai_chat_details", "openai.types.chat", "ChatCompletion"),
        ("openai_embeddings", "openai.types", "CreateEmbeddingResponse"),
        ("anthropic_message_cached", "anthropic.types", "Message"),
        ("anthropic_message_details", "anthropic.types", "Message"),
        ("google_thoughts", "google.genai.types", "GenerateContentResponse"),
        ("google_details", "google.genai.types", "GenerateContentResponse"),
        ("ollama_generate", "ollama", "GenerateResponse"),
        ("ollama_embed", "ollama", "EmbedResponse"),
    ],
)
def test_a_whole_answer(name: str, module: str, kind: str) -> None:
    """What an SDK returns becomes what its JSON becomes."""
    one = case(name)
    check(one, built(module, kind)(one.answer))


@pytest.mark.parametrize("name", ["openai_responses", "openai_responses_reasoning"])
def test_a_response(name: str) -> None:
    """The Responses API, as the SDK builds it from the wire, with what the documentation's example leaves out."""
    one = case(name)
    response = pytest.importorskip("openai.types.responses").Response
    check(one, response.construct(**one.answer))


@pytest.mark.parametrize("name", ["anthropic_compaction", "anthropic_advisor", "anthropic_fallback"])
def test_a_message_of_the_beta(name: str) -> None:
    """`usage.iterations`, as the SDK's own types hold them."""
    one = case(name)
    message = pytest.importorskip("anthropic.types.beta").BetaMessage
    check(one, message.construct(**one.answer))


@pytest.mark.parametrize(
    ("name", "module", "kind"),
    [
        ("openai_chat_stream", "openai.types.chat", "ChatCompletionChunk"),
        ("google_stream", "google.genai.types", "GenerateContentResponse"),
        ("ollama_chat_stream", "ollama", "ChatResponse"),
    ],
)
def test_a_streams_chunks(name: str, module: str, kind: str) -> None:
    """What an SDK's stream gives becomes what its JSON becomes."""
    one = case(name)
    make = built(module, kind)
    check(one, [make(chunk) for chunk in one.stream or []])


@pytest.mark.parametrize("name", ["anthropic_stream", "anthropic_stream_web_search"])
def test_a_streams_events(name: str) -> None:
    """Each event is an object as the SDK's stream gives it, built without validation as the SDK does."""
    one = case(name)
    types = pytest.importorskip("anthropic.types")
    events = [event for event in one.stream or [] if event["type"] != "ping"]  # the SDK keeps these to itself
    kinds = [getattr(types, f"Raw{event['type'].title().replace('_', '')}Event") for event in events]
    check(one, [kind.construct(**event) for kind, event in zip(kinds, events, strict=True)])


def test_a_span_of_the_sdk() -> None:
    """A finished span of OpenTelemetry's SDK, with its own attributes and time."""
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    one = case("opentelemetry_span")
    span = sdk.TracerProvider().get_tracer("test").start_span("chat gpt-4", attributes=one.answer)
    span.end()
    check(one, span)
    assert opentelemetry.usage_event(span, **WHO).created_at.timestamp() == pytest.approx(span.end_time / 1e9)
