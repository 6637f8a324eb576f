"""Messages that kill every worker that decodes them, until the broker hands them out no more."""

import json
import random
import signal
from datetime import UTC, datetime
from uuid import UUID

from harness import ORGANIZATION, USER
from harness.waiting import until
from usage_events.contract import Reason

from chaos.ledger import LedgerFile, unreadable
from chaos.load import Load
from chaos.poisoned_worker import MARK
from chaos.registry import fault
from chaos.stage import Stage
from worker.rabbitmq.topology import DELIVERY_LIMIT

SIZES = (1, 10)  # of the messages, in events
PUBLISH_SECONDS_MAX = 30.0
GIVEN_UP_SECONDS_MAX = 400.0  # more than 20 workers have to start for each
LETTERS = "SELECT count(*) FROM ai_usage_dead_letters WHERE reason = 'delivery_limit'"


@fault(
    "RabbitMQ delivery limit, poison",
    load=Load(rate=100),  # a backlog grows meanwhile: workers begin anew, with a prefetch of 1, again and again
    recovery_seconds_max=120,
    mixes=False,
)
async def poison(stage: Stage, chance: random.Random) -> None:
    """Two messages kill every worker that decodes them, until the broker gives them up: a letter each, and no other."""
    stage.fleet.use("chaos.poisoned_worker")
    try:
        await stage.fleet.replace()
        await stage.fleet.until_up()
        before = stage.fleet.exits[-signal.SIGKILL]
        with LedgerFile(stage.new_ledger("poison")) as ledger:
            for size in SIZES:
                body = _deadly(chance, size)
                lines = [unreadable(body, Reason.DELIVERY_LIMIT)]  # though its events would be good
                ledger.sent(lines)
                await stage.publish(body, PUBLISH_SECONDS_MAX)
                ledger.confirmed(lines)

        async def are_given_up() -> bool:
            return int(await stage.value(LETTERS)) >= len(SIZES)

        what = f"{len(SIZES)} messages are given up"
        await until(are_given_up, what, seconds_max=GIVEN_UP_SECONDS_MAX, details=stage.details)
        deaths = stage.fleet.exits[-signal.SIGKILL] - before
        assert deaths > DELIVERY_LIMIT, f"{deaths} workers have died of them"
    finally:
        stage.fleet.use()
        await stage.fleet.replace()


def _deadly(chance: random.Random, size: int) -> bytes:
    """A message of so many events."""
    events = [
        {
            "id": str(UUID(int=chance.getrandbits(128))),
            "user_id": str(USER),
            "organization_id": str(ORGANIZATION),
            "input_tokens": 1,
            "model": MARK.decode(),
            "created_at": datetime.now(UTC).isoformat(),
        }
        for _ in range(size)
    ]
    return json.dumps(events[0] if size == 1 else events).encode()
