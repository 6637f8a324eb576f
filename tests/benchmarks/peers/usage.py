"""The event and its row, as a service that uses pydantic would write them down; shared by the peers."""

import json
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from benchmarks.workload import COLUMNS

INSERT = (
    f"INSERT INTO ai_usage_logs ({', '.join(COLUMNS)}) "
    f"VALUES ({', '.join(f'${number}' for number in range(1, len(COLUMNS) + 1))}) ON CONFLICT (id) DO NOTHING"
)
INPUT_TOKEN_USD, OUTPUT_TOKEN_USD = Decimal("0.000001"), Decimal("0.000003")


class Usage(BaseModel):
    """One call of a language model."""

    id: UUID
    user_id: UUID
    organization_id: UUID
    input_tokens: int
    output_tokens: int
    endpoint: str | None = None
    model: str | None = None
    request_type: str | None = None
    request_metadata: dict[str, Any] | None = None
    created_at: datetime

    def row(self) -> tuple[Any, ...]:
        """In the order of `COLUMNS`."""
        return (
            self.id, self.user_id, self.organization_id, self.input_tokens + self.output_tokens, self.input_tokens,
            self.output_tokens, self.endpoint, self.model, self.request_type,
            None if self.request_metadata is None else json.dumps(self.request_metadata),
            self.input_tokens * INPUT_TOKEN_USD + self.output_tokens * OUTPUT_TOKEN_USD,
            self.created_at,
        )  # fmt: skip
