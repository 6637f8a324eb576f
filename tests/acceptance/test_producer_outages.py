"""A producer with a spool through everything at once: its broker is killed again and again, and so is it itself."""

import asyncio
import sys
from pathlib import Path
from uuid import UUID

import pytest
from harness import System
from harness.events import ORGANIZATION, USER

from worker.demo.rabbitmq_server import RabbitServer

KILLS_OF_THE_PRODUCER = 2
LINE_BYTES = 37  # an id and its end; the last line of a killed process may be shorter
RUN_SECONDS_MAX = 420

RECORD = f"""
import os, sys
from usage_events import BlockingUsagePublisher, UsageEvent

url, path, user, organization, count = sys.argv[1:]
publisher = BlockingUsagePublisher(url, durability="spool", spool_path=path)
for _ in range(int(count)):
    event = UsageEvent(user_id=user, organization_id=organization, input_tokens=1)
    publisher.record(event)
    os.write(1, f"{{event.id}}\\n".encode())
sys.stdin.read()  # the one that is to be killed waits for it here
publisher.close({RUN_SECONDS_MAX})
"""


class Outages:
    """Kills the broker and starts it again, each time that so many more events are recorded.

    Before each kill some of what was recorded since the one before is stored: every life of the broker takes part.
    """

    def __init__(self, system: System, server: RabbitServer, *, events_between: int, kills_max: int) -> None:
        self.kills = 0
        self._system = system
        self._server = server
        self._events_between = events_between
        self._kills_max = kills_max
        self._restart: asyncio.Task[None] | None = None

    async def note(self, recorded: int) -> None:
        """So many are recorded; recording goes on while the broker is away."""
        if self.kills == self._kills_max or recorded < self._events_between * (self.kills + 1):
            return
        await self.end()
        await self._system.until_stored(self._events_between * self.kills + 1, seconds_max=120)
        self.kills += 1
        self._restart = asyncio.create_task(asyncio.to_thread(self._kill_and_start))

    async def end(self) -> None:
        """Wait until the broker is there again."""
        if self._restart is not None:
            await self._restart

    def _kill_and_start(self) -> None:
        self._server.kill()
        self._server.start()


async def record(url: str, path: Path, count: int, recorded: set[UUID], outages: Outages, *, is_killed: bool) -> None:
    """A process records so many events and closes, or is killed while it records more; adds the ids that it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RECORD, url, str(path), str(USER), str(ORGANIZATION), str(count * (1 + is_killed)),
        stdin=asyncio.subprocess.PIPE if is_killed else asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        printed = 0
        while len(line := await process.stdout.readline()) == LINE_BYTES:
            recorded.add(UUID(line.decode().strip()))
            printed += 1
            if is_killed and printed == count:
                process.kill()
            elif not is_killed or printed < count:
                await outages.note(len(recorded))
        status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert status == (-9 if is_killed else 0)


@pytest.mark.timeout(RUN_SECONDS_MAX + 120)
@pytest.mark.parametrize(
    ("events", "kills_of_the_broker"),
    [pytest.param(5_000, 2, id="5000"), pytest.param(100_000, 5, id="100000", marks=pytest.mark.slow)],
)
async def test_every_recorded_event_is_stored_once(
    events: int, kills_of_the_broker: int, migrated_dsn: str, own_rabbitmq_server: RabbitServer, tmp_path: Path
) -> None:
    """The broker is killed and started while events are recorded, the producer killed twice: each is one row."""
    url = own_rabbitmq_server.amqp_url
    recorded: set[UUID] = set()
    async with System(migrated_dsn, url, exchange="usage", queue="usage.events", folder=tmp_path) as system:
        # Killed right after the declaration, RabbitMQ may never have a leader for the queue: a clean stop notes it.
        await asyncio.to_thread(own_rabbitmq_server.restart)
        await system.start_worker()
        outages = Outages(
            system, own_rabbitmq_server,
            events_between=events // (kills_of_the_broker + 1), kills_max=kills_of_the_broker,
        )  # fmt: skip
        for _ in range(KILLS_OF_THE_PRODUCER):
            await record(url, tmp_path / "spool", events // 4, recorded, outages, is_killed=True)
        await record(url, tmp_path / "spool", events - len(recorded), recorded, outages, is_killed=False)
        await outages.end()
        # A queue that is just being recovered is counted as empty: the rows say when it is.
        await system.until_stored(len(recorded), seconds_max=180)
        await system.settle()
        stored = {row["id"] for row in await system.database.fetch("SELECT id FROM ai_usage_logs")}
        letters = await system.value("SELECT count(*) FROM ai_usage_dead_letters")
    assert (outages.kills, letters) == (kills_of_the_broker, 0)
    assert len(recorded) == events
    assert recorded <= stored, f"{len(recorded - stored)} recorded events are not stored"
    # A killed process may have recorded one event whose id it had not printed yet.
    assert len(stored) - len(recorded) <= KILLS_OF_THE_PRODUCER
