"""Publishing with a spool: what `record` has taken outlives the process, and is sent by whoever opens the file next."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from makers import ORGANIZATION, USER
from usage_events import UsageEvent
from usage_events.errors import UnconfirmedError
from usage_events.publisher import UsagePublisher
from usage_events.spool import Spool
from usage_queue import declare, open_channel

ROUNDS = 12

RECORD_UNTIL_KILLED = """
import asyncio, sys
from makers import ORGANIZATION, USER
from usage_events import UsageEvent
from usage_events.publisher import UsagePublisher

async def main(url, exchange, path):
    publisher = UsagePublisher(url, exchange=exchange, durability="spool", spool_path=path, linger_seconds=0)
    async with publisher:
        while True:
            event = UsageEvent(user_id=USER, organization_id=ORGANIZATION, input_tokens=1)
            publisher.record(event)
            print(event.id, flush=True)
            await asyncio.sleep(0)

asyncio.run(main(*sys.argv[1:]))
"""


def event() -> UsageEvent:
    """A good one."""
    return UsageEvent(user_id=USER, organization_id=ORGANIZATION, input_tokens=1)


async def arrived(queue: Any, wanted: set[str]) -> None:
    """Returns when each of these has come."""
    missing = set(wanted)
    async with queue.iterator(no_ack=True) as messages:
        async for message in messages:
            body = json.loads(message.body)
            missing -= {one["id"] for one in (body if isinstance(body, list) else [body])}
            if not missing:
                return


def record_and_be_killed(url: str, exchange: str, path: Path, lines: int) -> set[str]:
    """A process that records is killed after it has printed so many ids; all that it has printed."""
    with subprocess.Popen(
        [sys.executable, "-c", RECORD_UNTIL_KILLED, url, exchange, path],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    ) as process:
        assert process.stdout is not None
        printed = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        printed += process.stdout.read().splitlines()
    return {line.strip() for line in printed if len(line.strip()) == 36}


async def test_sigkill_right_after_record_loses_nothing(
    amqp_url: str, names: Any, tmp_path: Path, unused_tcp_port: int
) -> None:
    """Processes are killed while they record, with the broker there or away: each id they printed arrives."""
    path = tmp_path / "spool"
    recorded: set[str] = set()
    nowhere = f"amqp://guest:guest@127.0.0.1:{unused_tcp_port}/"
    async with open_channel(amqp_url) as channel:
        queue = await declare(channel, names.exchange, names.queue)
        for number in range(ROUNDS):
            url = amqp_url if number % 2 else nowhere
            recorded |= await asyncio.to_thread(record_and_be_killed, url, names.exchange, path, 5 + 20 * number)
        async with UsagePublisher(amqp_url, exchange=names.exchange, durability="spool", spool_path=path) as publisher:
            await publisher.flush(60)
        await asyncio.wait_for(arrived(queue, recorded), 60)
    assert Spool(path).events == 0


async def test_what_does_not_fit_goes_to_the_spool_and_arrives(
    amqp_url: str, names: Any, tmp_path: Path, unused_tcp_port: int
) -> None:
    """With the broker away memory fills, the rest is spooled, the end says what is left; the next start sends it."""
    nowhere = f"amqp://guest:guest@127.0.0.1:{unused_tcp_port}/"
    options: dict[str, Any] = {"exchange": names.exchange, "when_full": "spool", "spool_path": tmp_path / "spool"}
    events = [event() for _ in range(300)]
    away = UsagePublisher(nowhere, buffer_events_max=50, **options)
    for one in events:
        away.record(one)
    assert away.books.spooled == 250
    with pytest.raises(UnconfirmedError, match=r"^events not confirmed after 0.1 s: 300; they stay in the spool\. "):
        await away.close(0.1)
    async with open_channel(amqp_url) as channel:
        queue = await declare(channel, names.exchange, names.queue)
        async with UsagePublisher(amqp_url, **options) as publisher:
            await asyncio.wait_for(arrived(queue, {str(one.id) for one in events}), 60)
            await publisher.flush(30)
    assert Spool(tmp_path / "spool").events == 0
