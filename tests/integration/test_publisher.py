"""The publisher on a real broker: what is confirmed has arrived, whatever happened to the connection."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from producing import Proxy, with_parts
from usage_events.books import Books
from usage_events.errors import (
    AccessRefusedError,
    BrokerUnavailableError,
    ExchangeMissingError,
    UnroutableError,
)
from usage_events.publisher import UsagePublisher
from usage_queue import declare, open_channel, receive, receive_until

from worker.demo.rabbitmq_server import RabbitServer

MEBIBYTE = 1024 * 1024


def numbered(count: int) -> list[bytes]:
    """Events that can be told apart."""
    return [json.dumps({"number": number}).encode() for number in range(count)]


async def test_what_is_confirmed_has_arrived(amqp_url: str, names: Any) -> None:
    """500 events, one a message and many in flight, are all in the queue, persistent, named and byte for byte."""
    events = numbered(500)
    async with open_channel(amqp_url) as channel:
        queue = await declare(channel, names.exchange, names.queue)
        async with UsagePublisher(amqp_url, exchange=names.exchange, app_id="chat") as publisher:
            await asyncio.gather(*[await publisher.send([event]) for event in events])
            assert publisher.books == Books(recorded=500, confirmed=500, confirmed_messages=500)
            assert publisher.in_flight == 0
        messages = await receive(queue, 500)
    assert sorted(message.body for message in messages) == sorted(events)
    first = messages[0]
    assert (first.content_type, first.app_id, first.delivery_mode) == ("application/json", "chat", 2)
    assert first.routing_key == "usage.recorded"


async def test_leaving_waits_for_confirmations(amqp_url: str, names: Any) -> None:
    """Who only sends and leaves the block has everything confirmed."""
    async with open_channel(amqp_url) as channel:
        await declare(channel, names.exchange, names.queue)
        async with UsagePublisher(amqp_url, exchange=names.exchange) as publisher:
            for event in numbered(100):
                await publisher.send([event])
        assert publisher.books == Books(recorded=100, confirmed=100, confirmed_messages=100)


async def test_many_events_are_split_by_count_and_bytes(amqp_url: str, names: Any) -> None:
    """No message holds more than 1,000 events or 1 MiB; the confirmation stands for all of them."""
    padded = [json.dumps({"number": number, "pad": "x" * 400_000}).encode() for number in range(3)]
    async with open_channel(amqp_url) as channel:
        queue = await declare(channel, names.exchange, names.queue)
        async with UsagePublisher(amqp_url, exchange=names.exchange) as publisher:
            await (await publisher.send(numbered(2_001)))
            await (await publisher.send(padded))
            assert publisher.books == Books(recorded=2_004, confirmed=2_004, confirmed_messages=5)
        bodies = [message.body for message in await receive(queue, 5)]
    held = [value if isinstance(value := json.loads(body), list) else [value] for body in bodies]
    assert [len(group) for group in held] == [1_000, 1_000, 1, 2, 1]
    assert max(len(body) for body in bodies) <= MEBIBYTE
    assert [event for group in held for event in group] == [json.loads(event) for event in numbered(2_001) + padded]


async def test_sending_nothing_is_confirmed_at_once(amqp_url: str, names: Any) -> None:
    """An empty list makes no message."""
    async with UsagePublisher(amqp_url, exchange=names.exchange) as publisher:
        await (await publisher.send([]))
    assert publisher.books == Books()


async def test_in_flight_is_bounded(own_rabbitmq_server: RabbitServer) -> None:
    """While the broker answers nothing, no more than the window is sent; afterwards everything arrives."""
    url = own_rabbitmq_server.amqp_url
    events = numbered(12)
    async with open_channel(url) as channel:
        await declare(channel, "usage", "usage.events")
    async with UsagePublisher(url, in_flight_max=4) as publisher:
        await publisher.connect()
        await asyncio.to_thread(own_rabbitmq_server.freeze)
        try:
            for event in events[:4]:
                await publisher.send([event])
            waiting = [asyncio.create_task(publisher.send([event])) for event in events[4:]]
            done, _ = await asyncio.wait(waiting, timeout=0.5)
            assert (done, publisher.in_flight) == (set(), 4)
        finally:
            await asyncio.to_thread(own_rabbitmq_server.thaw)
        await asyncio.gather(*await asyncio.gather(*waiting))
    assert publisher.books.confirmed == 12


async def test_giving_up_waiting_does_not_stop_the_delivery(amqp_url: str, names: Any) -> None:
    """A caller who cancels the confirmation, as a time-out does, has sent the event all the same."""
    async with open_channel(amqp_url) as channel:
        queue = await declare(channel, names.exchange, names.queue)
        async with UsagePublisher(amqp_url, exchange=names.exchange) as publisher:
            confirmation = await publisher.send([b'{"kept":1}'])
            confirmation.cancel()
        assert publisher.books.confirmed == 1
        assert [message.body for message in await receive(queue, 1)] == [b'{"kept":1}']


async def test_an_unroutable_message_is_an_error(amqp_url: str, names: Any) -> None:
    """An event that no queue takes comes back as an error that says what to do; later events are not harmed."""
    async with open_channel(amqp_url) as channel:
        await channel.declare_exchange(names.exchange, "topic", durable=True)
        async with UsagePublisher(amqp_url, exchange=names.exchange) as publisher:
            lost = await publisher.send(numbered(3))
            with pytest.raises(UnroutableError) as raised:
                await lost
            await declare(channel, names.exchange, names.queue)
            await (await publisher.send(numbered(2)))
        assert publisher.books == Books(recorded=5, confirmed=2, returned=3, given_up=3, confirmed_messages=1)
    assert str(raised.value) == (
        f"exchange {names.exchange!r} at {publisher._target.broker}: no queue is bound that takes 'usage.recorded', so"
        " the message came back; start a worker or run `usage-worker check`"
    )


@pytest.mark.parametrize("call", [UsagePublisher.connect, lambda publisher: publisher.send([b"{}"])])
async def test_a_missing_exchange_is_an_error(amqp_url: str, names: Any, call: Callable[[UsagePublisher], Any]) -> None:
    """Who connects or sends to an exchange that is not there is told so, instead of waiting for ever."""
    async with UsagePublisher(amqp_url, exchange=names.exchange) as publisher:
        with pytest.raises(ExchangeMissingError) as raised:
            await (await call(publisher))
    assert str(raised.value) == (
        f"exchange {names.exchange!r} at {publisher._target.broker} does not exist; start a worker or run"
        " `usage-worker check`"
    )


async def test_an_exchange_that_vanishes_is_an_error_until_it_is_back(amqp_url: str, names: Any) -> None:
    """All that was in flight to a deleted exchange fails, and the publisher serves again when it is declared."""
    async with open_channel(amqp_url) as channel:
        await declare(channel, names.exchange, names.queue)
        async with UsagePublisher(amqp_url, exchange=names.exchange) as publisher:
            await (await publisher.send([b"{}"]))
            await channel.exchange_delete(names.exchange)
            results = await asyncio.gather(
                *[await publisher.send([event]) for event in numbered(50)], return_exceptions=True
            )
            assert {type(result) for result in results} == {ExchangeMissingError}
            await declare(channel, names.exchange, names.queue)
            await (await publisher.send([b"{}"]))
        assert publisher.books == Books(recorded=52, confirmed=2, refused=50, given_up=50, confirmed_messages=2)


async def test_an_exchange_that_may_not_be_written_to_is_an_error(amqp_url: str, names: Any) -> None:
    """The broker's refusal reaches the caller with the broker's reason (here: the exchange is an internal one)."""
    async with open_channel(amqp_url) as channel:
        await channel.declare_exchange(names.exchange, "topic", durable=True, internal=True)
        async with UsagePublisher(amqp_url, exchange=names.exchange) as publisher:
            refused = await publisher.send([b"{}"])
            with pytest.raises(AccessRefusedError, match=rf"^exchange '{names.exchange}' .*may not write to it"):
                await refused


async def test_a_wrong_password_is_an_error(amqp_url: str, names: Any) -> None:
    """A refused user is told at once and not tried again; the password is not in the message."""
    url = with_parts(amqp_url, password="wr0ng")
    async with UsagePublisher(url, exchange=names.exchange) as publisher:
        refused = await publisher.send([b"{}"])
        with pytest.raises(AccessRefusedError, match=r"refuses the connection .*check user and password$") as raised:
            await refused
    assert "wr0ng" not in str(raised.value)


async def test_an_unknown_vhost_is_named(amqp_url: str, names: Any) -> None:
    """The vhost stands in the message, with a hint of what may be wrong with it."""
    async with UsagePublisher(with_parts(amqp_url, path="/absent"), exchange=names.exchange) as publisher:
        with pytest.raises(BrokerUnavailableError, match=r"/absent cannot be reached: .*does the vhost exist"):
            await publisher.connect()


async def test_no_broker_is_said_once(unused_tcp_port: int) -> None:
    """Who asks for the connection learns at once that nobody listens there."""
    async with UsagePublisher(f"amqp://guest:guest@127.0.0.1:{unused_tcp_port}/") as publisher:
        with pytest.raises(BrokerUnavailableError, match=rf"^RabbitMQ at amqp://127.0.0.1:{unused_tcp_port}/ cannot"):
            await publisher.connect()


async def test_a_full_queue_is_tried_again(amqp_url: str, names: Any, log_signal: Any) -> None:
    """A message that the queue has no room for (nack) waits, and is confirmed when there is room."""
    again = log_signal("goes again")
    async with open_channel(amqp_url) as channel:
        arguments = {"queue-type": "classic", "max-length": 1, "overflow": "reject-publish"}
        queue = await declare(channel, names.exchange, names.queue, **arguments)
        async with UsagePublisher(amqp_url, exchange=names.exchange) as publisher:
            await (await publisher.send([b"1"]))
            second = await publisher.send([b"2"])
            await again.wait()
            assert not second.done()
            assert [message.body for message in await receive(queue, 1)] == [b"1"]
            await second
        assert [message.body for message in await receive(queue, 1)] == [b"2"]


async def test_cut_connections_lose_nothing(amqp_url: str, names: Any, log_signal: Any) -> None:
    """The connection is cut 20 times with messages on their way: every confirmed event is in the queue."""
    events = numbered(2_000)
    again = log_signal("goes again")
    async with open_channel(amqp_url) as channel, Proxy.before(amqp_url) as (proxy, url):
        queue = await declare(channel, names.exchange, names.queue)
        async with UsagePublisher(url, exchange=names.exchange, in_flight_max=64) as publisher:
            confirmations = []
            for number, event in enumerate(events):
                confirmations.append(await publisher.send([event]))
                if number % 100 == 99:
                    proxy.cut()
            await asyncio.gather(*confirmations)
        assert again.is_set()
        assert publisher.books == Books(recorded=2_000, confirmed=2_000, confirmed_messages=2_000)
        assert set(await receive_until(queue, events)) == set(events)


async def test_what_waits_to_be_written_outlives_the_connection(amqp_url: str, names: Any) -> None:
    """Messages that stand before the socket when it is cut go by the next one, instead of waiting for ever."""
    events = [json.dumps({"number": number, "pad": "x" * 900_000}).encode() for number in range(40)]
    async with open_channel(amqp_url) as channel, Proxy.before(amqp_url) as (proxy, url):
        queue = await declare(channel, names.exchange, names.queue)
        async with UsagePublisher(url, exchange=names.exchange, in_flight_bytes_max=100 * MEBIBYTE) as publisher:
            await publisher.connect()
            confirmations = [await publisher.send([event]) for event in events]
            await asyncio.sleep(0)  # the deliveries have begun, the socket has taken nothing yet
            proxy.cut()
            await asyncio.gather(*confirmations)
        assert set(await receive_until(queue, events)) == set(events)


@pytest.mark.slow  # `record` is killed under in test_recording.py, with the same link
async def test_a_restarted_broker_loses_nothing(own_rabbitmq_server: RabbitServer, log_signal: Any) -> None:
    """The broker restarts while events are being sent: sending goes on by itself, and each of them is in the queue."""
    url = own_rabbitmq_server.amqp_url
    away = log_signal("cannot be reached")
    events: list[bytes] = []
    confirmations = []
    async with open_channel(url) as channel:
        await declare(channel, "usage", "usage.events")
    async with UsagePublisher(url) as publisher:
        await publisher.connect()
        restarting = asyncio.create_task(asyncio.to_thread(own_rabbitmq_server.restart))
        while not restarting.done():
            events.append(b'{"number":%d}' % len(events))
            confirmations.append(await publisher.send([events[-1]]))
            if len(events) % 20 == 0:  # some are always on their way, and they do not become too many
                await confirmations[-1]
        await restarting
        await asyncio.gather(*confirmations)
    assert away.is_set()
    assert publisher.books.confirmed == len(events)
    async with open_channel(url) as channel:
        queue = await channel.get_queue("usage.events")
        assert set(await receive_until(queue, events)) == set(events)


async def test_an_error_in_the_block_does_not_wait_for_the_broker(own_rabbitmq_server: RabbitServer) -> None:
    """Leaving the block with an error while the broker is frozen gives up what is in flight."""
    url = own_rabbitmq_server.amqp_url
    async with open_channel(url) as channel:
        await declare(channel, "usage", "usage.events")
    publisher = UsagePublisher(url)
    await publisher.connect()

    async def fail() -> None:
        async with publisher:
            await publisher.send([b"{}"])
            raise ZeroDivisionError

    await asyncio.to_thread(own_rabbitmq_server.freeze)
    try:
        with pytest.raises(ZeroDivisionError):
            await fail()
    finally:
        await asyncio.to_thread(own_rabbitmq_server.thaw)
    assert (publisher.books.open, publisher.in_flight) == (1, 0)


async def test_a_closed_publisher_sends_nothing(amqp_url: str, names: Any) -> None:
    """After the block an event is refused instead of being forgotten."""
    async with UsagePublisher(amqp_url, exchange=names.exchange) as publisher:
        pass
    with pytest.raises(RuntimeError, match="the publisher is closed; make another"):
        await publisher.send([b"{}"])
