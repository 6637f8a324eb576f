"""The publisher for threads: many of them, forks, the end of a process, and gunicorn's pre-forked workers."""

import asyncio
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from makers import ORGANIZATION, USER
from usage_events import BlockingUsagePublisher, UsageEvent
from usage_events.errors import BufferFullError, UnconfirmedError
from usage_queue import declare, ids_in, open_channel

HEAD = """
import os, sys, multiprocessing
from makers import ORGANIZATION, USER
from usage_events import BlockingUsagePublisher, UsageEvent

def record(publisher, count):
    for _ in range(count):
        event = UsageEvent(user_id=USER, organization_id=ORGANIZATION, input_tokens=1)
        publisher.record(event)
        os.write(1, f"{event.id}\\n".encode())
"""


def event() -> UsageEvent:
    """A good one."""
    return UsageEvent(user_id=USER, organization_id=ORGANIZATION, input_tokens=1)


def record_all(publisher: BlockingUsagePublisher, events: list[UsageEvent]) -> None:
    """Records these."""
    for one in events:
        publisher.record(one)


async def run(code: str, *arguments: str) -> tuple[list[str], str]:
    """The lines that the code printed, and what it said besides; it must end well."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        HEAD + code,
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    output, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, said.decode()
    return output.decode().split(), said.decode()


async def test_events_of_many_threads_arrive(amqp_url: str, names: Any) -> None:
    """Eight threads record at once; a flush waits for all of them, and the books know each."""
    events = [[event() for _ in range(500)] for _ in range(8)]
    async with open_channel(amqp_url) as channel:
        queue = await declare(channel, names.exchange, names.queue)

        def work() -> None:
            with BlockingUsagePublisher(amqp_url, exchange=names.exchange) as publisher, ThreadPoolExecutor(8) as pool:
                for own in events:
                    pool.submit(record_all, publisher, own)
                pool.shutdown()
                publisher.flush(30)
                assert (publisher.books.recorded, publisher.books.confirmed) == (4000, 4000)

        await asyncio.to_thread(work)
        found = await ids_in(queue, 4000)
    assert sorted(found) == sorted(str(one.id) for own in events for one in own)


def test_a_closed_publisher_takes_nothing(unused_tcp_port: int) -> None:
    """What is not confirmed is said at the end, and after it an event is refused instead of being forgotten."""
    publisher = BlockingUsagePublisher(f"amqp://127.0.0.1:{unused_tcp_port}/", buffer_events_max=2)
    with pytest.raises(BufferFullError):
        record_all(publisher, [event() for _ in range(1000)])
    with pytest.raises(UnconfirmedError, match=r"^events not confirmed after 0.2 s: "):
        publisher.close(0.2)
    with pytest.raises(RuntimeError, match=r"^the publisher is closed; make another$"):
        publisher.record(event())
    publisher.close()


def test_exit_timeout_is_judged() -> None:
    """A deadline that makes no sense is named."""
    with pytest.raises(ValueError, match=r"^exit_timeout_seconds is -1; it must be 0 or more, and finite$"):
        BlockingUsagePublisher("amqp://localhost/", exit_timeout_seconds=-1)


async def test_the_end_of_a_script_waits_for_its_events(amqp_url: str, names: Any) -> None:
    """Who records and simply ends has everything confirmed, also where nothing was connected yet."""
    async with open_channel(amqp_url) as channel:
        queue = await declare(channel, names.exchange, names.queue)
        code = "record(BlockingUsagePublisher(sys.argv[1], exchange=sys.argv[2]), 50)"
        ids, _ = await run(code, amqp_url, names.exchange)
        assert sorted(await ids_in(queue, 50)) == sorted(ids)


async def test_the_end_of_a_script_has_a_deadline(unused_tcp_port: int) -> None:
    """Without a broker the process ends all the same, and says how many events were not confirmed."""
    code = "record(BlockingUsagePublisher(sys.argv[1], exit_timeout_seconds=0.2), 7)"
    _, said = await run(code, f"amqp://127.0.0.1:{unused_tcp_port}/")
    assert "the process ends: events not confirmed after 0.2 s: 7; they may or may not have arrived" in said


@pytest.mark.parametrize("options", ["", "durability='spool', spool_path=sys.argv[3], "])
async def test_a_publisher_outlives_forks(amqp_url: str, names: Any, tmp_path: Path, options: str) -> None:
    """Made, and used, before the fork: each child sends its own events, and nobody the parent's a second time."""
    code = f"""
publisher = BlockingUsagePublisher(sys.argv[1], exchange=sys.argv[2], {options})
record(publisher, 20)
context = multiprocessing.get_context("fork")
children = [context.Process(target=record, args=(publisher, 30)) for _ in range(3)]
for child in children: child.start()
record(publisher, 20)
for child in children: child.join()
assert [child.exitcode for child in children] == [0, 0, 0]
"""
    async with open_channel(amqp_url) as channel:
        queue = await declare(channel, names.exchange, names.queue)
        ids, _ = await run(code, amqp_url, names.exchange, str(tmp_path / "spool"))
        assert len(ids) == 130
        assert sorted(await ids_in(queue, 130)) == sorted(ids)
        assert (await channel.declare_queue(names.queue, passive=True)).declaration_result.message_count == 0
