"""Traffic that looks like a real service's: bursts, a few large customers and many small ones, a few per cent wrong."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from usage_events.ids import uuid7

MODELS = ("gpt-4o-mini", "gpt-4o", "claude-sonnet-4", "gemini-2.5-flash")
ENDPOINTS = ("/v1/chat/completions", "/v1/responses", "/v1/embeddings")
BAD_SHARE = 0.03
TWICE_SHARE = 0.01
NO_JSON = b'{"id": "the producer died while writing this'


@dataclass(slots=True)
class Ledger:
    """The producer's own books: every event id that it has published."""

    ids: set[UUID] = field(default_factory=set)
    events: int = 0
    twice: int = 0
    unreadable: int = 0  # published without an id that anyone could read


class Traffic:
    """Makes events of existing users and organizations.

    Args:
        users: ids of users that exist.
        organizations: ids of organizations that exist.
        seed: the same seed gives the same kinds of events in the same order.
    """

    def __init__(self, users: Sequence[UUID], organizations: Sequence[UUID], *, seed: int) -> None:
        self._users = users
        self._organizations = organizations
        # A few organizations make most of the traffic.
        self._weights = [1 / (rank + 1) for rank in range(len(organizations))]
        self._dice = random.Random(seed)  # noqa: S311 - traffic, no secret
        self.ledger = Ledger()

    def bursts(self, events: int, per_burst: int) -> Iterator[list[bytes]]:
        """So many events, in bursts of uneven size."""
        left = events
        while left > 0:
            size = min(left, self._dice.randrange(per_burst // 4, per_burst * 2))
            yield [body for _ in range(size) for body in self._event()]
            left -= size

    def _event(self) -> list[bytes]:
        self.ledger.events += 1
        chance = self._dice.random()
        if chance < BAD_SHARE:
            return [self._bad()]
        event = self._good()
        self.ledger.ids.add(UUID(event["id"]))
        body = _encode(event)
        if chance < BAD_SHARE + TWICE_SHARE:  # a producer that was unsure whether the first one had arrived
            self.ledger.events += 1
            self.ledger.twice += 1
            return [body, body]
        return [body]

    def _good(self) -> dict[str, Any]:
        dice = self._dice
        return {
            "id": str(uuid7()),
            "user_id": str(dice.choice(self._users)),
            "organization_id": str(dice.choices(self._organizations, self._weights)[0]),
            "input_tokens": int(dice.lognormvariate(6, 1)),
            "output_tokens": int(dice.lognormvariate(5, 1)),
            "endpoint": dice.choice(ENDPOINTS),
            "model": dice.choice(MODELS),
            "request_type": "chat",
            "request_metadata": {"trace": f"{dice.getrandbits(64):016x}", "region": dice.choice(("eu", "us"))},
            "created_at": datetime.now(UTC).isoformat(),
        }

    def _bad(self) -> bytes:
        event = self._good()
        kind = self._dice.randrange(6)
        if kind == 0:
            self.ledger.unreadable += 1
            return NO_JSON
        if kind == 1:
            event["input_token"] = event.pop("input_tokens")
        elif kind == 2:  # noqa: PLR2004 - one kind after the other
            event["tokens_used"] = event["input_tokens"] + event["output_tokens"] + 1
        elif kind == 3:  # noqa: PLR2004 - as above
            event["user_id"] = str(uuid4())
        elif kind == 4:  # noqa: PLR2004 - as above
            event["created_at"] = (datetime.now(UTC) - timedelta(days=90)).isoformat()
        else:
            event["estimated_cost_usd"] = -1
        self.ledger.ids.add(UUID(event["id"]))
        return _encode(event)


def _encode(event: dict[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode()
