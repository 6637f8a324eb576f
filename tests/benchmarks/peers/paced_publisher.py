"""Publishes single events at a steady rate: `… paced_publisher AMQP_URL EXCHANGE PEOPLE_FILE RATE SECONDS`.

An event's `created_at` is the moment at which it is due to be published, whatever the publisher was doing just then, so
a publisher that falls behind makes latencies longer and never hides them. Frames are made beforehand but for id and
time: the publisher shares the machine with what it measures. Prints one JSON object.
"""

import asyncio
import json
import random
import struct
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import time
from typing import Any
from uuid import UUID

import aio_pika
import uvloop
from aiormq.abc import ChannelFrame
from pamqp import commands, frame
from pamqp.header import ContentHeader
from usage_events.ids import uuid7

from benchmarks.backlog import plain_properties
from benchmarks.workload import People, make_events, messages_of, totals_of

TICK_SECONDS = 0.002
CONFIRM_SECONDS_MAX = 60.0
TEMPLATES = 500
CHANNEL = 1
_ID_PLACE, _TIME_PLACE = b"0" * 36, b"T" * 32
_frame_head = struct.Struct(">BHI").pack


class Templates:
    """Messages as bytes of frames, all but id and time."""

    def __init__(self, people: People, exchange: str) -> None:
        dice = random.Random(TEMPLATES)
        events = make_events(people, TEMPLATES, dice, datetime.now(UTC), uuid7)
        bodies = messages_of([e | {"id": _ID_PLACE.decode(), "created_at": _TIME_PLACE.decode()} for e in events], 1)
        publish = frame.marshal(commands.Basic.Publish(exchange=exchange, routing_key="usage.recorded"), CHANNEL)
        self._totals = [totals_of([event]) for event in events]
        self._parts = []
        for body in bodies:
            head, rest = body.split(_ID_PLACE)
            middle, tail = rest.split(_TIME_PLACE)
            header = frame.marshal(ContentHeader(0, len(body), plain_properties(0)), CHANNEL)
            start = publish + header + _frame_head(3, CHANNEL, len(body)) + head
            self._parts.append((start, middle, tail + b"\xce"))

    def message(self, number: int, created_at: float) -> Iterator[bytes]:
        """The pieces of one message."""
        start, middle, tail = self._parts[number % TEMPLATES]
        yield start
        yield str(uuid7()).encode()
        yield middle
        yield datetime.fromtimestamp(created_at, UTC).isoformat(timespec="microseconds").encode()
        yield tail

    def tokens(self, messages: int) -> dict[str, int]:
        """Tokens of the first so many messages."""
        rounds, rest = divmod(messages, TEMPLATES)
        return {
            name: sum(getattr(total, name) * (rounds + (place < rest)) for place, total in enumerate(self._totals))
            for name in ("input_tokens", "output_tokens")
        }


class Confirms:
    """What RabbitMQ has confirmed: what is not may be lost, and then no figure is one."""

    def __init__(self, channel: Any) -> None:
        self._up_to = 0
        self._beyond: set[int] = set()
        self._came = asyncio.Event()
        self._error: str | None = None
        channel._on_confirm_frame = self._take  # frames are written past the library: it knows nothing of their tags

    async def until(self, messages: int) -> None:
        """Wait until so many messages are confirmed.

        Raises:
            RuntimeError: RabbitMQ has refused one.
        """
        while self._up_to + len(self._beyond) < messages:
            self._came.clear()
            await asyncio.wait_for(self._came.wait(), CONFIRM_SECONDS_MAX)
            if self._error:
                raise RuntimeError(self._error)

    async def _take(self, answer: commands.Basic.Ack | commands.Basic.Nack) -> None:
        if isinstance(answer, commands.Basic.Nack):
            self._error = f"RabbitMQ has refused message {answer.delivery_tag}"
        elif answer.multiple:
            self._up_to = max(self._up_to, answer.delivery_tag or 0)
            self._beyond = {tag for tag in self._beyond if tag > self._up_to}
        elif (answer.delivery_tag or 0) > self._up_to:
            self._beyond.add(answer.delivery_tag or 0)
        self._came.set()


async def publish(channel: Any, templates: Templates, rate: float, seconds: float) -> dict[str, float]:
    """Publish at the rate for so long; what was sent, and by how much the publisher fell behind at the most."""
    messages = round(rate * seconds)
    confirms = Confirms(channel)
    begun_at = time()
    sent, late_max = 0, 0.0
    while sent < messages:
        now = time()
        due = min(messages, int((now - begun_at) * rate))
        if due > sent:
            late_max = max(late_max, now - begun_at - (sent + 1) / rate)
            pieces: list[bytes] = []
            for number in range(sent, due):
                pieces += templates.message(number, begun_at + (number + 1) / rate)
            drained = asyncio.get_running_loop().create_future()
            await channel.write_queue.put(ChannelFrame(b"".join(pieces), should_close=False, drain_future=drained))
            await drained
            sent = due
        await asyncio.sleep(TICK_SECONDS)
    report = {"begun_at": begun_at, "ended_at": time(), "messages": messages, "late_seconds_max": late_max}
    await confirms.until(messages)
    return report | templates.tokens(messages)


async def main(amqp_url: str, exchange: str, people: People, rate: float, seconds: float) -> None:
    """Publish, and print what was done."""
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        channel = await connection.channel(channel_number=CHANNEL)
        underlay: Any = await channel.get_underlay_channel()
        report = await publish(underlay, Templates(people, exchange), rate, seconds)
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    users, organizations = json.loads(Path(sys.argv[3]).read_text(encoding="utf-8"))
    given = People([UUID(user) for user in users], [UUID(organization) for organization in organizations])
    uvloop.run(main(sys.argv[1], sys.argv[2], given, float(sys.argv[4]), float(sys.argv[5])))
