"""`record` on a real broker: whatever fails on the way, what was recorded arrives once the broker is mended."""

import asyncio
import json
from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import aio_pika
import pytest
from fake_broker import let_others_run
from makers import ORGANIZATION
from producing import Proxy, new_event, with_parts
from usage_events.books import Books
from usage_events.errors import (
    AccessRefusedError,
    BufferFullError,
    EventTooLargeError,
    ExchangeMissingError,
    UnconfirmedError,
    UnroutableError,
    UsageEventsError,
)
from usage_events.event import UsageEvent
from usage_events.publisher import UsagePublisher
from usage_queue import declare, open_channel, receive, receive_until

from worker.demo.processes import LocalProcess
from worker.demo.rabbitmq_server import RabbitServer


def new_events(count: int, **fields: Any) -> list[UsageEvent]:
    """Events in the order of their ids."""
    return [new_event(**fields) for _ in range(count)]


def ids_of(body: bytes) -> list[str]:
    """The events of a message."""
    value = json.loads(body)
    return [event["id"] for event in (value if isinstance(value, list) else [value])]


async def arrived(queue: aio_pika.abc.AbstractQueue, events: Collection[UsageEvent]) -> list[str]:
    """The ids in the queue, duplicates included, up to the message that completes these events."""
    found: list[str] = []
    missing = {str(event.id) for event in events}
    incoming: asyncio.Queue[aio_pika.abc.AbstractIncomingMessage] = asyncio.Queue()
    tag = await queue.consume(incoming.put, no_ack=True)
    while missing:
        found += ids_of((await incoming.get()).body)
        missing.difference_update(found)
    await queue.cancel(tag)
    return found


class Heard:
    """What `on_error` was told, and a signal for the first of each kind."""

    def __init__(self) -> None:
        self.errors: list[UsageEventsError] = []
        self.events: list[bytes] = []
        self.first = asyncio.Event()

    def __call__(self, error: UsageEventsError, events: Any) -> None:
        """One call."""
        self.errors.append(error)
        self.events += events
        self.first.set()


async def test_recorded_events_arrive_in_order(amqp_url: str, names: Any) -> None:
    """2,000 events recorded at once are 20 messages with all that a worker needs, in their order."""
    events = new_events(2_000)
    async with open_channel(amqp_url) as channel:
        queue = await declare(channel, names.exchange, names.queue)
        async with UsagePublisher(amqp_url, exchange=names.exchange, app_id="chat") as publisher:
            for event in events:
                publisher.record(event)
            await publisher.flush()
            assert publisher.books == Books(recorded=2_000, confirmed=2_000, confirmed_messages=20)
        messages = await receive(queue, 20)
    assert [one for message in messages for one in ids_of(message.body)] == [str(event.id) for event in events]
    first = messages[0]
    assert (first.content_type, first.app_id, first.delivery_mode) == ("application/json", "chat", 2)
    assert (first.routing_key, UUID(str(first.message_id)).version) == ("usage.recorded", 7)


async def test_a_message_for_each_organization(amqp_url: str, names: Any) -> None:
    """Partitioned, the queue's binding takes every organization's routing key."""
    other = uuid4()
    async with open_channel(amqp_url) as channel:
        queue = await declare(channel, names.exchange, names.queue)
        async with UsagePublisher(amqp_url, exchange=names.exchange, partition_by_organization=True) as publisher:
            for number in range(10):
                publisher.record(new_event(organization_id=other if number % 2 else ORGANIZATION))
        messages = await receive(queue, 2)
    for message in messages:
        organizations = {event["organization_id"] for event in json.loads(message.body)}
        assert message.routing_key == f"usage.recorded.{organizations.pop()}"
        assert organizations == set()


async def test_a_killed_broker_loses_nothing(own_rabbitmq_server: RabbitServer, log_signal: Any) -> None:
    """The broker is killed twice while events are recorded; each of them is in the queue afterwards."""
    url = own_rabbitmq_server.amqp_url
    away = log_signal("cannot be reached")
    events: list[UsageEvent] = []
    async with open_channel(url) as channel:
        await declare(channel, "usage", "usage.events")
    await asyncio.to_thread(own_rabbitmq_server.restart)  # so that the broker has noted the queue before it is killed
    async with UsagePublisher(url) as publisher:
        await publisher.connect()
        for _ in range(2):
            killing = asyncio.create_task(asyncio.to_thread(_kill_and_start, own_rabbitmq_server))
            while not killing.done():
                events.append(new_event())
                publisher.record(events[-1])
                await asyncio.sleep(0.002)
            await killing
        await publisher.flush()
    assert away.is_set()
    assert publisher.books.confirmed == publisher.books.recorded == len(events)
    async with open_channel(url) as channel:
        await arrived(await channel.get_queue("usage.events"), events)


def _kill_and_start(server: RabbitServer) -> None:
    server.kill()
    server.start()


async def test_cut_connections_lose_nothing(amqp_url: str, names: Any, log_signal: Any) -> None:
    """The connection is cut 20 times with messages on their way; with one in flight the order is kept all the same."""
    again = log_signal("goes again")
    events = new_events(2_000)
    async with open_channel(amqp_url) as channel, Proxy.before(amqp_url) as (proxy, url):
        queue = await declare(channel, names.exchange, names.queue)
        async with UsagePublisher(
            url, exchange=names.exchange, in_flight_max=1, events_per_message_max=20, linger_seconds=0
        ) as publisher:
            await publisher.connect()
            for start in range(0, 2_000, 100):
                for event in events[start : start + 100]:
                    publisher.record(event)
                await let_others_run()  # some of the five messages may be on their way; `again` tells that one was
                proxy.cut()
                await publisher.flush()
        assert again.is_set()
        firsts = list(dict.fromkeys(await arrived(queue, events)))
    assert firsts == [str(event.id) for event in events]
    assert publisher.books.confirmed == 2_000


async def test_an_exchange_that_is_declared_later(amqp_url: str, names: Any) -> None:
    """The caller hears of the missing exchange, and when it is declared the events go by themselves."""
    heard = Heard()
    events = new_events(250)
    async with open_channel(amqp_url) as channel:
        async with UsagePublisher(amqp_url, exchange=names.exchange, on_error=heard) as publisher:
            for event in events:
                publisher.record(event)
            with pytest.raises(UnconfirmedError, match=rf"^events not confirmed after 0.2 s: 250; .*{names.exchange}"):
                await publisher.flush(timeout_seconds=0.2)
            queue = await declare(channel, names.exchange, names.queue)
            await publisher.flush()
        assert {type(error) for error in heard.errors} == {ExchangeMissingError}
        assert len(heard.events) == len(set(heard.events))  # each is told once
        assert sorted(await arrived(queue, events)) == sorted(str(event.id) for event in events)
    assert (
        publisher.books.as_dict() | {"confirmed_messages": 0}
        == Books(recorded=250, confirmed=250, refused=len(heard.events)).as_dict()
    )


async def test_a_queue_that_is_bound_later(amqp_url: str, names: Any) -> None:
    """What no queue takes comes back, is told, and goes again until a queue is bound."""
    heard = Heard()
    events = new_events(250)
    async with open_channel(amqp_url) as channel:
        await channel.declare_exchange(names.exchange, "topic", durable=True)
        async with UsagePublisher(amqp_url, exchange=names.exchange, on_error=heard) as publisher:
            for event in events:
                publisher.record(event)
            await heard.first.wait()
            queue = await declare(channel, names.exchange, names.queue)
            await publisher.flush()
        assert {type(error) for error in heard.errors} == {UnroutableError}
        assert sorted(await arrived(queue, events)) == sorted(str(event.id) for event in events)
    assert publisher.books.confirmed == 250
    assert publisher.books.returned == len(heard.events)


async def test_a_permission_that_is_granted_later(rabbitmq_server: RabbitServer, names: Any) -> None:
    """A user who may not write to the exchange: told, and when it is granted the events go by themselves."""
    heard = Heard()
    user = f"user-{uuid4().hex[:8]}"
    url = with_parts(rabbitmq_server.amqp_url, user=user, password="s3cret")
    vhost = urlsplit(url).path.removeprefix("/") or "%2F"

    def permit(write: str) -> None:
        body = {"configure": "", "write": write, "read": ".*"}
        rabbitmq_server.manage("PUT", f"/api/permissions/{vhost}/{user}", body)

    rabbitmq_server.manage("PUT", f"/api/users/{user}", {"password": "s3cret", "tags": ""})
    try:
        permit("")
        async with open_channel(rabbitmq_server.amqp_url) as channel:
            queue = await declare(channel, names.exchange, names.queue)
            async with UsagePublisher(url, exchange=names.exchange, on_error=heard) as publisher:
                event = new_event()
                publisher.record(event)
                await heard.first.wait()
                permit(".*")
                await publisher.flush()
            assert await arrived(queue, [event]) == [str(event.id)]
    finally:
        rabbitmq_server.manage("DELETE", f"/api/users/{user}")
    assert [type(error) for error in heard.errors] == [AccessRefusedError]
    assert "may not write to it" in str(heard.errors[0])
    assert publisher.books == Books(recorded=1, confirmed=1, refused=1, confirmed_messages=1)


async def test_a_full_queue_is_waited_for(amqp_url: str, names: Any, log_signal: Any) -> None:
    """A queue without room refuses (nack): the events wait and go when there is room. No error of the caller's."""
    again = log_signal("goes again")
    heard = Heard()
    async with open_channel(amqp_url) as channel:
        arguments = {"queue-type": "classic", "max-length": 1, "overflow": "reject-publish"}
        queue = await declare(channel, names.exchange, names.queue, **arguments)
        async with UsagePublisher(
            amqp_url, exchange=names.exchange, events_per_message_max=1, on_error=heard
        ) as publisher:
            events = new_events(3)
            for event in events:
                publisher.record(event)
            await again.wait()
            bodies = await receive_until(queue, {event.to_json() for event in events})
            await publisher.flush()
    assert sorted(bodies) == sorted(event.to_json() for event in events)
    assert (publisher.books.confirmed, heard.errors) == (3, [])


async def test_a_broker_that_takes_only_small_messages(own_rabbitmq_server: RabbitServer) -> None:
    """Messages past `max_message_size` are split; an event that is too large alone is given up, and told."""
    if not isinstance(own_rabbitmq_server._host, LocalProcess):
        pytest.skip("the broker's configuration file can be changed where it is a local process")
    with (own_rabbitmq_server._host._folder.path / "rabbitmq.conf").open("a") as configuration:
        configuration.write("max_message_size = 5000\n")
    await asyncio.to_thread(own_rabbitmq_server.restart)
    url = own_rabbitmq_server.amqp_url
    heard = Heard()
    events = new_events(1_000)
    large = new_event(request_metadata={"text": "x" * 6_000})
    async with open_channel(url) as channel:
        queue = await declare(channel, "usage", "usage.events")
        async with UsagePublisher(url, on_error=heard) as publisher:
            for event in [*events[:500], large, *events[500:]]:
                publisher.record(event)
            await publisher.flush()
            await (await publisher.send([event.to_json() for event in events]))
            with pytest.raises(EventTooLargeError, match=r"the limit is 5,000: shorten its request_metadata"):
                await publisher.send([large.to_json()])
        assert set(await arrived(queue, events)) == {str(event.id) for event in events}
    assert (heard.events, [type(error) for error in heard.errors]) == ([large.to_json()], [EventTooLargeError])
    assert "takes messages of at most 5,000 bytes" in str(heard.errors[0])
    assert (publisher.books.confirmed, publisher.books.given_up, publisher.books.open) == (2_000, 1, 0)


@pytest.mark.parametrize("when_full", ["raise", "drop_oldest"])
async def test_a_silent_broker(own_rabbitmq_server: RabbitServer, when_full: Any) -> None:
    """While the broker is frozen recording goes on up to the bound, flush and close keep their deadlines."""
    url = own_rabbitmq_server.amqp_url
    async with open_channel(url) as channel:
        await declare(channel, "usage", "usage.events")
    publisher = UsagePublisher(
        url, when_full=when_full, buffer_events_max=50, in_flight_max=1, events_per_message_max=10, linger_seconds=0
    )
    await publisher.start()
    await publisher.connect()
    await asyncio.to_thread(own_rabbitmq_server.freeze)
    try:
        recorded = await _record_until_full(publisher, 200)
        with pytest.raises(UnconfirmedError, match="they are tried again"):
            await publisher.flush(timeout_seconds=0.1)
        with pytest.raises(UnconfirmedError, match="they may or may not have arrived") as raised:
            await publisher.close(timeout_seconds=0.1)
    finally:
        await asyncio.to_thread(own_rabbitmq_server.thaw)
    books = publisher.books
    assert books.recorded == recorded
    assert raised.value.events == books.open == books.recorded - books.dropped
    assert 50 <= books.open <= 70  # the buffer, the message in flight, and the next one that waits for its place
    assert bool(books.dropped) == (when_full == "drop_oldest")


async def _record_until_full(publisher: UsagePublisher, count: int) -> int:
    """Returns how many were taken."""
    for recorded in range(count):
        try:
            publisher.record(new_event())
        except BufferFullError:
            return recorded
        await asyncio.sleep(0)
    return count


@pytest.mark.parametrize("leave", ["flush", "close"])
async def test_cancelled_waiting_leaves_nothing_behind(amqp_url: str, names: Any, leave: str) -> None:
    """A request that is cancelled while it flushes harms no other; a cancelled close ends the connection."""
    call: Callable[[UsagePublisher], Any] = getattr(UsagePublisher, leave)
    async with open_channel(amqp_url) as channel:
        await channel.declare_exchange(names.exchange, "topic", durable=True)
        heard = Heard()
        publisher = UsagePublisher(amqp_url, exchange=names.exchange, on_error=heard)
        await publisher.start()
        event = new_event()
        publisher.record(event)
        waiting = asyncio.create_task(call(publisher))
        await heard.first.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        queue = await declare(channel, names.exchange, names.queue)
        if leave == "flush":
            await publisher.close()
            assert await arrived(queue, [event]) == [str(event.id)]
        else:
            with pytest.raises(RuntimeError, match="the publisher is closed"):
                publisher.record(event)
            assert publisher._courier._link is None
