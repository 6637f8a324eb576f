"""What the publisher does with each answer of the broker, one at a time, beside a broker without a wire."""

import asyncio
import gc
import json
import logging
from itertools import chain, repeat
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fake_broker import FakeBroker, let_others_run
from producing import new_event
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from usage_events.books import Books
from usage_events.complaints import Complaints
from usage_events.errors import (
    BufferFullError,
    EventTooLargeError,
    ExchangeMissingError,
    UnconfirmedError,
    UnroutableError,
    UsageEventsError,
)
from usage_events.publisher import UsagePublisher

MISSING = ExchangeMissingError("no exchange")
UNBOUND = UnroutableError("no queue is bound")


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    """In place of RabbitMQ; nothing waits before it tries again."""
    broker = FakeBroker()
    monkeypatch.setattr("usage_events.courier.Link.open", broker.open)
    monkeypatch.setattr("usage_events.backoff.delays", lambda: repeat(0.0))
    return broker


class Heard:
    """What `on_error` was told."""

    def __init__(self) -> None:
        self.errors: list[UsageEventsError] = []
        self.numbers: list[list[int]] = []

    def __call__(self, error: UsageEventsError, events: Any) -> None:
        """One call."""
        self.errors.append(error)
        self.numbers.append([json.loads(event)["input_tokens"] for event in events])


def publisher_of(**arguments: Any) -> UsagePublisher:
    """One that sends four events a message, and only whole messages unless it is flushed."""
    given: dict[str, Any] = {"events_per_message_max": 4, "linger_seconds": 3600.0}
    return UsagePublisher("amqp://rabbit/", **(given | arguments))


def record(publisher: UsagePublisher, *numbers: int, **fields: Any) -> None:
    """Events that can be told apart."""
    for number in numbers:
        publisher.record(new_event(input_tokens=number, **fields))


async def test_events_go_by_count(broker: FakeBroker) -> None:
    """A full message goes at once, the rest waits for others; a flush sends it, too."""
    broker.confirms_at_once = True
    async with publisher_of() as publisher:
        record(publisher, *range(9))
        assert publisher.books == Books(recorded=9, buffered=9)
        await let_others_run()
        assert [one.numbers for one in broker.seen] == [[0, 1, 2, 3], [4, 5, 6, 7]]
        await publisher.flush()
        assert [one.numbers for one in broker.seen[2:]] == [[8]]
        assert publisher.books == Books(recorded=9, confirmed=9, confirmed_messages=3)


async def test_events_go_by_bytes(broker: FakeBroker) -> None:
    """1 MiB is a message, too: what does not fit in goes in the next."""
    broker.confirms_at_once = True
    text = {"text": "x" * 16_000}
    async with publisher_of(events_per_message_max=1000) as publisher:
        record(publisher, *range(100), request_metadata=text)
        await let_others_run()
        assert len(broker.seen) == 1
        assert 1_000_000 < len(broker.seen[0].body) <= 1_048_576


async def test_events_go_by_age(broker: FakeBroker) -> None:
    """A lonely event does not wait for others longer than `linger_seconds`."""
    async with publisher_of(linger_seconds=0.001) as publisher:
        record(publisher, 1)
        await broker.published.wait()
        broker.recover()


async def test_events_recorded_before_the_start_are_kept(broker: FakeBroker) -> None:
    """Code that runs before the loop does may record already; closing sends it even where nobody has started."""
    publisher = publisher_of()
    record(publisher, 1, 2)
    broker.confirms_at_once = True
    await publisher.close()
    assert publisher.books == Books(recorded=2, confirmed=2, confirmed_messages=1)


async def test_organizations_have_messages_of_their_own(broker: FakeBroker) -> None:
    """Partitioned, a message holds one organization's events and its key names it; the order within it is kept."""
    broker.confirms_at_once = True
    first, second = UUID(int=1), UUID(int=2)
    async with publisher_of(partition_by_organization=True, events_per_message_max=6) as publisher:
        for number in range(6):
            record(publisher, number, organization_id=first if number % 3 else second)
        await let_others_run()
    assert {one.routing_key: one.numbers for one in broker.seen} == {
        f"usage.recorded.{first}": [1, 2, 4, 5],
        f"usage.recorded.{second}": [0, 3],
    }


async def test_what_comes_back_is_told_once_and_tried_again(broker: FakeBroker, caplog: Any) -> None:
    """The caller hears of each returned message once, however often it comes back; when it is bound it goes."""
    heard = Heard()
    async with publisher_of(on_error=heard) as publisher:
        record(publisher, 0, 1, 2, 3)
        for _ in range(3):
            await let_others_run()
            broker.refuse(broker.waiting[0], UNBOUND)
        await let_others_run()
        assert publisher.books == Books(recorded=4, returned=4, buffered=4)
        broker.recover()
    assert (heard.errors, heard.numbers) == ([UNBOUND], [[0, 1, 2, 3]])
    assert publisher.books == Books(recorded=4, returned=4, confirmed=4, confirmed_messages=1)
    assert [one.message for one in caplog.records if one.levelno == logging.WARNING] == [
        "4 events not taken, tried again later: no queue is bound"  # once a second at most
    ]


async def test_one_asks_for_all_while_the_exchange_is_missing(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten messages share a refused connection, and then one asks after each pause; every caller hears of it once."""
    monkeypatch.setattr("usage_events.backoff.delays", lambda: chain([0.0], repeat(3600.0)))
    broker.open_error = MISSING
    heard = Heard()
    publisher = publisher_of(events_per_message_max=1, on_error=heard)
    await publisher.start()
    record(publisher, *range(10))
    for _ in range(5):
        await let_others_run()
    assert broker.opens == 2  # the second after a pause of 0 s
    assert heard.errors == [MISSING] * 10
    assert sorted(heard.numbers) == [[number] for number in range(10)]
    assert publisher.books == Books(recorded=10, refused=10, buffered=10)
    await publisher.abort()


async def test_a_message_that_is_too_large_is_split(broker: FakeBroker) -> None:
    """The broker's limit is kept by the parts, a flush waits for each of them, and later messages know it."""
    broker.bytes_max = 500
    async with publisher_of() as publisher:
        record(publisher, 0, 1, 2, 3)
        flush = asyncio.create_task(publisher.flush())
        sent: list[int] = []
        while not flush.done():
            await let_others_run()
            for one in list(broker.waiting):
                sent += one.numbers
                broker.confirm(one)
                assert flush.done() is False
            await let_others_run()
        assert sent == [0, 1, 2, 3]
        broker.confirms_at_once = True
        record(publisher, 4, 5, 6, 7)
        await publisher.flush()
    assert [len(one.body) > 500 for one in broker.seen].count(True) == 1
    assert publisher.books == Books(recorded=8, confirmed=8, confirmed_messages=4)


async def test_an_event_that_is_too_large_alone_is_given_up(broker: FakeBroker, caplog: Any) -> None:
    """It is the caller's again, with what is wrong; the others in its message are sent."""
    broker.bytes_max, broker.confirms_at_once = 500, True
    heard = Heard()
    async with publisher_of(on_error=heard) as publisher:
        record(publisher, 0, 1)
        record(publisher, 2, request_metadata={"text": "x" * 600})
        record(publisher, 3)
        await publisher.flush()
    assert broker.confirmed == {0, 1, 3}
    assert ([type(error) for error in heard.errors], heard.numbers) == ([EventTooLargeError], [[2]])
    assert "bytes can never be delivered: at most 500" in str(heard.errors[0])
    assert publisher.books.as_dict() | {"confirmed_messages": 0} == Books(recorded=4, confirmed=3, given_up=1).as_dict()
    assert "1 event given up" in caplog.text


async def test_an_error_in_on_error_ends_nothing(broker: FakeBroker, caplog: Any) -> None:
    """The caller's own mistake is logged with its traceback, and the events go all the same."""

    def fail(_error: UsageEventsError, _events: Any) -> None:
        raise ZeroDivisionError

    async with publisher_of(on_error=fail) as publisher:
        record(publisher, 0, 1, 2, 3)
        await let_others_run()
        broker.refuse(broker.waiting[0], UNBOUND)
        broker.recover()
    assert publisher.books.confirmed == 4
    assert "on_error failed for no queue is bound" in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_an_error_of_the_program_loses_nothing(broker: FakeBroker, caplog: Any) -> None:
    """What nobody foresaw is logged with its traceback, and the message goes again."""
    broker.publish_error = TypeError("a bug")
    async with publisher_of() as publisher:
        record(publisher, 0, 1, 2, 3)
        await let_others_run()
        broker.recover()
    assert publisher.books.confirmed == 4
    assert "a message of 4 events goes again" in caplog.text
    assert "TypeError: a bug" in caplog.text


async def test_a_buffer_that_fails_for_a_while_loses_nothing(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """A disk that is full, say: sending goes on when that is over."""
    broker.confirms_at_once = True
    async with publisher_of() as publisher:
        lease, failures = publisher._buffer.lease, iter([OSError("disk full"), OSError("disk full")])

        def fail_twice(*arguments: int) -> Any:
            error = next(failures, None)
            if error is not None:
                raise error
            return lease(*arguments)

        monkeypatch.setattr(publisher._buffer, "lease", fail_twice)
        record(publisher, 0, 1, 2, 3)
        await publisher.flush()
    assert publisher.books.confirmed == 4
    assert caplog.text.count("sending failed; it goes on") == 2


@pytest.mark.parametrize("when_full", ["raise", "drop_oldest"])
async def test_a_full_buffer_while_the_broker_is_silent(broker: FakeBroker, caplog: Any, when_full: str) -> None:
    """What is in flight stays; `raise` refuses the next event, `drop_oldest` counts and logs what it gives up."""
    async with publisher_of(
        when_full=when_full, buffer_events_max=3, events_per_message_max=1, in_flight_max=1
    ) as publisher:
        record(publisher, 0, 1)
        await let_others_run()  # 0 is in flight, 1 stands before the window
        record(publisher, 2, 3, 4)
        if when_full == "raise":
            with pytest.raises(BufferFullError, match=r"^the buffer is full: 3 events of [\d,]+ bytes wait"):
                record(publisher, 5)
        else:
            record(publisher, 5, 6)
        broker.recover()
    kept = [0, 1, 2, 3, 4] if when_full == "raise" else [0, 1, 4, 5, 6]
    assert broker.held == kept
    assert publisher.books.dropped == (0 if when_full == "raise" else 2)
    assert caplog.text.count("dropped: the buffer is full") == publisher.books.dropped // 2


async def test_a_flush_has_a_deadline(broker: FakeBroker) -> None:
    """Past it the caller learns how many are not confirmed and why; sending goes on, and a later flush succeeds."""
    broker.open_error = MISSING
    async with publisher_of() as publisher:
        record(publisher, 0, 1)
        with pytest.raises(UnconfirmedError) as raised:
            await publisher.flush(timeout_seconds=0.05)
        assert raised.value.events == 2
        assert str(raised.value) == ("events not confirmed after 0.05 s: 2; they are tried again. no exchange")
        broker.recover()
        await publisher.flush()
    assert publisher.books.confirmed == 2


async def test_closing_has_a_deadline(broker: FakeBroker, caplog: Any) -> None:
    """Past it the connection is ended, the caller learns what is not confirmed, and the books are in the log."""
    caplog.set_level(logging.INFO, "usage_events")
    publisher = publisher_of()
    await publisher.start()
    record(publisher, *range(5))
    await let_others_run()
    with pytest.raises(UnconfirmedError, match=r"^events not confirmed after 0.01 s: 5; they may or may not have"):
        await publisher.close(timeout_seconds=0.01)
    assert publisher.books == Books(recorded=5, buffered=5)
    assert "usage events at the end: 5 recorded, 0 confirmed, 5 buffered, 5 open" in caplog.text
    with pytest.raises(RuntimeError, match=r"^the publisher is closed; make another$"):
        record(publisher, 6)
    await publisher.close()  # again: nothing is left to do, and nothing is sent
    assert broker.held == []


@pytest.mark.parametrize("call", ["flush", "close"])
async def test_giving_up_waiting(broker: FakeBroker, call: str) -> None:
    """A cancelled flush leaves the sending as it is; a cancelled close ends it at once."""
    publisher = publisher_of()
    await publisher.start()
    record(publisher, 0, 1)
    waiting = asyncio.create_task(getattr(publisher, call)())
    await let_others_run()
    assert len(broker.waiting) == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    if call == "flush":
        broker.recover()
        await publisher.close()
    assert publisher.books.confirmed == (2 if call == "flush" else 0)
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_sending_and_closing_do_not_cross(broker: FakeBroker) -> None:
    """A `send` that waits for room while the publisher is closed is refused, and begins nothing."""
    publisher = publisher_of(in_flight_max=1)
    begun = await publisher.send([b'{"input_tokens":1}'])
    waiting = asyncio.create_task(publisher.send([b'{"input_tokens":2}']))
    await let_others_run()
    await publisher.abort()
    with pytest.raises(RuntimeError, match="the publisher is closed"):
        await waiting
    with pytest.raises(asyncio.CancelledError):
        await begun
    assert (publisher.in_flight, len(broker.seen)) == (0, 1)


@pytest.mark.parametrize("call", ["flush", "close"])
@pytest.mark.parametrize("bytes_max", [None, 500])
async def test_events_outlive_the_cancellation_of_every_task(
    broker: FakeBroker, call: str, bytes_max: int | None
) -> None:
    """Frameworks cancel all that is left in a loop: what was on its way, a split message too, is sent afterwards."""
    broker.bytes_max = bytes_max
    publisher = publisher_of(in_flight_max=2)
    await publisher.start()
    record(publisher, *range(20))
    await let_others_run()
    assert broker.waiting
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    ending = asyncio.create_task(getattr(publisher, call)())
    await let_others_run()
    broker.waiting[:] = [one for one in broker.waiting if not one.answer.cancelled()]
    broker.recover()
    await asyncio.wait_for(ending, 60)
    assert sorted(broker.held) == list(range(20))
    assert publisher.books == Books(recorded=20, confirmed=20, confirmed_messages=publisher.books.confirmed_messages)
    await publisher.close()


async def test_who_waits_for_a_publisher_that_is_ended_is_told(broker: FakeBroker) -> None:
    """A flush in one task does not wait for ever where another ends the publisher."""
    publisher = publisher_of()
    record(publisher, 0, 1)
    flush = asyncio.create_task(publisher.flush())
    await let_others_run()
    await publisher.abort()
    message = (
        "^events not confirmed: 2; the publisher has been ended meanwhile. RabbitMQ at amqp://rabbit:5672/ has not"
    )
    with pytest.raises(UnconfirmedError, match=message):
        await asyncio.wait_for(flush, 60)
    assert len(broker.seen) == 1


async def test_an_ended_publisher_leaves_no_traces_of_what_nobody_awaits(broker: FakeBroker, caplog: Any) -> None:
    """Results of `send` that were cancelled and are let go are no errors of the loop's."""
    publisher = publisher_of()
    await publisher.send([b'{"input_tokens":1}'])
    await let_others_run()
    assert len(broker.waiting) == 1
    await publisher.abort()
    await let_others_run()
    gc.collect()
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


async def fail_after(publisher: UsagePublisher, *numbers: int) -> None:
    """A block that an error ends."""
    async with publisher:
        record(publisher, *numbers)
        raise KeyError("the service's own")


async def test_a_block_that_fails_sends_what_it_has_recorded(broker: FakeBroker) -> None:
    """The error goes on as it is, and the calls that were made before it are billed."""
    broker.confirms_at_once = True
    with pytest.raises(KeyError, match="the service's own"):
        await fail_after(publisher_of(), 0, 1)
    assert broker.held == [0, 1]


async def test_a_block_that_fails_has_a_deadline(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Where RabbitMQ is away the error goes on all the same, and the log says how many events were not confirmed."""
    monkeypatch.setattr("usage_events.publisher.ERROR_TIMEOUT_SECONDS", 0.01)
    with pytest.raises(KeyError, match="the service's own"):
        await fail_after(publisher_of(), 0, 1)
    assert "the publisher ends: events not confirmed after 0.01 s: 2; " in caplog.text
    assert len(broker.waiting) == 0


def test_a_publisher_belongs_to_one_loop(broker: FakeBroker) -> None:
    """In another it is refused, by every call, instead of waiting for what never comes."""
    broker.confirms_at_once = True
    publisher = publisher_of()
    asyncio.run(publisher.start())
    with pytest.raises(RuntimeError, match=r"^the publisher's event loop has ended; make another in the new one$"):
        record(publisher, 1)
    for call in (publisher.connect, publisher.start, publisher.flush, publisher.close, lambda: publisher.send([b"{}"])):
        with pytest.raises(
            RuntimeError, match=r"^the publisher belongs to another event loop, that of its first use; "
        ):
            asyncio.run(call())
    assert broker.seen == []


async def test_an_event_of_another_thread_is_refused(broker: FakeBroker) -> None:
    """The loop would not notice it (a `def` endpoint of FastAPI runs in a thread): the caller is told what to use."""
    broker.confirms_at_once = True
    async with publisher_of() as publisher:
        with pytest.raises(
            RuntimeError, match=r"^the publisher belongs to its event loop's thread, and this is another"
        ):
            await asyncio.to_thread(record, publisher, 1)
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(loop.call_soon_threadsafe, publisher.record, new_event(input_tokens=2))
        await let_others_run()
    assert broker.held == [2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"events_per_message_max": 1001}, "events_per_message_max is 1,001; it must be from 1 to 1,000"),
        ({"events_per_message_max": 0}, "events_per_message_max is 0; it must be from 1 to 1,000"),
        ({"linger_seconds": -1.0}, "linger_seconds is -1.0; it must be 0 or more"),
        ({"buffer_events_max": 0}, "buffer_events_max is 0; the least is 1"),
        ({"when_full": "block"}, "when_full is 'block'; it must be 'raise' or 'drop_oldest' or 'spool'"),
        (
            {"routing_key": "x" * 219, "partition_by_organization": True},
            "routing_key is 256 bytes long; the limit is 255",
        ),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments: dict[str, Any], message: str) -> None:
    """Each is told with its name, value and limit, before anything is recorded."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        publisher_of(**arguments)


def test_the_log_is_told_once_a_second(caplog: Any) -> None:
    """A burst of drops is a line a second, with how many there were; refusals have lines of their own."""
    now = 100.0
    complaints = Complaints(None, clock=lambda: now)
    for second in (100.0, 100.5, 101.0, 101.9, 102.0):
        now = second
        complaints.dropped(1)
        complaints.refused(MISSING, [b"{}", b"{}"], is_first=True)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "1 event dropped",
        "2 events not taken, tried again later",
        "2 events dropped",
        "4 events not taken, tried again later",
        "2 events dropped",
        "4 events not taken, tried again later",
    ]


def test_what_comes_back_again_is_not_counted_again(caplog: Any) -> None:
    """The same events refused again and again: the log says that they are the same, and not that there are more."""
    now = 100.0
    complaints = Complaints(None, clock=lambda: now)
    complaints.refused(MISSING, [b"{}", b"{}"], is_first=True)
    for second in (100.5, 101.0):
        now = second
        complaints.refused(MISSING, [b"{}", b"{}"], is_first=False)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "2 events not taken, tried again later",
        "2 events still not taken, tried again later",
    ]


async def test_books_account_for_damage(broker: FakeBroker, tmp_path: Path) -> None:
    """An event in the spool that is not what it was is never sent, and no longer open: it is counted as damaged."""
    path = tmp_path / "spool"
    options: dict[str, Any] = {"durability": "spool", "spool_path": path}
    recording = publisher_of(**options)
    record(recording, 11, 22, 33)
    await recording.abort()
    assert recording.books == Books(recorded=3, spooled=3, buffered=3)
    path.write_bytes(path.read_bytes().replace(b'"input_tokens":22', b'"input_tokens":23'))
    broker.confirms_at_once = True
    async with publisher_of(**options) as publisher:
        record(publisher, 44)
        await publisher.flush()
    assert publisher.books == Books(recorded=1, spooled=1, confirmed=3, confirmed_messages=1, damaged=1)
    assert sum(one.books.open for one in (recording, publisher)) == 0
    assert "usage_events_damaged_total 1\n" in publisher.books.openmetrics()


def test_books_as_openmetrics() -> None:
    """Another library reads the text, and each count is in it with the service's name."""
    books = Books(recorded=9, confirmed=3, returned=1, dropped=2, damaged=1, buffered=3)
    text = books.openmetrics(app_id='a"b\\c\n')
    families = list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call] # its library has none
    samples = {sample.name: sample for family in families for sample in family.samples}
    read = {name.removeprefix("usage_events_").removesuffix("_total"): one.value for name, one in samples.items()}
    assert read == {name: value for name, value in books.as_dict().items() if name != "open"}
    assert {one.labels["app_id"] for one in samples.values()} == {'a"b\\c\n'}
    assert all(family.documentation for family in families)
    assert books.as_dict()["open"] == 3
    assert str(books) == "9 recorded, 3 confirmed, 1 returned, 2 dropped, 1 damaged, 3 buffered, 3 open"
    assert "usage_events_recorded_total 9\n" in books.openmetrics()
