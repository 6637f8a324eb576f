"""The published contract: current, valid, and its JSON Schema never stricter than the worker."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conformance import Case, load_cases
from jsonschema import Draft202012Validator
from usage_events import schema
from usage_events.contract import Reason
from usage_events.envelope import CONTENT_TYPE_JSON

FOLDER = Path(__file__).parent.parent.parent / "schema"
DOCUMENTS = schema.documents()
CASES = load_cases(datetime.now(UTC))
# What no schema can say, and the end of a text, which Python's `$` (unlike ECMAScript's) takes before a line feed too.
BEYOND_A_SCHEMA = {
    "cloudevents-batch-one-object",  # the message's content type decides
    "cost-rounds-to-limit-text", "cost-huge-exponent-text", "cost-negative", "invalid-rule-before-mismatch",
    "cost-line-feed", "id-line-feed", "time-line-feed",
    "text-lone-high-surrogate", "text-lone-low-surrogate", "array-lone-surrogate",
    "metadata-lone-surrogate", "metadata-lone-surrogate-in-key",
    "metadata-past-16-kib", "metadata-past-16-kib-of-utf-8", "metadata-blanks-count",
    "metadata-infinite-number", "metadata-309-digits", "metadata-numeric-bomb",
    "time-no-such-day", "time-no-leap-year",
    "tokens-sum-past-max", "tokens-sum-past-max-and-mismatch", "tokens-fraction", "tokens-exponent",
}  # fmt: skip


def validator_of(case: Case) -> Draft202012Validator:
    """The schema for a case's form of event."""
    native = (case.content_type or CONTENT_TYPE_JSON).lower().startswith(CONTENT_TYPE_JSON)
    return Draft202012Validator(DOCUMENTS["usage-event.schema.json" if native else "usage-cloudevent.schema.json"])


def events_of(case: Case) -> Iterator[Any]:
    """The events in a valid case's message."""
    value = json.loads(case.body)
    yield from value if isinstance(value, list) else [value]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_published_file_is_current(name: str) -> None:
    """The file in the repository is what the models say now; `python -m usage_events.schema schema` renews it."""
    assert (FOLDER / name).read_text(encoding="utf-8") == schema.text_of(DOCUMENTS[name])


@pytest.mark.parametrize("name", [schema.EVENT_SCHEMA, schema.CLOUD_EVENT_SCHEMA])
def test_document_is_a_schema(name: str) -> None:
    """The document is valid by the meta-schema that it names."""
    assert DOCUMENTS[name]["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(DOCUMENTS[name])


def test_every_valid_message_passes() -> None:
    """No schema refuses what the worker accepts."""
    valid = [case for case in CASES if not case.letters]
    errors = {
        case.name: error.message
        for case in valid
        for event in events_of(case)
        for error in validator_of(case).iter_errors(event)
    }
    assert errors == {}


def test_invalid_messages_are_refused_but_for_what_no_schema_can_say() -> None:
    """Of all invalid messages that are JSON, exactly the named ones pass."""
    passed = set()
    for case in CASES:
        for letter in case.letters:
            if letter.reason is not Reason.INVALID or case.name == "metadata-5000-levels":
                continue  # Python's parser does not read so many levels
            value = json.loads(letter.body, parse_int=lambda digits: int(digits[:400]))
            if validator_of(case).is_valid(value):
                passed.add(case.name)
    assert passed == BEYOND_A_SCHEMA


def test_command_writes_the_documents(tmp_path: Path) -> None:
    """With a folder as its argument the command writes each document there."""
    schema.main([str(tmp_path)])
    assert {path.name: json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()} == DOCUMENTS


def test_command_prints_the_documents(capsys: pytest.CaptureFixture[str]) -> None:
    """Without arguments it prints them, one after the other."""
    schema.main([])
    assert capsys.readouterr().out == "".join(schema.text_of(document) for document in DOCUMENTS.values())
