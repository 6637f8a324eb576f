"""The contract for every language, made from the models that the worker judges by: JSON Schema (2020-12) and AsyncAPI.

`python -m usage_events.schema` prints the documents, with a folder as its argument it writes them there.

A schema is never stricter than the worker. Rules that it cannot say stand in the documents' `$comment`.
"""

import json
import sys
from pathlib import Path
from typing import Any

from usage_events import asyncapi
from usage_events.cloudevents import CLOUD_EVENT
from usage_events.contract import COST_MICRO_USD_LIMIT, METADATA_DEPTH_MAX, WIRE_EVENT

DIALECT = "https://json-schema.org/draft/2020-12/schema"
EVENT_SCHEMA = "usage-event.schema.json"
CLOUD_EVENT_SCHEMA = "usage-cloudevent.schema.json"
ASYNCAPI = "asyncapi.json"
_TOKEN_FIELDS = ("input_tokens", "output_tokens", "tokens_used")
_TEXT_FIELDS = ("endpoint", "model", "request_type")
_NO_NUL = r"^[^\u0000]*$"
_BEYOND = (
    "What a schema cannot say: 1.0 is no integer; tokens that are given add up; request_metadata is at most 16 KiB as"
    " sent, and its numbers are finite as doubles; no lone surrogates; a cost given as text is at least 0 and below"
    " 10,000 after rounding to six decimals; the time exists and is at most 5 minutes ahead and 35 days back; user and"
    " organization exist; a message holds at most 1 MiB and 1,000 events."
)


def documents() -> dict[str, dict[str, Any]]:
    """Each document by its file's name."""
    event = WIRE_EVENT.json_schema()
    _complete_fields(event)
    envelope = CLOUD_EVENT.json_schema()
    definitions = envelope["$defs"]
    _complete_fields(definitions["EventData"])
    _complete_envelope(envelope)
    native = _document(event, EVENT_SCHEMA, _metadata_levels())
    cloud = _document(envelope, CLOUD_EVENT_SCHEMA, definitions | _metadata_levels())
    return {EVENT_SCHEMA: native, CLOUD_EVENT_SCHEMA: cloud, ASYNCAPI: asyncapi.document(native, cloud)}


def text_of(document: dict[str, Any]) -> str:
    """A document as it stands in its file."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _document(schema: dict[str, Any], name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    return (
        {"$schema": DIALECT, "$id": name, "$comment": _BEYOND}
        | _without_titles(schema)
        | {"$defs": _without_titles(definitions)}
    )


def _without_titles(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without the titles that pydantic makes of the fields' names."""
    bare = {name: value for name, value in schema.items() if name != "title"}
    for holder in ("properties", "$defs"):
        if holder in bare:
            bare[holder] = {name: _without_titles(value) for name, value in bare[holder].items()}
    return bare


def _complete_fields(schema: dict[str, Any]) -> None:
    fields = schema["properties"]
    schema["anyOf"] = [
        {"required": [name], "properties": {name: {"type": "integer"}}}
        for name in _TOKEN_FIELDS  # null is absent
    ]
    for name in _TEXT_FIELDS:
        _member(fields[name], "string")["pattern"] = _NO_NUL
    _member(fields["request_metadata"], "object").update(_level(1))
    limit = COST_MICRO_USD_LIMIT / 1_000_000
    half = 0.000_000_5
    _member(fields["estimated_cost_usd"], "number").update(exclusiveMinimum=-half, exclusiveMaximum=limit - half)


def _complete_envelope(schema: dict[str, Any]) -> None:
    schema["properties"]["data_base64"] = {"type": "null", "description": "not taken: send `data`, as JSON"}
    schema["propertyNames"] = {"anyOf": [{"pattern": "^[a-z0-9]+$"}, {"const": "data_base64"}]}


def _member(field: dict[str, Any], kind: str) -> dict[str, Any]:
    """The member of an optional field's `anyOf` that has the type `kind`."""
    member: dict[str, Any] = next(member for member in field["anyOf"] if member["type"] == kind)
    return member


def _level(depth: int) -> dict[str, Any]:
    """What a container at `depth` may hold."""
    inner = {"$ref": f"#/$defs/metadata_level_{depth + 1}"}
    return {"propertyNames": {"pattern": _NO_NUL}, "additionalProperties": inner, "items": inner}


def _metadata_levels() -> dict[str, Any]:
    """Values at each level of the metadata; past the deepest none is a container."""
    levels = {
        f"metadata_level_{depth}": {"pattern": _NO_NUL} | _level(depth) for depth in range(2, METADATA_DEPTH_MAX + 1)
    }
    levels[f"metadata_level_{METADATA_DEPTH_MAX + 1}"] = {
        "type": ["string", "number", "boolean", "null"],
        "pattern": _NO_NUL,
    }
    return levels


def main(arguments: list[str]) -> None:
    """Prints the documents, or writes them to a folder."""
    for name, document in documents().items():
        if arguments:
            (Path(arguments[0]) / name).write_text(text_of(document), encoding="utf-8")
        else:
            sys.stdout.write(text_of(document))


if __name__ == "__main__":
    main(sys.argv[1:])
