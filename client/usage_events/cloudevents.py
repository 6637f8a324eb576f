"""CloudEvents 1.0 in JSON: the same event in the envelope that other systems speak."""

import re
from typing import Annotated, Any, Literal, Required, cast

from pydantic import ConfigDict, FailFast, Field, StringConstraints, TypeAdapter
from typing_extensions import TypedDict

from usage_events.contract import UUID_PATTERN, EventData, Reason, TimeText, WireEvent
from usage_events.ids import event_id_for
from usage_events.rules import RuleError

_UUID = re.compile(UUID_PATTERN)
_ATTRIBUTE = re.compile(r"[a-z0-9]+")

NonEmpty = Annotated[str, StringConstraints(min_length=1)]


class CloudEvent(TypedDict, total=False):
    """The envelope; extension attributes are taken and ignored."""

    __pydantic_config__ = ConfigDict(strict=True, extra="allow")  # type: ignore[misc]

    specversion: Required[Literal["1.0"]]
    id: Required[Annotated[NonEmpty, Field(description="a UUID, or unique together with `source`")]]
    source: Required[NonEmpty]
    type: Required[NonEmpty]
    time: Required[Annotated[TimeText, Field(description="when the call was made: the row's `created_at`")]]
    data: Required[EventData]
    datacontenttype: str | None
    dataschema: str | None
    subject: str | None


CLOUD_EVENT = TypeAdapter(CloudEvent)
CLOUD_EVENTS = TypeAdapter(Annotated[list[CloudEvent], FailFast()])


def event_id(identifier: str, source: str) -> str:
    """The row's id: `identifier` itself where it is a UUID, else the UUIDv5 of source and identifier."""
    if _UUID.fullmatch(identifier):
        return identifier
    return str(event_id_for(source, identifier))


def attribute_errors(envelope: dict[str, Any]) -> list[RuleError]:
    """What is wrong with the names of the attributes."""
    wrong = []
    for name, value in envelope.items():
        if name == "data_base64":
            if value is not None:
                wrong.append(RuleError(Reason.INVALID, name, "is not taken: send `data`, as JSON"))
        elif not _ATTRIBUTE.fullmatch(name):
            wrong.append(RuleError(Reason.INVALID, name, "attribute names are lower-case letters and digits"))
    return wrong


def to_wire(envelope: CloudEvent) -> WireEvent:
    """The event inside an envelope that the schema has passed."""
    wire = cast("WireEvent", dict(envelope["data"]))
    wire["id"] = event_id(envelope["id"], envelope["source"])
    wire["created_at"] = envelope["time"]
    return wire
