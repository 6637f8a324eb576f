"""The contract as an AsyncAPI 3 document: where events go, how, and what they look like there.

It stands alone: the schemas are those of the JSON Schema documents, as definitions of its own.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from usage_events.envelope import (
    CONTENT_TYPE_CLOUDEVENT,
    CONTENT_TYPE_CLOUDEVENTS_BATCH,
    CONTENT_TYPE_JSON,
    MESSAGE_EVENTS_MAX,
)

ASYNCAPI_VERSION = "3.0.0"
CONTRACT_VERSION = "1.0.0"  # a new optional field raises the second number: nothing else is ever changed
EXCHANGE = "usage"
ROUTING_KEY = "usage.recorded"
BINDING_KEY = "usage.recorded.#"
QUEUE = "usage.events"
QUEUE_ARGUMENTS: Mapping[str, Any] = {
    "x-queue-type": "quorum",
    "x-delivery-limit": 20,
    "x-dead-letter-exchange": "usage.dead",
    "x-dead-letter-routing-key": QUEUE,
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}
APP_ID_BYTES_MAX = 255  # AMQP's short string
_BINDING_VERSION = "0.3.0"
_DEFINITIONS = "#/$defs/"
_SCHEMAS = "#/components/schemas/"
_ABOUT = f"""\
Services publish usage events to RabbitMQ; the worker stores each of them once in Postgres.

Publish with confirms and `mandatory`, persistent, and keep an event until its message is confirmed. The id is made
once: an event sent again is recognised by it. Content that is refused becomes a dead letter with a reason, not an
error of the producer.

A message is at most 1 MiB and {MESSAGE_EVENTS_MAX:,} events, UTF-8, not compressed. Names of exchange, routing key and
queue are the defaults; an installation may have chosen others.
"""
_EXAMPLE_DATA = {
    "user_id": "0198c0de-0000-7000-8000-000000000001",
    "organization_id": "0198c0de-0000-7000-8000-0000000000aa",
    "model": "gpt-4o-mini",
    "input_tokens": 374,
    "output_tokens": 44,
}
_EXAMPLE_TIME = "2026-01-31T12:00:00.123456Z"
_EXAMPLE_EVENT = {"id": "0198c0de-1111-7111-8111-111111111111", "created_at": _EXAMPLE_TIME} | _EXAMPLE_DATA
_EXAMPLE_FULL = {
    "id": "0198c0de-2222-7222-8222-222222222222",
    "created_at": "2026-01-31T13:00:00+01:00",
    "user_id": _EXAMPLE_DATA["user_id"],
    "organization_id": _EXAMPLE_DATA["organization_id"],
    "tokens_used": 1_200,
    "endpoint": "/v1/chat",
    "request_type": "chat",
    "request_metadata": {"trace": "4bf92f3577b34da6"},
    "estimated_cost_usd": "0.004500",
}
_EXAMPLE_CLOUD_EVENT = {
    "specversion": "1.0",
    "id": "call-17",
    "source": "/services/chat",
    "type": "com.example.usage",
    "time": _EXAMPLE_TIME,
    "data": _EXAMPLE_DATA,
}
# Of each message: content type, what it is, its payload, and examples by name.
_MESSAGES: Mapping[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "usageEvents": (
        CONTENT_TYPE_JSON,
        "one event, or an array of them; a missing content type means this one",
        {"anyOf": [{"$ref": f"{_SCHEMAS}usageEvent"}, {"$ref": f"{_SCHEMAS}usageEvents"}]},
        {"one": _EXAMPLE_EVENT, "array": [_EXAMPLE_EVENT, _EXAMPLE_FULL]},
    ),
    "cloudEvent": (
        CONTENT_TYPE_CLOUDEVENT,
        "one event in the CloudEvents 1.0 envelope",
        {"$ref": f"{_SCHEMAS}cloudEvent"},
        {"one": _EXAMPLE_CLOUD_EVENT},
    ),
    "cloudEvents": (
        CONTENT_TYPE_CLOUDEVENTS_BATCH,
        "an array of CloudEvents",
        {"$ref": f"{_SCHEMAS}cloudEvents"},
        {"array": [_EXAMPLE_CLOUD_EVENT]},
    ),
}


def document(event: dict[str, Any], cloud_event: dict[str, Any]) -> dict[str, Any]:
    """The document.

    Args:
        event: the JSON Schema document of an event.
        cloud_event: that of an event in its envelope.
    """
    return {
        "asyncapi": ASYNCAPI_VERSION,
        "info": {
            "title": "Usage events",
            "version": CONTRACT_VERSION,
            "description": _ABOUT,
            "license": {"name": "MIT"},
        },
        "defaultContentType": CONTENT_TYPE_JSON,
        "servers": {"local": {"host": "127.0.0.1:5672", "protocol": "amqp", "protocolVersion": "0.9.1"}},
        "channels": _channels(),
        "operations": _operations(),
        "components": {
            "messages": {name: _message(name, *parts) for name, parts in _MESSAGES.items()},
            "schemas": _schemas(event, cloud_event),
        },
    }


def _channels() -> dict[str, Any]:
    exchange = {"name": EXCHANGE, "type": "topic", "durable": True, "autoDelete": False, "vhost": "/"}
    to_exchange = {"amqp": {"is": "routingKey", "exchange": exchange, "bindingVersion": _BINDING_VERSION}}
    queue = {"name": QUEUE, "durable": True, "exclusive": False, "autoDelete": False, "vhost": "/"}
    from_queue = {"amqp": {"is": "queue", "queue": queue, "bindingVersion": _BINDING_VERSION}}
    messages = {name: {"$ref": f"#/components/messages/{name}"} for name in _MESSAGES}
    organization = {"description": "the organization of all events in the message, as a UUID"}
    return {
        "recorded": {
            "address": ROUTING_KEY,
            "description": "The routing key of events of any organization.",
            "messages": messages,
            "bindings": to_exchange,
        },
        "recordedOfOrganization": {
            "address": f"{ROUTING_KEY}.{{organizationId}}",
            "description": "The same with the organization, for those who bind queues of their own.",
            "parameters": {"organizationId": organization},
            "messages": messages,
            "bindings": to_exchange,
        },
        "events": {
            "address": QUEUE,
            "description": "The queue that the worker reads. The worker declares it; a producer never does.",
            "messages": messages,
            "bindings": from_queue,
            "x-queue-arguments": dict(QUEUE_ARGUMENTS),
            "x-queue-binding": {"exchange": EXCHANGE, "routingKey": BINDING_KEY},
        },
    }


def _operations() -> dict[str, Any]:
    sending = {"amqp": {"deliveryMode": 2, "mandatory": True, "bindingVersion": _BINDING_VERSION}}
    receiving = {"amqp": {"ack": True, "bindingVersion": _BINDING_VERSION}}
    return {
        "publish": _operation("send", "recorded", "A service publishes what it has used.", sending),
        "publishOfOrganization": _operation(
            "send", "recordedOfOrganization", "The same, all events of a message of one organization.", sending
        ),
        "store": _operation(
            "receive", "events", "The worker stores events, and acknowledges them after its commit.", receiving
        ),
    }


def _operation(action: str, channel: str, summary: str, bindings: dict[str, Any]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "bindings": bindings,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in _MESSAGES],
    }


def _message(
    name: str, content_type: str, summary: str, payload: dict[str, Any], examples: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": name,
        "summary": summary,
        "contentType": content_type,
        "headers": {"$ref": f"{_SCHEMAS}headers"},
        "payload": payload,
        "bindings": {"amqp": {"contentEncoding": "utf-8", "bindingVersion": _BINDING_VERSION}},
        "x-amqp-properties": {"$ref": f"{_SCHEMAS}properties"},
        "examples": [{"name": example, "payload": value} for example, value in examples.items()],
    }


def _schemas(event: dict[str, Any], cloud_event: dict[str, Any]) -> dict[str, Any]:
    definitions = {**event["$defs"], **cloud_event["$defs"]}
    schemas = {"usageEvent": event, "cloudEvent": cloud_event} | definitions
    own = {name: _with_own_references(_plain(schema)) for name, schema in schemas.items()}
    for one, many in (("usageEvent", "usageEvents"), ("cloudEvent", "cloudEvents")):
        items = {"$ref": f"{_SCHEMAS}{one}"}
        own[many] = {"type": "array", "minItems": 1, "maxItems": MESSAGE_EVENTS_MAX, "items": items}
    return own | {
        "headers": {
            "description": "The AMQP headers: any. The worker keeps those of a refused event beside it.",
            "type": "object",
        },
        "properties": {
            "description": "The AMQP properties beside the content type.",
            "type": "object",
            "properties": dict(_amqp_properties()),
        },
    }


def _amqp_properties() -> Iterator[tuple[str, dict[str, Any]]]:
    text = {"type": "string", "maxLength": APP_ID_BYTES_MAX}
    yield "app_id", text | {"description": "the producer's name; set it: what is refused is counted and shown by it"}
    yield "delivery_mode", {"const": 2, "description": "persistent"}
    yield "content_encoding", {"enum": ["utf-8", "identity", ""], "description": "absent is the same; no compression"}
    yield "message_id", text | {"description": "tells the producer which message came back; the worker ignores it"}


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A document as a definition: without what names it as a document."""
    return {name: value for name, value in schema.items() if name not in {"$schema", "$id", "$defs"}}


def _with_own_references(value: Any) -> Any:
    """The schema with its references to the definitions of this document."""
    if isinstance(value, dict):
        return {
            name: f"{_SCHEMAS}{inner.removeprefix(_DEFINITIONS)}" if name == "$ref" else _with_own_references(inner)
            for name, inner in value.items()
        }
    return [_with_own_references(inner) for inner in value] if isinstance(value, list) else value
