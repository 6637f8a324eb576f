"""Providers' answers, as they document them, become events with what the provider bills."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from provider_cases import CASES, MODULES, Case, as_objects, with_strangers
from usage_events import UsageEvent
from usage_events.providers.calls import METADATA_KEYS

ONE_EACH = pytest.mark.parametrize("one", [pytest.param(case, id=case.name) for case in CASES])


def check(event: UsageEvent, one: Case) -> None:
    """Is this the event that the recorded shape must become?"""
    expect = one.expect
    assert (event.input_tokens, event.output_tokens) == (expect["input_tokens"], expect["output_tokens"])
    assert event.model == expect["model"]
    assert event.request_type == expect.get("request_type")
    assert event.request_metadata == expect["metadata"]


@ONE_EACH
def test_counts_model_and_breakdown(one: Case) -> None:
    """Each shape becomes the event that is written beside it, and its tokens add up to the provider's own total."""
    event = one.event()
    check(event, one)
    assert (event.input_tokens or 0) + (event.output_tokens or 0) == one.expect["total"]


@pytest.mark.parametrize(
    "one",
    [pytest.param(case, id=case.name) for case in CASES if case.provider not in {"bedrock", "opentelemetry"}],
)
def test_objects_with_attributes_are_read_like_json(one: Case) -> None:
    """An SDK's objects become the same event as the JSON that they were made of; boto3 and OpenTelemetry have dicts."""
    check(one.event(as_objects(one.stream or one.answer)), one)


@ONE_EACH
def test_fields_that_nobody_knows_are_harmless(one: Case) -> None:
    """What a provider adds tomorrow changes no bill of today, and does not get into the event."""
    check(one.event(with_strangers(one.stream or one.answer)), one)


@ONE_EACH
def test_every_key_of_the_metadata_is_documented(one: Case) -> None:
    """No answer writes a key that the list of keys does not explain."""
    assert set(one.event().request_metadata or {}) <= set(METADATA_KEYS)


def test_every_documented_key_is_written_for_some_answer() -> None:
    """The list of keys names none that no answer writes; those left out here have tests of their own."""
    written: set[str] = set()
    for one in CASES:
        written |= set(one.event().request_metadata or {})
    elsewhere = {"usage", "provider_total_tokens", "cache_write_30m_input_tokens", "cache_write_12h_input_tokens"}
    elsewhere |= {"video_input_tokens", "document_input_tokens", "image_output_tokens"}
    assert set(METADATA_KEYS) - written == elsewhere


@ONE_EACH
def test_every_shape_says_where_it_comes_from(one: Case) -> None:
    """Each file names the page, when it was read, and what of it is ours."""
    assert one.source["url"].startswith("https://")
    assert one.source["read"]
    assert one.source["note"]


@pytest.mark.parametrize("one", [pytest.param(case, id=case.name) for case in CASES if case.stream is not None])
def test_the_call_is_what_the_caller_says(one: Case) -> None:
    """Endpoint, request type, metadata and cost of the caller stand in the event beside what the provider says."""
    event = one.event(endpoint="/v1/chat", request_type="chat", metadata={"feature": "search"}, estimated_cost_usd=0.25)
    assert (event.endpoint, event.request_type, event.estimated_cost_usd) == ("/v1/chat", "chat", 0.25)
    expected: dict[str, Any] = one.expect["metadata"] | {"feature": "search"}
    assert event.request_metadata == expected


def test_the_clients_readme_explains_every_key() -> None:
    """Its table is the list in the code."""
    readme = (Path(__file__).parents[2] / "client" / "README.md").read_text(encoding="utf-8")
    table = readme[readme.index("| key | what it says |") :]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.MULTILINE))
    assert {key: rows.get(key) for key in METADATA_KEYS} == METADATA_KEYS


def test_no_sdk_is_imported() -> None:
    """Neither the providers' SDKs nor the broker's library: an event can be made where none of them is installed."""
    names = ", ".join(MODULES)
    theirs = "{'openai', 'anthropic', 'google', 'boto3', 'botocore', 'ollama', 'opentelemetry', 'aio_pika', 'aiormq'}"
    code = f"import sys; from usage_events.providers import {names}; print(sorted({theirs} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
