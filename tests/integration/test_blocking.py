"""The publisher for threads: many of them, forks, the end of a process, and gunicorn's pre-forked workers."""

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from makers import ORGANIZATION, USER
from producing import with_parts
from usage_events import BlockingUsagePublisher, UsageEvent, forks
from usage_events.errors import BufferFullError, UnconfirmedError
from usage_events.spool import Spool
from usage_queue import declare, ids_in, open_channel

HEAD = """
import os, signal, sys, threading, multiprocessing
from concurrent.futures import ThreadPoolExecutor
at_end = threading.Event()
threading._register_atexit(at_end.set)  # comes after what is registered later: the publisher has seen the end
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
    assert "the publisher ends: events not confirmed after 0.2 s: 7; they may or may not have arrived" in said


@pytest.mark.parametrize("go", ["threading.Thread(target=late).start()", "ThreadPoolExecutor().submit(late)"])
async def test_threads_outlive_the_main_one(amqp_url: str, names: Any, go: str) -> None:
    """What they record when the main thread has come to its end arrives, also where Python gives no new thread by then.

    Python 3.12 does not. The broker's name has to be looked up all the same.
    """
    code = f"""
def refuse(_):
    raise RuntimeError("can't create new thread at interpreter shutdown")
threading._register_atexit(lambda: setattr(threading.Thread, "start", refuse))
publisher = BlockingUsagePublisher(sys.argv[1], exchange=sys.argv[2], exit_timeout_seconds=30)
publisher.start()
def late():
    at_end.wait()
    record(publisher, 20)
{go}
"""
    port = urlsplit(amqp_url).port
    async with open_channel(amqp_url) as channel:
        queue = await declare(channel, names.exchange, names.queue)
        ids, _ = await run(code, with_parts(amqp_url, host=f"localhost:{port}"), names.exchange)
        assert len(ids) == 20
        assert sorted(await ids_in(queue, 20)) == sorted(ids)


async def test_a_block_that_fails_sends_what_it_has_recorded(amqp_url: str, names: Any) -> None:
    """The error goes on as it is, and the calls that were made before it are billed."""

    def work() -> None:
        with BlockingUsagePublisher(amqp_url, exchange=names.exchange, exit_timeout_seconds=30) as publisher:
            record_all(publisher, events)
            raise KeyError("the service's own")

    events = [event() for _ in range(3)]
    async with open_channel(amqp_url) as channel:
        queue = await declare(channel, names.exchange, names.queue)
        with pytest.raises(KeyError, match="the service's own"):
            await asyncio.to_thread(work)
        assert sorted(await ids_in(queue, 3)) == sorted(str(one.id) for one in events)


def test_a_callback_cannot_close_its_publisher(amqp_url: str, names: Any) -> None:
    """It would wait for itself: it is told so, and the publisher goes on."""
    heard: list[str] = []
    has_heard = threading.Event()

    def close(*_: object) -> None:
        try:
            publisher.close()
        except RuntimeError as error:
            heard.append(str(error))
        has_heard.set()

    publisher = BlockingUsagePublisher(amqp_url, exchange=names.exchange, on_error=close)
    publisher.record(event())
    assert has_heard.wait(60)
    assert heard == ["this waits for the publisher's thread, and is called in it; call it in another"]
    publisher.record(event())
    with pytest.raises(UnconfirmedError, match=r"confirmed after 0 s: 2; "):
        publisher.close(0)


async def test_ctrl_c_ends_the_wait_for_a_broker(tmp_path: Path, unused_tcp_port: int) -> None:
    """Who interrupts `close` is not kept, and what waited in memory is put into the spool all the same."""
    code = """
options = {"when_full": "spool", "spool_path": sys.argv[2]}
publisher = BlockingUsagePublisher(sys.argv[1], **options)
record(publisher, 3)
threading.Timer(0.3, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()
try:
    publisher.close()
except KeyboardInterrupt:
    print(BlockingUsagePublisher(sys.argv[1], exit_timeout_seconds=0, **options).books.buffered)
"""
    printed, said = await run(code, f"amqp://127.0.0.1:{unused_tcp_port}/", str(tmp_path / "spool"))
    assert printed[3:] == ["3"]
    assert "Task was destroyed" not in said


async def test_one_that_was_never_used_closes_in_a_loop_too(unused_tcp_port: int) -> None:
    """A service's tests and notebooks run in a loop: nothing is connected, so nothing is waited for."""
    BlockingUsagePublisher(f"amqp://127.0.0.1:{unused_tcp_port}/").close()


async def test_a_child_that_records_nothing_ends_at_once(tmp_path: Path, unused_tcp_port: int) -> None:
    """What is in the spool is its parent's to send: the child does not wait for the broker."""
    code = """
publisher = BlockingUsagePublisher(sys.argv[1], durability="spool", spool_path=sys.argv[2], exit_timeout_seconds=600)
record(publisher, 3)
child = multiprocessing.get_context("fork").Process(target=lambda: None)
child.start()
child.join()
os._exit(0)
"""
    printed, _ = await run(code, f"amqp://127.0.0.1:{unused_tcp_port}/", str(tmp_path / "spool"))
    assert len(printed) == 3


def test_a_fork_takes_the_publishers_lock_before_the_spools(tmp_path: Path) -> None:
    """A publisher's may be held by one who waits for its thread, which waits for the spool's: else all would stop."""
    order: list[str] = []

    class Noting:
        def __init__(self, name: str, fork_turn: int) -> None:
            self.name = name
            self.fork_turn = fork_turn

        def before_fork(self) -> None:
            order.append(self.name)

        def after_fork(self, *, is_child: bool) -> None:
            if not is_child:
                order.append(f"{self.name} again")

    spool, publisher = Spool(tmp_path / "spool"), BlockingUsagePublisher("amqp://localhost/")
    noting = [Noting("spool", spool.fork_turn), Noting("publisher", publisher.fork_turn)]
    for one in noting:
        forks.register(one)
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)
    publisher.close()
    spool.close()
    assert order == ["publisher", "spool", "spool again", "publisher again"]


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
