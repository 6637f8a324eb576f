"""What the caller says of a call, and what is wrong with an answer: ids, times, names, counts."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from provider_cases import WHO, case
from pydantic import ValidationError
from usage_events import UsageEvent
from usage_events.errors import ProviderUsageError, UsageMissingError
from usage_events.providers import anthropic, bedrock, google, ollama, openai, opentelemetry
from usage_events.providers.answers import moment

NOW = datetime.now(UTC).replace(microsecond=0)
TODAY = int(NOW.timestamp())
HTTP_NOW = NOW.strftime("%a, %d %b %Y %H:%M:%S GMT")


def chat(**usage: Any) -> dict[str, Any]:
    """A whole answer of Chat Completions."""
    return {"id": "chatcmpl-1", "model": "gpt-5.4", "created": TODAY, "usage": usage}


def converse(**usage: Any) -> dict[str, Any]:
    """A whole answer of Converse."""
    metadata = {"RequestId": "r-1", "HTTPHeaders": {"date": HTTP_NOW}}
    return {"ResponseMetadata": metadata, "usage": {"inputTokens": 1, "outputTokens": 2} | usage}


def answers() -> list[tuple[str, Callable[..., UsageEvent], Any, str]]:
    """Of each provider that says both: its name, adapter, an answer made today, and the answer's id."""
    return [
        ("openai", openai.usage_event, chat(prompt_tokens=1, completion_tokens=2), "chatcmpl-1"),
        ("bedrock", bedrock.usage_event, converse(), "r-1"),
        (
            "google",
            google.usage_event,
            {
                "responseId": "g-1",
                "createTime": NOW.isoformat(),
                "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2},
            },
            "g-1",
        ),
    ]


@pytest.mark.parametrize(("provider", "adapter", "answer", "response_id"), answers())
def test_an_event_made_again_of_the_same_answer_is_the_same(
    provider: str, adapter: Callable[..., UsageEvent], answer: Any, response_id: str
) -> None:
    """With `id_from_response` id and time are the answer's: sent again, it is recognised, and no conflict."""
    first, again = (adapter(answer, model="m", id_from_response=True, **WHO) for _ in range(2))
    assert first.to_json() == again.to_json()
    assert first.id == UsageEvent.id_for(provider, response_id)
    assert first.created_at == NOW


def test_without_being_asked_each_event_has_an_id_of_its_own() -> None:
    """Two events of one answer are two events, made now."""
    answer = chat(prompt_tokens=1, completion_tokens=2) | {"created": 1}
    first, second = (openai.usage_event(answer, **WHO) for _ in range(2))
    assert first.id != second.id
    assert first.created_at >= NOW


def test_an_answer_that_does_not_say_when_needs_the_callers_time() -> None:
    """Anthropic's Messages have no time: made again with another one, the event would be refused as id_conflict."""
    answer = case("anthropic_message_cached").answer
    with pytest.raises(ProviderUsageError, match="id_conflict"):
        anthropic.usage_event(answer, id_from_response=True, **WHO)
    event = anthropic.usage_event(answer, id_from_response=True, created_at=NOW, **WHO)
    assert event.id == UsageEvent.id_for("anthropic", "msg_01XFDUDYJgAACzvnptvVoYEL")
    assert event.created_at == NOW


def test_an_answer_without_an_id_cannot_name_the_event() -> None:
    """Ollama and embeddings have none."""
    with pytest.raises(ProviderUsageError, match=r"the answer of ollama has no id .*: give id= instead"):
        ollama.usage_event(case("ollama_generate").answer, id_from_response=True, **WHO)


def test_an_event_has_one_id() -> None:
    """Both ways at once are a mistake; the caller's own id is taken as it is."""
    mine = UUID("0198c0de-0000-7000-8000-00000000000f")
    answer = chat(prompt_tokens=1, completion_tokens=2)
    assert openai.usage_event(answer, id=mine, created_at=NOW, **WHO).id == mine
    with pytest.raises(ProviderUsageError, match="an event has one id"):
        openai.usage_event(answer, id=mine, id_from_response=True, **WHO)


def test_metadata_of_the_caller_cannot_stand_where_the_providers_does() -> None:
    """Which keys are taken does not depend on what the answer says."""
    with pytest.raises(ProviderUsageError, match=r"metadata has cached_input_tokens, provider: .*provider= and model="):
        openai.usage_event(
            chat(prompt_tokens=1, completion_tokens=2), metadata={"provider": "azure", "cached_input_tokens": 0}, **WHO
        )


def test_another_provider_behind_the_same_interface_has_its_own_name() -> None:
    """Its ids do not meet those of the module's own provider either."""
    event = openai.usage_event(
        chat(prompt_tokens=1, completion_tokens=2), provider="azure", id_from_response=True, **WHO
    )
    assert event.request_metadata == {"provider": "azure", "provider_response_id": "chatcmpl-1"}
    assert event.id == UsageEvent.id_for("azure", "chatcmpl-1")


def test_the_model_is_the_one_that_ran() -> None:
    """What was asked for stands in where the answer names none."""
    answer = chat(prompt_tokens=1, completion_tokens=2)
    assert openai.usage_event(answer, model="gpt-5.4-alias", **WHO).model == "gpt-5.4"
    assert openai.usage_event(answer | {"model": None}, model="gpt-5.4-alias", **WHO).model == "gpt-5.4-alias"
    assert openai.usage_event(answer | {"model": None}, **WHO).model is None


def test_a_models_name_that_is_too_long_is_cut_and_kept_whole() -> None:
    """An event holds 100 characters of it; the rest is not lost, and the event not refused."""
    name = "ft:gpt-5.4:" + "x" * 200
    event = openai.usage_event(chat(prompt_tokens=1, completion_tokens=2) | {"model": name}, **WHO)
    assert event.model == name[:100]
    assert (event.request_metadata or {})["provider_model"] == name


@pytest.mark.parametrize(
    ("arn", "model"),
    [
        ("arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-lite-v1:0", "amazon.nova-lite-v1:0"),
        ("arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3d4e5f6", "a1b2c3d4e5f6"),
        ("arn:aws:bedrock:us-east-1:123456789012:custom-model/amazon.titan.x/abcdef123456", "abcdef123456"),
        ("arn:aws:sagemaker:us-east-1:123456789012:endpoint/chat", "chat"),
    ],
)
def test_an_arn_becomes_its_last_part(arn: str, model: str) -> None:
    """So that calls by name and by ARN are counted together; the whole is in the metadata."""
    event = bedrock.usage_event(converse(), model=arn, **WHO)
    assert event.model == model
    assert (event.request_metadata or {})["provider_model"] == arn


def test_bedrock_needs_the_model() -> None:
    """Its answers do not say it."""
    with pytest.raises(ProviderUsageError, match="give model=, the call's modelId"):
        bedrock.usage_event(converse(), **WHO)


WRONG = [-1, 7.0, 2.5, True, "7", 2**31]
COUNTED = [
    (openai.usage_event, lambda n: chat(prompt_tokens=n, completion_tokens=2), "usage.prompt_tokens"),
    (
        openai.usage_event,
        lambda n: chat(prompt_tokens=1, completion_tokens=2, prompt_tokens_details={"cached_tokens": n}),
        "usage.prompt_tokens_details.cached_tokens",
    ),
    (anthropic.usage_event, lambda n: {"usage": {"input_tokens": 1, "output_tokens": n}}, "usage.output_tokens"),
    (
        anthropic.usage_event,
        lambda n: {"usage": {"input_tokens": 1, "output_tokens": 1, "iterations": [{"input_tokens": n}]}},
        "usage.iterations[0].input_tokens",
    ),
    (google.usage_event, lambda n: {"usageMetadata": {"promptTokenCount": n}}, "usage_metadata.promptTokenCount"),
    (bedrock.usage_event, lambda n: converse(cacheReadInputTokens=n), "usage.cacheReadInputTokens"),
    (ollama.usage_event, lambda n: {"done": True, "prompt_eval_count": 1, "eval_count": n}, "response.eval_count"),
    (
        opentelemetry.usage_event,
        lambda n: {"gen_ai.usage.input_tokens": 1, "gen_ai.usage.output_tokens": n},
        "attributes.gen_ai.usage.output_tokens",
    ),
]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(("adapter", "answer", "path"), COUNTED)
def test_what_is_no_count_is_an_error_that_names_it(
    adapter: Callable[..., UsageEvent], answer: Callable[[object], Any], path: str, wrong: object
) -> None:
    """Negative numbers, floats, booleans, texts and what no event can hold are not billed as anything else."""
    with pytest.raises(ProviderUsageError) as caught:
        adapter(answer(wrong), model="m", **WHO)
    assert str(caught.value).startswith(f"{path} is {wrong!r}; a count is an integer from 0 to 2147483647.")


@pytest.mark.parametrize(
    ("adapter", "answer", "ask"),
    [
        (openai.usage_event, {"id": "x", "model": "m", "usage": None}, "stream_options={'include_usage': True}"),
        (openai.usage_event, chat(prompt_tokens=5, completion_tokens=None), "include_usage"),
        (openai.usage_event, chat(prompt_tokens=None, completion_tokens=5, total_tokens=9), "include_usage"),
        (anthropic.usage_event, {"id": "x", "usage": {}}, "message_start and message_delta"),
        (google.usage_event, {"candidates": []}, "usage_metadata stands in the whole answer"),
        (google.usage_event, {"usage_metadata": {"total_token_count": 9}}, "usage_metadata"),
        (bedrock.usage_event, {"ResponseMetadata": {"HTTPHeaders": {}}}, "ConverseStream in its last event"),
        (bedrock.usage_event, {"ResponseMetadata": {}, "body": object()}, "response['body'].read()"),
        (opentelemetry.usage_event, {"gen_ai.operation.name": "chat"}, "gen_ai.usage.input_tokens"),
    ],
)
def test_an_answer_without_usage_is_an_error_that_says_how_to_get_it(
    adapter: Callable[..., UsageEvent], answer: Any, ask: str
) -> None:
    """No answer is a free call because it does not say what it cost."""
    with pytest.raises(UsageMissingError) as caught:
        adapter(answer, model="m", **WHO)
    assert "has no usage" in str(caught.value)
    assert ask in str(caught.value)


def test_usage_in_seconds_is_no_usage_in_tokens() -> None:
    """whisper-1 is billed by the second."""
    with pytest.raises(ProviderUsageError, match="'duration': seconds are no tokens"):
        openai.usage_event({"usage": {"type": "duration", "seconds": 9}}, **WHO)


def test_a_total_below_its_parts_is_kept_where_it_can_be_seen() -> None:
    """The documented parts are billed, and the contradiction stands beside them."""
    event = openai.usage_event(chat(prompt_tokens=10, completion_tokens=5, total_tokens=12), **WHO)
    assert (event.input_tokens, event.output_tokens) == (10, 5)
    assert (event.request_metadata or {})["provider_total_tokens"] == 12


def test_cache_writes_of_openai_by_how_long_they_are_kept() -> None:
    """`cache_write_tokens_details` of the Responses API, openai 3.57.0."""
    kept = {"ttl_12h_tokens": 10, "ttl_30m_tokens": 20}
    details = {"cached_tokens": 0, "cache_write_tokens": 30, "cache_write_tokens_details": kept}
    usage = {"input_tokens": 40, "input_tokens_details": details, "output_tokens": 1, "total_tokens": 41}
    event = openai.usage_event({"usage": usage}, **WHO)
    assert event.request_metadata == {
        "provider": "openai",
        "cache_write_input_tokens": 30,
        "cache_write_30m_input_tokens": 20,
        "cache_write_12h_input_tokens": 10,
    }


def test_all_of_googles_modalities() -> None:
    """Video and documents come in, images go out; what is not documented of the output, and text, are the rest."""
    inputs = [{"modality": name, "tokenCount": at} for at, name in enumerate(("TEXT", "VIDEO", "DOCUMENT"), start=1)]
    usage = {
        "promptTokenCount": 6,
        "promptTokensDetails": inputs,
        "candidatesTokenCount": 9,
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 4}, {"modality": "VIDEO", "tokenCount": 5}],
    }
    assert google.usage_event({"usageMetadata": usage}, **WHO).request_metadata == {
        "provider": "google",
        "video_input_tokens": 2,
        "document_input_tokens": 3,
        "image_output_tokens": 4,
    }


def test_a_blocked_prompt_is_billed_for_its_input() -> None:
    """Google counts a prompt that it has blocked; no candidates is no missing usage."""
    answer = {
        "promptFeedback": {"blockReason": "SAFETY"},
        "usageMetadata": {"promptTokenCount": 6, "totalTokenCount": 6},
    }
    assert google.usage_event(answer, **WHO).tokens_used is None
    assert (google.usage_event(answer, **WHO).input_tokens, google.usage_event(answer, **WHO).output_tokens) == (6, 0)
    assert google.usage_event_of_stream([answer], **WHO).request_metadata == {"provider": "google"}


def test_what_is_the_same_for_nearly_all_calls_is_left_out() -> None:
    """Anthropic's standard speed and unknown region say nothing; a tier is said as it is."""
    usage = {"input_tokens": 1, "output_tokens": 2, "speed": "standard", "inference_geo": "not_available"}
    event = anthropic.usage_event({"usage": usage | {"service_tier": "standard"}}, **WHO)
    assert event.request_metadata == {"provider": "anthropic", "service_tier": "standard"}


def test_headers_of_an_embedding_have_no_output() -> None:
    """InvokeModel says the input's tokens alone."""
    headers = {"x-amzn-bedrock-input-token-count": "8"}
    event = bedrock.usage_event({"ResponseMetadata": {"HTTPHeaders": headers}}, model="cohere.embed-v4", **WHO)
    assert (event.input_tokens, event.output_tokens) == (8, 0)


def test_a_header_that_is_no_count_is_an_error() -> None:
    """It is text, and read as digits only."""
    for wrong in ("-1", "1.5", "\u0661"):
        headers = {"x-amzn-bedrock-input-token-count": wrong}
        with pytest.raises(ProviderUsageError, match="x-amzn-bedrock-input-token-count is "):
            bedrock.usage_event({"ResponseMetadata": {"HTTPHeaders": headers}}, model="m", **WHO)


@pytest.mark.parametrize("operation", ["invoke_agent", "invoke_workflow", "create_agent", "execute_tool"])
def test_a_span_around_calls_is_not_billed_beside_them(operation: str) -> None:
    """Its counts are those of the calls in it; where there are no spans of those, the caller says so."""
    span = {"gen_ai.operation.name": operation, "gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 4}
    with pytest.raises(ProviderUsageError, match="accept_aggregate=True"):
        opentelemetry.usage_event(span, **WHO)
    event = opentelemetry.usage_event(span, accept_aggregate=True, **WHO)
    assert (event.input_tokens, event.output_tokens, event.request_type) == (3, 4, operation)


def test_a_cache_that_is_larger_than_the_input_is_not_in_it() -> None:
    """Such an instrumentation leaves the cache out: nothing is guessed, and the caller says so."""
    span = {
        "gen_ai.system": "anthropic",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read_input_tokens": 100,
        "gen_ai.usage.cache_creation_input_tokens": 20,
    }
    with pytest.raises(ProviderUsageError, match="input_includes_cache=False"):
        opentelemetry.usage_event(span, **WHO)
    event = opentelemetry.usage_event(span, input_includes_cache=False, **WHO)
    assert (event.input_tokens, event.output_tokens) == (130, 4)


def test_a_spans_end_is_the_events_time() -> None:
    """An SDK's span has it; a caller's own time comes first."""
    attributes = {"gen_ai.operation.name": "embeddings", "gen_ai.usage.input_tokens": 3}
    span = SimpleNamespace(attributes=attributes, end_time=TODAY * 10**9)
    event = opentelemetry.usage_event(span, **WHO)
    assert (event.created_at, event.input_tokens, event.output_tokens) == (NOW, 3, 0)
    other = NOW - timedelta(days=1)
    assert opentelemetry.usage_event(span, created_at=other, **WHO).created_at == other


@pytest.mark.parametrize(
    ("adapter", "answer", "misspelt"),
    [
        (openai.usage_event, chat(prompt_tokens=1, completion_tokens=2), "metdata"),
        (openai.usage_event, chat(prompt_tokens=1, completion_tokens=2), "estimate_output_tokens"),
        (bedrock.usage_event, converse(), "bdy"),
        (ollama.usage_event, {"prompt_eval_count": 1, "eval_count": 2}, "estimate_outpt_tokens"),
    ],
)
def test_an_argument_that_does_not_exist_is_not_dropped(
    adapter: Callable[..., UsageEvent], answer: Any, misspelt: str
) -> None:
    """Also for callers without a type checker."""
    with pytest.raises(TypeError, match=f"^{misspelt}: no such argument; there are .*organization_id.*user_id$"):
        adapter(answer, model="m", **{misspelt: None}, **WHO)


def test_who_made_the_call_is_needed() -> None:
    """Its absence is an error of the event, which names the field."""
    with pytest.raises(ValidationError, match="organization_id"):
        openai.usage_event(chat(prompt_tokens=1, completion_tokens=2), user_id=WHO["user_id"])  # type: ignore[call-arg]


def test_what_the_worker_would_refuse_cannot_be_made() -> None:
    """The event's own rules hold for what comes from a provider, too."""
    with pytest.raises(ValidationError, match="endpoint"):
        openai.usage_event(chat(prompt_tokens=1, completion_tokens=2), endpoint="x" * 300, **WHO)
    with pytest.raises(ValidationError, match="tokens_used"):
        openai.usage_event(chat(prompt_tokens=2**31 - 1, completion_tokens=1), **WHO)


@pytest.mark.parametrize(
    ("written", "means"),
    [
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (1.5, datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)),
        ("2026-11-24T10:00:00Z", datetime(2026, 11, 24, 10, tzinfo=UTC)),
        (
            "2023-08-04T08:52:19.385406455-07:00",
            datetime(2023, 8, 4, 8, 52, 19, 385_406, tzinfo=timezone(timedelta(hours=-7))),
        ),
        ("Tue, 24 Nov 2026 10:00:00 GMT", datetime(2026, 11, 24, 10, tzinfo=UTC)),
        (NOW, NOW),
        ("yesterday", None),
        (10**30, None),
        (float("nan"), None),
        (None, None),
        ([], None),
    ],
)
def test_times_as_providers_write_them(written: object, means: datetime | None) -> None:
    """Seconds, RFC 3339 with nine digits, HTTP dates; what is none of them is no time."""
    assert moment(written) == means


def test_each_response_of_a_realtime_session_is_a_call() -> None:
    """`response.done` has the response; the session knows the model. Shape: openai 3.57.0, RealtimeResponseUsage."""
    done = {
        "type": "response.done",
        "response": {
            "id": "resp_1",
            "usage": {
                "input_tokens": 100,
                "input_token_details": {"audio_tokens": 60, "text_tokens": 40, "cached_tokens": 20},
                "output_tokens": 50,
                "output_token_details": {"audio_tokens": 30, "text_tokens": 20},
                "total_tokens": 150,
            },
        },
    }
    event = openai.usage_event(done["response"], model="gpt-realtime", **WHO)
    assert (event.input_tokens, event.output_tokens, event.model) == (100, 50, "gpt-realtime")
    assert event.request_metadata == {
        "provider": "openai",
        "provider_response_id": "resp_1",
        "cached_input_tokens": 20,
        "audio_input_tokens": 60,
        "audio_output_tokens": 30,
    }
