"""The wire contract of a usage event: fields, limits, reasons. The worker and every producer judge by this file.

Values have the types that they have in JSON. What a schema cannot say stands in `rules.py`.
"""

from enum import StrEnum
from typing import Annotated, Any, NamedTuple, Required

from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter
from typing_extensions import TypedDict

TOKENS_MAX = 2**31 - 1
ENDPOINT_CHARACTERS_MAX = 255
MODEL_CHARACTERS_MAX = 100
REQUEST_TYPE_CHARACTERS_MAX = 50
METADATA_BYTES_MAX = 16 * 1024
METADATA_DEPTH_MAX = 8
COST_MICRO_USD_LIMIT = 10_000_000_000  # NUMERIC(10,6) holds less than 10,000 dollars
INPUT_TOKEN_MICRO_USD = 1
OUTPUT_TOKEN_MICRO_USD = 3
MAX_AHEAD_SECONDS = 300
MAX_AGE_SECONDS = 35 * 24 * 3600

UUID_PATTERN = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
# RFC 3339's date-time, without a second 60: a database's clock has none.
TIME_PATTERN = (
    r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(\.[0-9]+)?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
# JSON's grammar of a number.
COST_PATTERN = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"


class Reason(StrEnum):
    """Why an event is refused. Where several apply, the one that stands first here is given."""

    UNSUPPORTED_CONTENT_TYPE = "unsupported_content_type"
    TOO_LARGE = "too_large"
    BAD_JSON = "bad_json"
    INVALID = "invalid"
    TOKEN_MISMATCH = "token_mismatch"  # noqa: S105 - tokens of a language model, no secret
    IN_FUTURE = "in_future"
    TOO_OLD = "too_old"
    UNKNOWN_USER = "unknown_user"
    UNKNOWN_ORGANIZATION = "unknown_organization"
    ID_CONFLICT = "id_conflict"
    REJECTED_BY_DATABASE = "rejected_by_database"
    DELIVERY_LIMIT = "delivery_limit"


class FieldError(TypedDict):
    """One thing that is wrong: the field's path (empty for the whole event), what is wrong, what was given."""

    field: str
    message: str
    input: Any


class Refusal(NamedTuple):
    """An event is refused for one reason, with every error that belongs to that reason."""

    reason: Reason
    errors: list[FieldError]


class Event(NamedTuple):
    """An accepted event, in the form in which it is stored.

    Ids are 16 bytes; the metadata is JSON text; the cost is in millionths of a dollar (`None`: unpriced), and
    `cost_given` says that the producer named it; the time is in microseconds since 1970.
    """

    id: bytes
    user_id: bytes
    organization_id: bytes
    tokens_used: int
    input_tokens: int
    output_tokens: int
    endpoint: str | None
    model: str | None
    request_type: str | None
    metadata_json: bytes | None
    cost_micro_usd: int | None
    cost_given: bool
    created_at_us: int


UuidText = Annotated[str, StringConstraints(pattern=UUID_PATTERN)]
TimeText = Annotated[str, StringConstraints(pattern=TIME_PATTERN)]
Tokens = Annotated[int, Field(ge=0, le=TOKENS_MAX)]
CostText = Annotated[str, StringConstraints(pattern=COST_PATTERN)]

_CONFIG = ConfigDict(strict=True, extra="forbid")


class EventData(TypedDict, total=False):
    """What an event says beside its identity and time. `null` is the same as absent."""

    __pydantic_config__ = _CONFIG  # type: ignore[misc]

    user_id: Required[Annotated[UuidText, Field(description="who made the call; must exist in `users`")]]
    organization_id: Required[Annotated[UuidText, Field(description="who pays for it; must exist in `organizations`")]]
    input_tokens: Annotated[Tokens | None, Field(description="tokens sent to the model")]
    output_tokens: Annotated[Tokens | None, Field(description="tokens that the model produced")]
    tokens_used: Annotated[Tokens | None, Field(description="their sum; at least one of the three is given")]
    endpoint: Annotated[
        Annotated[str, StringConstraints(max_length=ENDPOINT_CHARACTERS_MAX)] | None,
        Field(description="the service's endpoint that made the call"),
    ]
    model: Annotated[
        Annotated[str, StringConstraints(max_length=MODEL_CHARACTERS_MAX)] | None,
        Field(description="the model's name"),
    ]
    request_type: Annotated[
        Annotated[str, StringConstraints(max_length=REQUEST_TYPE_CHARACTERS_MAX)] | None,
        Field(description="the kind of call, such as `chat`"),
    ]
    request_metadata: Annotated[
        dict[str, Any] | None,
        Field(description="anything else, as an object of at most 16 KiB and depth 8"),
    ]
    estimated_cost_usd: Annotated[
        float | CostText | None,
        Field(description="the cost in US dollars, at least 0 and below 10,000, rounded to six decimals"),
    ]


class WireEvent(EventData, total=False):
    """One call of a model, as a service publishes it."""

    __pydantic_config__ = _CONFIG  # type: ignore[misc]

    id: Required[Annotated[UuidText, Field(description="the event's identity, made once by the producer")]]
    created_at: Required[Annotated[TimeText, Field(description="when the call was made, RFC 3339 with its offset")]]


WIRE_EVENT = TypeAdapter(WireEvent)
