"""The AsyncAPI document says what the worker does."""

import inspect
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conformance import load_cases
from jsonschema import Draft7Validator
from usage_events import UsagePublisher, asyncapi, schema
from usage_events.envelope import MESSAGE_EVENTS_MAX
from usage_events.rules import Window

from worker.decode import decode
from worker.rabbitmq.topology import main_queue
from worker.settings import Settings

DOCUMENT = schema.documents()[schema.ASYNCAPI]
MESSAGES = DOCUMENT["components"]["messages"]
WINDOW = Window.around(
    int(datetime(2026, 1, 31, 12, 0, tzinfo=UTC).timestamp()) * 1_000_000,
    max_age_seconds=int(timedelta(days=1).total_seconds()),
    max_ahead_seconds=300,
)


def payload_validator(name: str) -> Draft7Validator:
    """What AsyncAPI tools judge the payload of a message by; its schemas are in draft 7's language."""
    return Draft7Validator({**DOCUMENT, "$ref": f"#/components/messages/{name}/payload"})


def test_names_are_the_workers() -> None:
    """Exchange, queue and their arguments are what a worker declares when nothing is set."""
    settings = Settings()
    queue = main_queue(settings)
    assert DOCUMENT["channels"]["events"]["x-queue-arguments"] == queue.arguments
    assert DOCUMENT["channels"]["events"]["address"] == queue.name
    assert DOCUMENT["channels"]["events"]["x-queue-binding"] == {
        "exchange": settings.exchange,
        "routingKey": settings.binding_key,
    }
    assert inspect.signature(UsagePublisher).parameters["exchange"].default == settings.exchange
    sending = [channel for channel in DOCUMENT["channels"].values() if channel["bindings"]["amqp"]["is"] != "queue"]
    assert [channel["bindings"]["amqp"]["exchange"]["name"] for channel in sending] == [settings.exchange] * 2
    assert all(channel["address"].startswith(settings.binding_key.removesuffix(".#")) for channel in sending)


@pytest.mark.parametrize(
    ("name", "example"),
    [(name, example) for name, message in MESSAGES.items() for example in message["examples"]],
    ids=lambda value: value if isinstance(value, str) else value["name"],
)
def test_examples_are_accepted(name: str, example: dict[str, Any]) -> None:
    """Each example is stored as it is, under its message's content type (AsyncAPI's parser judges none of them)."""
    assert payload_validator(name).is_valid(example["payload"])
    body = json.dumps(example["payload"]).encode()
    decoded = decode(body, MESSAGES[name]["contentType"], "utf-8", WINDOW)
    assert list(decoded.rejects) == []
    assert len(decoded.events) == (len(example["payload"]) if isinstance(example["payload"], list) else 1)


def test_every_valid_message_passes() -> None:
    """What the worker accepts, the payload of its message accepts; the references lead somewhere."""
    by_type = {message["contentType"]: payload_validator(name) for name, message in MESSAGES.items()}
    valid = [case for case in load_cases(datetime.now(UTC)) if not case.letters]
    errors = {
        case.name: error.message
        for case in valid
        for error in by_type[_media_type(case.content_type)].iter_errors(json.loads(case.body))
    }
    assert len(valid) > 100
    assert errors == {}


@pytest.mark.parametrize(
    "payload",
    [[], {}, [{"id": "x"}], [MESSAGES["usageEvents"]["examples"][0]["payload"]] * (MESSAGE_EVENTS_MAX + 1)],
    ids=["empty", "nothing", "wrong", "too many"],
)
def test_invalid_messages_are_refused(payload: Any) -> None:
    """Empty and overfull arrays, and events that are none, do not pass."""
    assert not payload_validator("usageEvents").is_valid(payload)


def test_the_document_stands_alone() -> None:
    """Nothing in it points outside of it."""
    text = schema.text_of(DOCUMENT)
    assert "$defs" not in text
    assert {part.partition('"')[0][:1] for part in text.split('"$ref": "')[1:]} == {"#"}
    assert asyncapi.QUEUE in text


def _media_type(content_type: str | None) -> str:
    return (content_type or DOCUMENT["defaultContentType"]).lower().partition(";")[0].strip()
