"""The publisher's pure parts: packing, the window, the back-off, and what it takes as arguments."""

import asyncio
import json
import subprocess
import sys
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from usage_events import backoff
from usage_events.envelope import MESSAGE_BYTES_MAX, MESSAGE_EVENTS_MAX
from usage_events.errors import EventTooLargeError
from usage_events.in_flight import InFlightWindow
from usage_events.link import Target
from usage_events.messages import pack
from usage_events.publisher import UsagePublisher

URL = "amqp://user:secret@rabbit:5672/"
EVENTS = st.lists(st.text("ab", max_size=12).map(lambda text: json.dumps(text).encode()), max_size=30)


@given(EVENTS, st.integers(1, 5), st.integers(14, 40))
def test_packing_keeps_order_and_limits(events: list[bytes], events_max: int, bytes_max: int) -> None:
    """Every event is in exactly one message, in order, and no message is past either limit."""
    messages = pack(events, events_max=events_max, bytes_max=bytes_max)
    held = []
    for message in messages:
        value = json.loads(message.body)
        group = value if isinstance(value, list) else [value]
        assert len(group) == message.events_count <= events_max
        assert len(message.body) <= bytes_max
        held += group
    assert held == [json.loads(event) for event in events]


@given(EVENTS, st.integers(1, 5), st.integers(14, 40))
def test_packing_makes_no_message_too_many(events: list[bytes], events_max: int, bytes_max: int) -> None:
    """A message ends only where the next event has no room in it."""
    messages = pack(events, events_max=events_max, bytes_max=bytes_max)
    start = 0
    for message in messages[:-1]:
        end = start + message.events_count
        larger = b"[" + b",".join(events[start : end + 1]) + b"]"
        assert message.events_count == events_max or len(larger) > bytes_max
        start = end


def test_packing_at_the_real_limits() -> None:
    """1,000 events are one message and 1,001 are two; so it is with 1 MiB and a byte more."""
    assert [message.events_count for message in pack([b"{}"] * (MESSAGE_EVENTS_MAX + 1))] == [1000, 1]
    half = b"1" * (MESSAGE_BYTES_MAX // 2 - 2)  # two of them, two brackets and a comma leave one byte
    assert [len(message.body) for message in pack([half, half + b"1"])] == [MESSAGE_BYTES_MAX]
    assert [message.events_count for message in pack([half, half + b"11"])] == [1, 1]


def test_an_event_alone_may_fill_a_message() -> None:
    """An event of exactly 1 MiB goes without brackets; a byte more is refused before anything is sent."""
    full = b"1" * MESSAGE_BYTES_MAX
    assert pack([full])[0].body == full
    with pytest.raises(EventTooLargeError) as raised:
        pack([b"{}", full + b"1"])
    assert str(raised.value) == (
        "event 1 is 1,048,577 bytes long; the limit is 1,048,576: shorten its request_metadata"
    )


async def let_others_run() -> None:
    """Every task that can go on has gone on."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("messages_max", "bytes_max", "fits"), [(3, 10**6, 3), (10**6, 25, 2)])
async def test_window_bounds_messages_and_bytes(messages_max: int, bytes_max: int, fits: int) -> None:
    """Only as many get in as there is room for; each that leaves lets the next one in, in order."""
    window = InFlightWindow(messages_max=messages_max, bytes_max=bytes_max)
    inside: list[int] = []

    async def enter(number: int) -> None:
        await window.enter(10)
        inside.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(enter(number))
        await let_others_run()
        for left in range(6 - fits):
            assert (inside, window.messages) == (list(range(fits + left)), fits)
            window.leave(10)
            await let_others_run()
    assert inside == list(range(6))


async def test_window_takes_a_large_message_alone() -> None:
    """A message larger than all the room goes when nothing else is in flight, and small ones do not overtake it."""
    window = InFlightWindow(messages_max=10, bytes_max=100)
    await window.enter(60)
    large = asyncio.ensure_future(window.enter(500))
    small = asyncio.ensure_future(window.enter(10))
    await let_others_run()
    assert (large.done(), small.done()) == (False, False)
    window.leave(60)
    await let_others_run()
    assert (large.done(), small.done()) == (True, False)
    window.leave(500)
    await small


async def test_a_cancelled_entry_takes_no_room() -> None:
    """Who gives up waiting does not stand in the way of the next."""
    window = InFlightWindow(messages_max=1, bytes_max=100)
    await window.enter(1)
    given_up, waiting = asyncio.ensure_future(window.enter(1)), asyncio.ensure_future(window.enter(1))
    await let_others_run()
    given_up.cancel()
    await let_others_run()
    window.leave(1)
    await waiting
    assert window.messages == 1


@pytest.mark.parametrize("limits", [{"messages_max": 0, "bytes_max": 1}, {"messages_max": 1, "bytes_max": 0}])
def test_a_window_without_room_is_refused(limits: dict[str, int]) -> None:
    """A window that nothing can enter would wait for ever."""
    with pytest.raises(ValueError, match=r"_max is 0; the least is 1$"):
        InFlightWindow(**limits)


def test_backoff_grows_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The range doubles from its first value up to the limit, and the wait is drawn from all of it."""
    ranges: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        ranges.append((low, high))
        return high

    monkeypatch.setattr("random.uniform", draw)
    waits = list(islice(backoff.delays(), 10))
    assert ranges == [(0, wait) for wait in waits]
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0, 10.0]


@pytest.mark.parametrize(
    "url", ["http://rabbit/", "rabbit:5672", "amqp://", "amqp://rabbit:99999/", "amqp://rabbit:x/"]
)
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    """A wrong URL is found when the publisher is made; since it may hold a password it is not shown."""
    with pytest.raises(ValueError, match=r"^amqp_url must look like amqp://user:password@host:5672/vhost") as raised:
        UsagePublisher(url)
    assert "rabbit" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exchange": ""}, "exchange is empty; name one, such as 'usage'"),
        ({"exchange": "é" * 128}, "exchange is 256 bytes long; the limit is 255"),
        ({"app_id": "x" * 256}, "app_id is 256 bytes long; the limit is 255"),
        ({"routing_key": "x" * 256}, "routing_key is 256 bytes long; the limit is 255"),
    ],
)
def test_names_that_amqp_cannot_carry_are_refused(arguments: dict[str, str], message: str) -> None:
    """A name that is too long is told with its length and the limit, before anything is sent."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        UsagePublisher(URL, **arguments)  # type: ignore[arg-type] # the names are the parametrization's


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        (URL, "amqp://rabbit:5672/"),
        ("amqps://user:secret@rabbit/accounts", "amqps://rabbit:5671/accounts"),
        ("amqp://[::1]/", "amqp://[::1]:5672/"),
    ],
)
def test_messages_name_the_broker_without_the_password(url: str, broker: str) -> None:
    """What errors and logs call the broker holds no credentials."""
    assert Target(url, "usage", "usage.recorded", None).broker == broker


def test_importing_the_publisher_loads_no_broker_library() -> None:
    """A service that has not sent anything yet has not paid for the connection's library."""
    program = "import sys, usage_events.publisher; print('aio_pika' in sys.modules or 'aiormq' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
