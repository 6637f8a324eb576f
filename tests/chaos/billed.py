"""What a row holds that is billed, in one form for the row as it is read and for the event as it was drawn."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, NamedTuple

DIGEST_BYTES = 8
COLUMNS = """user_id::text, organization_id::text, tokens_used, input_tokens, output_tokens, model, request_type,
    (request_metadata - 'padding'::text)::text AS metadata,
    sha256(convert_to(request_metadata->>'padding', 'UTF8')) AS padding,
    estimated_cost_usd::text, created_at"""


class Billed(NamedTuple):
    """The columns, beside id and endpoint.

    `cost_usd` has the six decimals of the column. `metadata` is an object; what it is padded with, which may be long,
    is known by its digest.
    """

    user_id: str
    organization_id: str
    tokens_used: int
    input_tokens: int
    output_tokens: int
    model: str | None
    request_type: str | None
    metadata: dict[str, Any] | None
    padding: str | None
    cost_usd: str | None
    created_at: datetime

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> "Billed":
        """What a row of `COLUMNS` says."""
        metadata, padding = row["metadata"], row["padding"]
        return cls(
            user_id=row["user_id"],
            organization_id=row["organization_id"],
            tokens_used=row["tokens_used"],
            input_tokens=row["input_tokens"],
            output_tokens=row["output_tokens"],
            model=row["model"],
            request_type=row["request_type"],
            metadata=None if metadata is None else json.loads(metadata),
            padding=None if padding is None else padding.hex(),
            cost_usd=row["estimated_cost_usd"],
            created_at=row["created_at"],
        )

    def digest(self) -> str:
        """Another one where any of it differs."""
        values = [*self[:-1], self.created_at.astimezone(UTC).isoformat()]
        return short_digest(json.dumps(values, sort_keys=True).encode())


def short_digest(data: bytes) -> str:
    """A few hexadecimal digits: a ledger has a line for each of millions."""
    return blake2b(data, digest_size=DIGEST_BYTES).hexdigest()
