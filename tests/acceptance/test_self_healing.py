"""Self-healing, from outside: a worker brings home what was sent before its user existed."""

import asyncio
import signal
from typing import Any
from uuid import UUID, uuid4

import pytest
from harness import System, event, message

from worker import app, heal
from worker.settings import load_settings

BODIES = 200


@pytest.mark.parametrize("is_on", [True, False])
async def test_a_user_that_comes_late(system: System, monkeypatch: pytest.MonkeyPatch, *, is_on: bool) -> None:
    """Refused events are stored without anybody's doing once their user exists; switched off, they stay letters."""
    monkeypatch.setattr(heal.Healer.__init__, "__kwdefaults__", {"interval_seconds": 0.05})
    user = str(uuid4())
    await system.publish(*(message(event(user_id=user)) for _ in range(BODIES)))
    settings = load_settings(
        amqp_url=system.amqp_url,
        postgres_dsn=system.dsn,
        exchange=system.exchange,
        queue=system.queue,
        http_port=0,
        self_heal=is_on,
    )
    running: asyncio.Future[Any] = asyncio.ensure_future(app.run(settings))
    await system.until(lambda: _letters(system, "open", BODIES), "all are refused")
    await system.value("INSERT INTO users VALUES ($1) RETURNING id", UUID(user))
    if is_on:
        await system.until(lambda: _letters(system, "recovered", BODIES), "all are healed")
    else:
        await system.publish(message(event()))
        await system.until_stored(1)
    signal.raise_signal(signal.SIGTERM)
    assert await asyncio.wait_for(running, 20) == 0
    assert await system.stored() == (BODIES if is_on else 1)
    (await system.books()).check()


async def _letters(system: System, status: str, count: int) -> bool:
    query = "SELECT count(*) FROM ai_usage_dead_letters WHERE status = $1"
    return bool(await system.value(query, status) == count)
