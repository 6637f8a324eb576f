"""The event as a producer makes it, with Python's own types; it is judged by the worker's rules when it is made."""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PrivateAttr,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from usage_events.contract import (
    MAX_AGE_SECONDS,
    MAX_AHEAD_SECONDS,
    UUID_PATTERN,
    FieldError,
    Reason,
    Refusal,
    Tokens,
)
from usage_events.ids import event_id_for, uuid7
from usage_events.judge import Form, judge
from usage_events.rules import Window

_TO_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_UUID_TEXT = TypeAdapter(Annotated[str, StringConstraints(pattern=UUID_PATTERN)])


def _from_text(value: object) -> object:
    return UUID(_UUID_TEXT.validate_python(value)) if isinstance(value, str) else value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{value.isoformat()} lies in UTC outside of the years 1 to 9999") from None


_Uuid = Annotated[UUID, BeforeValidator(_from_text)]


class UsageEvent(BaseModel):
    """One call of a model.

    Made once per call and never changed: sent again, it is the same event. At least one of the three token fields is
    given; where the cost is absent the worker computes it from the parts. An id may be given as text too, which
    type checkers do not know.

        event = UsageEvent(user_id=user, organization_id=organization, input_tokens=812, output_tokens=64, model="m")

    Raises:
        pydantic.ValidationError: the worker would refuse it (by this machine's clock); each error names its field, and
            its type is the reason that the worker would give.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    user_id: _Uuid
    organization_id: _Uuid
    id: _Uuid = Field(default_factory=uuid7)
    created_at: Annotated[AwareDatetime, AfterValidator(_in_utc)] = Field(default_factory=lambda: datetime.now(UTC))
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    tokens_used: Tokens | None = None
    endpoint: str | None = None
    model: str | None = None
    request_type: str | None = None
    request_metadata: dict[str, JsonValue] | None = None
    estimated_cost_usd: Decimal | float | None = None

    _json: bytes = PrivateAttr(default=b"")

    @model_validator(mode="after")
    def _judge(self) -> Self:
        text, metadata_text = _encode(self)
        now_us = time.time_ns() // 1000
        window = Window.around(now_us, max_age_seconds=MAX_AGE_SECONDS, max_ahead_seconds=MAX_AHEAD_SECONDS)
        verdict = judge(text, Form.NATIVE, window, metadata_text)
        if isinstance(verdict, Refusal):
            raise _refused(verdict.reason, verdict.errors)
        self._json = text
        return self

    def to_json(self) -> bytes:
        """The event as it is published: compact JSON of what was judged, whatever became of the metadata's objects."""
        return self._json

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy; one with other values is judged like a new event."""
        if not update:
            return super().model_copy(deep=deep)
        return type(self)(**{name: value for name, value in self if value is not None} | dict(update))

    @staticmethod
    def id_for(source: str, key: str) -> UUID:
        """The id of the event that `source` calls `key`: the same for ever, so that it can be sent again."""
        return event_id_for(source, key)


def _encode(event: UsageEvent) -> tuple[bytes, bytes]:
    """The event's text, and that of its metadata in it, which the judge would have to look for."""
    cost = event.estimated_cost_usd
    wire = {
        "id": str(event.id),
        "user_id": str(event.user_id),
        "organization_id": str(event.organization_id),
        "created_at": event.created_at.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z",
        "input_tokens": event.input_tokens,
        "output_tokens": event.output_tokens,
        "tokens_used": event.tokens_used,
        "endpoint": event.endpoint,
        "model": event.model,
        "request_type": event.request_type,
        "estimated_cost_usd": None if cost is None else str(cost),  # as text: JSON's number would be a double
    }
    text = _to_text({name: value for name, value in wire.items() if value is not None})
    if event.request_metadata is None:
        return text, b""
    try:
        metadata_text = _to_text(event.request_metadata)
    except ValueError as error:  # an integer of more digits than Python writes
        wrong = FieldError(field="request_metadata", message=str(error), input=event.request_metadata)
        raise _refused(Reason.INVALID, [wrong]) from error
    return text[:-1] + b',"request_metadata":' + metadata_text + b"}", metadata_text


def _to_text(value: dict[str, Any]) -> bytes:
    text = _TO_JSON(value)
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate: written as an escape, so that it can be judged, and named
        return json.dumps(value).encode()


def _refused(reason: Reason, errors: list[FieldError]) -> ValidationError:
    details = [
        InitErrorDetails(
            type=PydanticCustomError(reason.value, error["message"]),
            loc=tuple(error["field"].split(".")) if error["field"] else (),
            input=error["input"],
        )
        for error in errors
    ]
    return ValidationError.from_exception_data(UsageEvent.__name__, details)
