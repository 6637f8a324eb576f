"""Streams of providers that were cut off: what was said is billed, and marked; nothing becomes a free call."""

import json
from typing import Any

import pytest
from provider_cases import CASES, WHO, Case, case
from usage_events.errors import ProviderUsageError, UsageMissingError
from usage_events.providers import anthropic, bedrock, google, ollama, openai

STREAMS = [one for one in CASES if one.stream is not None]
NOVA = "amazon.nova-pro-v1:0"


def words(text: str) -> int:
    """A caller's way to count: one token a word."""
    return len(text.split())


def counts(event: Any) -> tuple[int | None, int | None, str | None]:
    """Input, output, and the mark."""
    return event.input_tokens, event.output_tokens, (event.request_metadata or {}).get("usage")


def chunk(content: str, **more: Any) -> dict[str, Any]:
    """A chunk of Chat Completions."""
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    return {"id": "chatcmpl-1", "model": "gpt-5.4", "created": 1, "choices": [choice], **more}


def test_an_aborted_chat_stream_is_billed_by_the_callers_estimate() -> None:
    """BerriAI/litellm#33736: a client that left in the middle paid nothing; here the row says that it is estimated."""
    chunks = [chunk("a story "), chunk("about a lighthouse")]
    event = openai.usage_event_of_stream(chunks, estimate_input_tokens=12, estimate_output_tokens=words, **WHO)
    assert counts(event) == (12, 5, "estimated")
    assert (event.model, event.request_metadata) == (
        "gpt-5.4",
        {"provider": "openai", "provider_response_id": "chatcmpl-1", "usage": "estimated"},
    )


def test_an_aborted_stream_is_billed_for_what_was_said() -> None:
    """langfuse/langfuse#12306: an aborted stream had no usage at all; here what the provider had said is billed."""
    stream = case("anthropic_stream").stream or []
    cut = [event for event in stream if event["type"] not in {"message_delta", "message_stop"}]
    assert counts(anthropic.usage_event_of_stream(cut, **WHO)) == (25, 1, "partial")


def test_an_aborted_chat_stream_without_an_estimate_is_an_error() -> None:
    """It says what to ask the provider for, and what to give."""
    with pytest.raises(UsageMissingError) as caught:
        openai.usage_event_of_stream([chunk("a")], **WHO)
    assert str(caught.value) == (
        "the stream of openai ended before it had said its usage: stream with stream_options={'include_usage': True}"
        " and read to the end; a response that runs in the background has it when it is completed; for a stream that"
        " was cut off give estimate_input_tokens= and estimate_output_tokens="
    )
    with pytest.raises(UsageMissingError):  # the input is not known, and not free
        openai.usage_event_of_stream([chunk("a")], estimate_output_tokens=1, **WHO)


def test_a_whole_stream_that_was_not_asked_for_its_usage_is_an_error() -> None:
    """Without `include_usage` nothing is billed as 0."""
    last = {"id": "chatcmpl-1", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    with pytest.raises(UsageMissingError, match="include_usage"):
        openai.usage_event_of_stream([chunk("a"), last], **WHO)


@pytest.mark.parametrize("one", [pytest.param(one, id=one.name) for one in STREAMS])
def test_a_whole_streams_usage_is_never_estimated(one: Case) -> None:
    """Estimates are for what the provider has not said."""
    event = one.event(estimate_input_tokens=9999, estimate_output_tokens=9999)
    assert counts(event) == (one.expect["input_tokens"], one.expect["output_tokens"], None)


def test_a_zero_that_the_provider_says_stays_zero() -> None:
    """BerriAI/litellm#37992: a zero is an answer, and no reason to bill an estimate."""
    said = chunk("", usage={"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}) | {"choices": []}
    event = openai.usage_event_of_stream([chunk("a"), said], estimate_input_tokens=7, estimate_output_tokens=7, **WHO)
    assert counts(event) == (0, 0, None)


@pytest.mark.parametrize("one", [pytest.param(one, id=one.name) for one in STREAMS])
def test_wherever_a_stream_is_cut_there_is_an_event_or_an_error(one: Case) -> None:
    """At each length the event is marked, or the error says what to give; never is it a whole call for nothing."""
    stream = one.stream or []
    outcomes = []
    for length in range(len(stream)):
        try:
            event = one.event(stream[:length])
        except UsageMissingError:
            outcomes.append("error")
            continue
        mark = counts(event)[2]
        outcomes.append(mark or "whole")
        if mark is None:  # all that is left then says nothing of the usage, like Anthropic's message_stop
            assert counts(event)[:2] == (one.expect["input_tokens"], one.expect["output_tokens"])
    assert outcomes[0] == "error"
    assert outcomes == sorted(outcomes, key=["error", "partial", "whole"].index)


@pytest.mark.parametrize("one", [pytest.param(one, id=one.name) for one in STREAMS])
def test_wherever_a_stream_is_cut_estimates_make_an_event(one: Case) -> None:
    """A caller who gives both estimates gets an event from any stream."""
    for length in range(len(one.stream or [])):
        event = one.event((one.stream or [])[:length], estimate_input_tokens=5, estimate_output_tokens=6)
        assert counts(event)[2] in {"estimated", None}


def test_a_stream_of_google_that_was_cut_has_the_last_counts() -> None:
    """Counts grow from chunk to chunk: the prompt, what was thought, and what was said until then."""
    stream = case("google_stream").stream or []
    assert counts(google.usage_event_of_stream(stream[:1], **WHO)) == (8, 30, "partial")
    assert counts(google.usage_event_of_stream(stream[:2], **WHO)) == (8, 42, "partial")


def test_an_estimate_does_not_take_away_what_was_said() -> None:
    """The larger of the two is billed: a count of the visible text knows nothing of thoughts."""
    stream = case("google_stream").stream or []
    event = google.usage_event_of_stream(stream[:2], estimate_output_tokens=words, **WHO)
    assert counts(event) == (8, 42, "estimated")
    assert counts(google.usage_event_of_stream(stream[:2], estimate_output_tokens=50, **WHO)) == (8, 50, "estimated")


def test_an_estimate_that_is_no_count_is_an_error() -> None:
    """A callable that returns a float or a negative number is the caller's mistake, and said so."""
    for wrong in (-1, 2.5, True):
        with pytest.raises(ProviderUsageError, match="estimate_output_tokens is"):
            openai.usage_event_of_stream([chunk("a")], estimate_input_tokens=1, estimate_output_tokens=wrong, **WHO)  # type: ignore[arg-type]


def test_a_server_that_counts_as_it_goes_is_billed_for_the_last_count() -> None:
    """With vLLM's `continuous_usage_stats`: each chunk has the counts so far; a cut stream has its last one's."""
    said = [chunk("a", usage={"prompt_tokens": 4, "completion_tokens": n, "total_tokens": 4 + n}) for n in (1, 2, 3)]
    assert counts(openai.usage_event_of_stream(said, **WHO)) == (4, 3, "partial")
    said[2]["choices"][0]["finish_reason"] = "stop"
    assert counts(openai.usage_event_of_stream(said, **WHO)) == (4, 3, None)


def test_a_stream_of_several_choices_is_whole_when_each_has_finished() -> None:
    """One finished choice of two is no whole stream."""
    usage = {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10}
    choices = [
        {"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"},
        {"index": 1, "delta": {"content": "b"}, "finish_reason": None},
    ]
    stream = openai.StreamUsage()
    stream.add({"id": "x", "model": "m", "choices": choices, "usage": usage})
    before = stream.complete
    stream.add({"id": "x", "model": "m", "choices": [{"index": 1, "delta": {}, "finish_reason": "length"}]})
    assert (before, stream.complete) == (False, True)
    assert counts(stream.event(**WHO)) == (4, 6, None)


def test_a_choice_that_has_finished_stays_so() -> None:
    """Chunks that come after its last one take nothing back."""
    usage = {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10}
    finished = {"id": "x", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    stream = [finished, chunk("", usage=usage)]
    assert counts(openai.usage_event_of_stream(stream, **WHO)) == (4, 6, None)


def test_what_a_chat_stream_has_said_is_all_of_its_text() -> None:
    """Answers, reasoning, refusals and arguments of tools are output, and a caller's count gets all of it."""
    stream = openai.StreamUsage()
    tool = {"index": 0, "function": {"arguments": '{"a":1}'}}
    for delta in ({"reasoning_content": "hm "}, {"content": "yes "}, {"refusal": "no "}, {"tool_calls": [tool]}):
        stream.add({"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    assert stream.text == 'hm yes no {"a":1}'


def test_a_cut_stream_of_responses_is_estimated_from_its_deltas() -> None:
    """Its events say nothing of the usage before the last one; audio is no text."""
    stream = (case("openai_responses_stream").stream or [])[:-1]
    audio = {"type": "response.audio.delta", "delta": "UklGRg=="}
    event = openai.usage_event_of_stream([*stream, audio], estimate_input_tokens=37, estimate_output_tokens=len, **WHO)
    assert counts(event) == (37, len("Hi"), "estimated")
    assert event.model == "gpt-5.4"


def test_a_failed_response_without_usage_is_an_error() -> None:
    """It may have cost something: nobody is told that it was free."""
    failed = {"type": "response.failed", "response": {"id": "resp_1", "model": "m", "status": "failed", "usage": None}}
    with pytest.raises(UsageMissingError):
        openai.usage_event_of_stream([failed], **WHO)


def test_how_long_anthropics_cache_is_kept_is_left_out_where_it_is_stale() -> None:
    """A stream's beginning splits what was written until then; where more comes later, the split is not its sum."""
    kept = {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 60}
    usage = {"input_tokens": 1, "cache_creation_input_tokens": 100, "cache_creation": kept, "output_tokens": 1}
    begin = {"type": "message_start", "message": {"usage": usage}}
    block = {"type": "content_block_start"}

    def metadata(written: int) -> dict[str, Any]:
        said = {"cache_creation_input_tokens": written, "output_tokens": 5}
        end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": said}
        return anthropic.usage_event_of_stream([begin, block, end], **WHO).request_metadata or {}

    split = {"cache_write_5m_input_tokens": 40, "cache_write_1h_input_tokens": 60}
    assert metadata(100) == {"provider": "anthropic", "cache_write_input_tokens": 100} | split
    assert metadata(150) == {"provider": "anthropic", "cache_write_input_tokens": 150}


def test_the_anthropic_sdks_own_events_are_not_heard_twice() -> None:
    """`messages.stream()` gives each text as an event of its own beside the delta."""
    stream = anthropic.StreamUsage()
    stream.add({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}})
    stream.add({"type": "text", "text": "Hi", "snapshot": "Hi"})
    assert stream.text == "Hi"


def test_an_anthropic_stream_that_was_refused_before_any_output_is_not_billed() -> None:
    """The provider does not charge for it; after output it does."""
    begin = {
        "type": "message_start",
        "message": {"id": "m", "model": "c", "usage": {"input_tokens": 9, "output_tokens": 1}},
    }
    end = {"type": "message_delta", "delta": {"stop_reason": "refusal"}, "usage": {"output_tokens": 3}}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    event = anthropic.usage_event_of_stream([begin, end], **WHO)
    assert counts(event) == (0, 0, None)
    assert event.request_metadata == {
        "provider": "anthropic",
        "provider_response_id": "m",
        "unbilled_input_tokens": 9,
        "unbilled_output_tokens": 3,
    }
    assert counts(anthropic.usage_event_of_stream([begin, block, end], **WHO)) == (9, 3, None)


def test_a_cut_stream_of_converse_needs_an_estimate() -> None:
    """Only its last event has counts."""
    stream = case("bedrock_converse_stream").stream or []
    with pytest.raises(UsageMissingError, match="metadata"):
        bedrock.usage_event_of_stream(stream[:-1], model=NOVA, **WHO)
    event = bedrock.usage_event_of_stream(
        stream[:-1], model=NOVA, estimate_input_tokens=30, estimate_output_tokens=len, **WHO
    )
    assert counts(event) == (30, len("Hi"), "estimated")


def wrapped(*payloads: dict[str, Any]) -> list[dict[str, Any]]:
    """Events of InvokeModelWithResponseStream."""
    return [{"chunk": {"bytes": json.dumps(payload).encode()}} for payload in payloads]


METRICS = {
    "inputTokenCount": 7,
    "outputTokenCount": 126,
    "cacheReadInputTokenCount": 14486,
    "cacheWriteInputTokenCount": 2,
}


@pytest.mark.parametrize(
    "payloads",
    [
        pytest.param([{"generation": "Hi", "amazon-bedrock-invocationMetrics": METRICS}], id="llama"),
        pytest.param(
            [{"outputText": "Hi"}, {"outputText": "", "amazon-bedrock-invocationMetrics": METRICS}], id="titan"
        ),
        pytest.param([{"type": "message_stop", "amazon-bedrock-invocationMetrics": METRICS}], id="anthropic"),
        pytest.param([{"choices": [], "amazon-bedrock-invocationMetrics": METRICS}], id="openai"),
    ],
)
def test_the_metrics_at_the_end_of_an_invoked_stream_count(payloads: list[dict[str, Any]]) -> None:
    """Each family's last chunk has them; the cache comes on top."""
    event = bedrock.usage_event_of_stream(wrapped(*payloads), model="m", **WHO)
    assert counts(event) == (7 + 14486 + 2, 126, None)
    assert event.request_metadata == {
        "provider": "bedrock",
        "cached_input_tokens": 14486,
        "cache_write_input_tokens": 2,
    }


def test_an_invoked_stream_of_anthropic_is_read_like_anthropics() -> None:
    """Whole, it has the provider's own counts; cut, those that were said; the model is the one that was called."""
    payloads = case("anthropic_stream").stream or []
    response = {"ResponseMetadata": {"RequestId": "r-1"}}
    whole = bedrock.usage_event_of_stream(wrapped(*payloads), model="anthropic.c", response=response, **WHO)
    assert counts(whole) == (25, 15, None)
    assert (whole.model, (whole.request_metadata or {})["provider_response_id"]) == ("anthropic.c", "r-1")
    cut = bedrock.usage_event_of_stream(wrapped(*payloads[:5]), model="anthropic.c", **WHO)
    assert counts(cut) == (25, 1, "partial")
    guessed = bedrock.usage_event_of_stream(
        wrapped(*payloads[:5]), model="anthropic.c", estimate_output_tokens=len, **WHO
    )
    assert counts(guessed) == (25, len("Hello!"), "estimated")


def test_an_invoked_stream_that_was_refused_is_not_billed_for_its_metrics() -> None:
    """The metrics count what is not charged, too; the message says what it was."""
    begin = {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}}
    end = {"type": "message_delta", "delta": {"stop_reason": "refusal"}, "usage": {"output_tokens": 1}}
    stop = {"type": "message_stop", "amazon-bedrock-invocationMetrics": METRICS}
    event = bedrock.usage_event_of_stream(wrapped(begin, end, stop), model="anthropic.c", **WHO)
    assert counts(event) == (0, 0, None)


def test_an_invoked_stream_of_nova_is_read_like_converse() -> None:
    """Its chunks hold Converse's events."""
    payloads = case("bedrock_converse_stream").stream or []
    assert counts(bedrock.usage_event_of_stream(wrapped(*payloads), model=NOVA, **WHO)) == (30, 12, None)


def test_a_chunk_that_is_no_json_object_is_an_error() -> None:
    """It says how the body begins."""
    with pytest.raises(ProviderUsageError, match=r"begins with b'\{\"a\"', which is no JSON"):
        bedrock.usage_event_of_stream([{"chunk": {"bytes": b'{"a"'}}], model="m", **WHO)
    with pytest.raises(ProviderUsageError, match=r"begins with '\[1\]'; an answer is a JSON object"):
        bedrock.usage_event({}, body="[1]", model="m", **WHO)


def test_ollama_without_the_prompts_count_is_partial_or_estimated() -> None:
    """ollama/ollama#2068: the count is absent where the prompt was cached. The output is billed all the same."""
    answer = {"model": "llama3.2", "done": True, "eval_count": 18, "message": {"content": "Hi"}}
    assert counts(ollama.usage_event(answer, **WHO)) == (0, 18, "partial")
    assert counts(ollama.usage_event(answer, estimate_input_tokens=11, **WHO)) == (11, 18, "estimated")


def test_ollamas_counts_before_the_end_are_partial() -> None:
    """Only the object with `done: true` has the last word."""
    answer = {"model": "llama3.2", "done": False, "prompt_eval_count": 11, "eval_count": 3}
    assert counts(ollama.usage_event(answer, **WHO)) == (11, 3, "partial")


def test_ollama_without_any_count_is_an_error() -> None:
    """A stream that was cut, or an answer that only loaded the model."""
    for last in ({"done": False, "response": "Hi"}, {"done": True, "done_reason": "load"}):
        with pytest.raises(UsageMissingError, match="done: true"):
            ollama.usage_event_of_stream([{"model": "llama3.2"} | last], **WHO)


@pytest.mark.parametrize(("breaks_at", "recorded"), [(0, []), (1, [(25, 1, "partial")]), (99, [(25, 15, None)])])
def test_a_service_can_record_in_a_finally(breaks_at: int, recorded: list[Any]) -> None:
    """What the client's README shows: the event is there whenever the reading ends, and what ended it goes on.

    A connection that failed before anything came leaves nothing to bill.
    """
    usage = anthropic.StreamUsage()
    events = []

    def answer() -> None:
        try:
            for at, event in enumerate(case("anthropic_stream").stream or []):
                if at == breaks_at:
                    raise ConnectionResetError
                usage.add(event)
        finally:
            if usage.started:
                events.append(usage.event(**WHO))

    if breaks_at < 99:
        with pytest.raises(ConnectionResetError):
            answer()
    else:
        answer()
    assert [counts(event) for event in events] == recorded
