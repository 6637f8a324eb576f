"""What an event says, drawn from a seed: in each of the forms that producers use, and what is billed for it.

What is billed is worked out here by the words of the contract, and by nothing of the product.
"""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple

from usage_events.contract import Reason

from chaos.billed import Billed

Fields = dict[str, Any]

NOBODY = "99999999-9999-4999-8999-999999999999"
MODELS = ("gpt-5", "claude-opus-4", "gemini-3", "mistral/großes-modell", "数学", "", None)
REQUEST_TYPES = ("chat", "completion", "embedding", "image", "audio", None)
OFFSETS = (UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-8)))
METADATA: tuple[Fields | None, ...] = (
    None,
    None,
    {},
    {"trace": 'a"b\\c/ü\u2028', "retries": 3, "cached": True},
    {"seconds": 1.25, "tags": ["x", None, {"deep": [0.1, 12345678901234567890]}]},
)
MICRO = 10**6
COLUMN = Decimal("0.000001")  # what estimated_cost_usd holds
MICRO_USD_MAX = 9999 * MICRO
BILLIONTHS = (0, 1, 499, 500, 501, 999)  # of a millionth dollar's thousand, around the half


class Bad(NamedTuple):
    """What is wrong with an event, and why it has to be refused."""

    change: Fields
    reason: Reason


BAD = (
    Bad({"input_tokens": -1}, Reason.INVALID),
    Bad({"input_token": 1}, Reason.INVALID),
    Bad({"input_tokens": 1, "output_tokens": 1, "tokens_used": 2**30}, Reason.TOKEN_MISMATCH),
    Bad({"created_at": "2019-01-01T00:00:00Z"}, Reason.TOO_OLD),
    Bad({"user_id": NOBODY}, Reason.UNKNOWN_USER),
    Bad({"organization_id": NOBODY}, Reason.UNKNOWN_ORGANIZATION),
)
_ORDER = list(Reason)  # of several that apply, the first is given


def draw(
    chance: random.Random, users: Sequence[str], organizations: Sequence[str], created_at: datetime
) -> tuple[Fields, Billed]:
    """An event's fields beside id and endpoint, and the row that it has to become."""
    tokens, used, input_, output = _tokens(chance)
    cost, cost_usd = _cost(chance)
    if cost is None and (input_ or output):
        micro_usd = input_ + 3 * output
        cost_usd = f"{micro_usd // MICRO}.{micro_usd % MICRO:06}"
    fields: Fields = tokens | {
        "user_id": chance.choice(users),
        "organization_id": chance.choice(organizations),
        "model": chance.choice(MODELS),
        "request_type": chance.choice(REQUEST_TYPES),
        "request_metadata": chance.choice(METADATA),
        "estimated_cost_usd": cost,
        "created_at": _time(chance, created_at),
    }
    billed = Billed(
        user_id=fields["user_id"],
        organization_id=fields["organization_id"],
        tokens_used=used,
        input_tokens=input_,
        output_tokens=output,
        model=fields["model"],
        request_type=fields["request_type"],
        metadata=fields["request_metadata"],
        padding=None,
        cost_usd=cost_usd,
        created_at=created_at,
    )
    is_shown = chance.random() < 0.5  # absent is the same as null
    return {name: value for name, value in fields.items() if is_shown or value is not None}, billed


def due_reason(bad: Bad | None, *, is_in_future: bool) -> Reason | None:
    """Why an event has to be refused, by the contract's order; `None`: it has to be stored."""
    due = [bad.reason] if bad else []
    if is_in_future and not (bad and "created_at" in bad.change):
        due.append(Reason.IN_FUTURE)
    return min(due, key=_ORDER.index, default=None)


def _tokens(chance: random.Random) -> tuple[Fields, int, int, int]:
    """The fields, and the columns: total, input and output, of which the parts stay 0 where only a total is given."""
    input_, output = chance.randrange(1, MICRO), chance.randrange(1, MICRO // 10)
    fields = {"input_tokens": input_, "output_tokens": output, "tokens_used": input_ + output}
    match chance.randrange(8):
        case 0:
            return {"tokens_used": input_ + output}, input_ + output, 0, 0
        case 1:
            del fields["input_tokens"]
        case 2:
            del fields["output_tokens"]
        case 3:
            pass
        case _:
            del fields["tokens_used"]
    return fields, input_ + output, input_, output


def _cost(chance: random.Random) -> tuple[str | float | None, str | None]:
    """What is given, of nine decimals or nothing, and what the column holds of it."""
    exact = (Decimal(chance.randrange(MICRO_USD_MAX)) * 1000 + chance.choice(BILLIONTHS)).scaleb(-9)
    held = f"{exact.quantize(COLUMN, ROUND_HALF_UP):f}"
    match chance.randrange(3):
        case 0:
            return None, None
        case 1:
            return f"{exact:f}", held
        case _:
            return float(exact), held  # 13 digits: its shortest decimal is the same


def _time(chance: random.Random, at: datetime) -> str:
    """It in one of its forms; digits after the sixth are cut off."""
    text = at.astimezone(chance.choice(OFFSETS)).isoformat(timespec="microseconds")
    return text[:26] + chance.choice(("", "999")) + text[26:]
