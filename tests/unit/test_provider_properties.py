"""Whatever counts a provider gives, input and output add up to what it bills, and no part is billed twice."""

from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st
from provider_cases import WHO, as_objects
from usage_events import UsageEvent
from usage_events.providers import anthropic, bedrock, google, ollama, openai, opentelemetry

# Five of them add up to less than an event can hold.
TOKENS = st.integers(0, 400_000_000)
MAYBE = st.none() | TOKENS


def billed(event: UsageEvent) -> tuple[int, int]:
    """Input and output."""
    assert event.input_tokens is not None
    assert event.output_tokens is not None
    return event.input_tokens, event.output_tokens


def details(**given_counts: int | None) -> dict[str, int | None]:
    """Details of a count, some of them `null`."""
    return given_counts


@given(TOKENS, TOKENS, MAYBE, MAYBE, MAYBE, st.sampled_from([("prompt", "completion"), ("input", "output")]))
def test_openais_details_are_inside(
    prompt: int, completion: int, cached: int | None, reasoning: int | None, audio: int | None, sides: tuple[str, str]
) -> None:
    """Cached, reasoning and audio tokens change no total, in both of its interfaces."""
    names = (f"{sides[0]}_tokens", f"{sides[1]}_tokens")
    usage = {
        names[0]: prompt,
        names[1]: completion,
        "total_tokens": prompt + completion,
        f"{names[0]}_details": details(cached_tokens=cached, audio_tokens=audio),
        f"{names[1]}_details": details(reasoning_tokens=reasoning, audio_tokens=audio),
    }
    event = openai.usage_event({"usage": usage}, **WHO)
    assert billed(event) == (prompt, completion)
    assert "unattributed_output_tokens" not in (event.request_metadata or {})


@given(TOKENS, TOKENS, TOKENS)
def test_what_a_total_has_beyond_its_parts_is_output(prompt: int, completion: int, beyond: int) -> None:
    """The sum is the provider's total, to the token."""
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion + beyond}
    assert billed(openai.usage_event({"usage": usage}, **WHO)) == (prompt, completion + beyond)


@given(TOKENS, MAYBE, MAYBE, TOKENS)
def test_anthropics_cache_is_on_top(fresh: int, read: int | None, written: int | None, output: int) -> None:
    """Total input is the sum of the three, as its documentation says; a stream's end says the same as the whole."""
    usage = {
        "input_tokens": fresh,
        "cache_read_input_tokens": read,
        "cache_creation_input_tokens": written,
        "output_tokens": output,
    }
    expected = (fresh + (read or 0) + (written or 0), output)
    whole = {"content": [{}], "usage": usage}
    assert billed(anthropic.usage_event(whole, **WHO)) == expected
    assert billed(anthropic.usage_event(as_objects(whole), **WHO)) == expected
    begin = {"type": "message_start", "message": {"usage": usage | {"output_tokens": 1}}}
    block = {"type": "content_block_start"}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": output}}
    assert billed(anthropic.usage_event_of_stream([begin, block, end], **WHO)) == expected


ATTEMPT = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["message", "compaction", "advisor_message"]),
        "input_tokens": st.integers(0, 10_000_000),
        "cache_read_input_tokens": st.integers(0, 10_000_000),
        "cache_creation_input_tokens": st.integers(0, 10_000_000),
        "output_tokens": st.integers(0, 10_000_000),
    }
)


@given(st.lists(ATTEMPT, min_size=1, max_size=6))
def test_anthropics_iterations_are_each_billed_once(attempts: list[dict[str, Any]]) -> None:
    """The sum over all of them, whatever the counts above them hold of it: the first attempt, or all of them."""
    own = [attempt for attempt in attempts if attempt["type"] == "message"]
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
    expected = (
        sum(attempt[name] for attempt in attempts for name in names[:3]),
        sum(a["output_tokens"] for a in attempts),
    )
    first = {name: own[0][name] if own else 0 for name in names}
    every = {name: sum(attempt[name] for attempt in own) for name in names}
    for top in (first, every):
        answer = {"content": [{}], "usage": top | {"iterations": attempts}}
        assert billed(anthropic.usage_event(answer, **WHO)) == expected


@given(TOKENS, MAYBE, MAYBE, MAYBE, MAYBE)
def test_googles_thoughts_and_tools_are_on_top(
    prompt: int, candidates: int | None, thoughts: int | None, tools: int | None, cached: int | None
) -> None:
    """What is cached is in the prompt; the rest adds up to the total as the SDK documents it, in both spellings."""
    total = prompt + (candidates or 0) + (thoughts or 0) + (tools or 0)
    usage = {
        "prompt_token_count": prompt,
        "candidates_token_count": candidates,
        "thoughts_token_count": thoughts,
        "tool_use_prompt_token_count": tools,
        "cached_content_token_count": cached,
        "total_token_count": total,
    }
    expected = (prompt + (tools or 0), (candidates or 0) + (thoughts or 0))
    assert billed(google.usage_event({"usage_metadata": usage}, **WHO)) == expected
    camel = {"".join(w.title() if at else w for at, w in enumerate(name.split("_"))): n for name, n in usage.items()}
    assert billed(google.usage_event({"usageMetadata": camel}, **WHO)) == expected


@given(TOKENS, TOKENS, MAYBE, MAYBE)
def test_bedrocks_cache_is_on_top(fresh: int, output: int, read: int | None, written: int | None) -> None:
    """In Converse, in the headers of InvokeModel and in its streams' metrics alike."""
    expected = (fresh + (read or 0) + (written or 0), output)
    usage = {
        "inputTokens": fresh,
        "outputTokens": output,
        "totalTokens": sum(expected),
        "cacheReadInputTokens": read,
        "cacheWriteInputTokens": written,
    }
    assert billed(bedrock.usage_event({"usage": usage}, model="m", **WHO)) == expected
    given_counts = {"input": fresh, "output": output, "cache-read-input": read, "cache-write-input": written}
    headers = {f"x-amzn-bedrock-{name}-token-count": str(n) for name, n in given_counts.items() if n is not None}
    assert billed(bedrock.usage_event({"ResponseMetadata": {"HTTPHeaders": headers}}, model="m", **WHO)) == expected
    stream = [{"metadata": {"usage": usage}}]
    assert billed(bedrock.usage_event_of_stream(stream, model="m", **WHO)) == expected


@given(TOKENS, TOKENS, TOKENS)
def test_ollamas_cache_is_inside(prompt: int, output: int, cached: int) -> None:
    """`prompt_eval_count` includes what was read from the cache."""
    answer = {"done": True, "prompt_eval_count": prompt, "eval_count": output, "prompt_eval_cached_count": cached}
    assert billed(ollama.usage_event(answer, **WHO)) == (prompt, output)


@given(TOKENS, TOKENS, TOKENS, TOKENS, TOKENS)
def test_opentelemetrys_cache_and_reasoning_are_inside(
    input_tokens: int, output: int, read: int, written: int, reasoning: int
) -> None:
    """As the conventions say; and on top where the caller knows that an instrumentation leaves the cache out."""
    span = {
        "gen_ai.usage.input_tokens": input_tokens,
        "gen_ai.usage.output_tokens": output,
        "gen_ai.usage.cache_read.input_tokens": read,
        "gen_ai.usage.cache_creation.input_tokens": written,
        "gen_ai.usage.reasoning.output_tokens": reasoning,
    }
    apart = opentelemetry.usage_event(span, input_includes_cache=False, **WHO)
    assert billed(apart) == (input_tokens + read + written, output)
    assume(read + written <= input_tokens)
    assert billed(opentelemetry.usage_event(span, **WHO)) == (input_tokens, output)
