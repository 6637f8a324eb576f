"""A producer of usage events on pika alone: confirms, mandatory, each event kept until RabbitMQ has confirmed it.

    python producer.py < calls.ndjson > confirmed-ids.txt

Reads one call of a model a line, as a JSON object; prints the id of each event that is confirmed. While the broker is
away, or has no queue, it keeps what it has and tries again. What is in memory is lost if this process is killed.
"""

import json
import os
import random
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from uuid import uuid4

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

EVENTS_MAX = 50  # in a message: so many of the largest events stay below the limit of 1 MiB
BACKOFF_SECONDS_MIN, BACKOFF_SECONDS_MAX = 0.1, 10.0


class UsageProducer:
    """Publishes one message after the other; `publish` returns when RabbitMQ has confirmed it."""

    def __init__(self, url: str, exchange: str) -> None:
        self._parameters = pika.URLParameters(url)
        # Answered while we publish. Between messages that are far apart the broker gives the connection up, and the
        # next message opens another.
        self._parameters.heartbeat = 30
        self._parameters.blocked_connection_timeout = 30  # an alarm of the broker: connect again and see
        self._exchange = exchange
        self._channel: BlockingChannel | None = None

    def publish(self, events: list[dict]) -> None:
        """Publish the events as one message, as often as it takes: their ids make the copies count once."""
        body = json.dumps(events, ensure_ascii=False, separators=(",", ":")).encode()
        properties = pika.BasicProperties(
            content_type="application/json", delivery_mode=pika.DeliveryMode.Persistent.value, app_id="pika-example"
        )
        failures = 0
        while True:
            try:
                self._open().basic_publish(self._exchange, "usage.recorded", body, properties, mandatory=True)
            except (AMQPError, OSError) as error:
                failures += 1
                self.close()
                say(f"{len(events)} events kept, trying again: {error!r}")
                longest = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN * 2**failures)
                time.sleep(longest * random.uniform(0.5, 1))  # jitter: a restarted broker is not met by all at once
            else:
                return

    def close(self) -> None:
        """Close the connection, if there is one."""
        channel, self._channel = self._channel, None
        if channel is not None and channel.connection.is_open:
            try:
                channel.connection.close()
            except (AMQPError, OSError) as error:
                say(f"the connection did not close cleanly: {error!r}")

    def _open(self) -> BlockingChannel:
        if self._channel is None:
            self._channel = pika.BlockingConnection(self._parameters).channel()
            self._channel.confirm_delivery()  # basic_publish waits for the confirmation from now on
        return self._channel


def say(text: str) -> None:
    """Say it beside the output."""
    sys.stderr.write(f"usage: {text}\n")


def uuid7() -> str:
    """A UUIDv7: it begins with its time, so rows of one time lie close together in the index."""
    time_ms = time.time_ns() // 1_000_000
    return f"{time_ms >> 16:08x}-{time_ms & 0xFFFF:04x}-7{str(uuid4())[15:]}"


def event_of(call: dict) -> dict:
    """The event of a call. Id and time are made here, once: however often the event is sent, it counts once."""
    return {"id": uuid7(), "created_at": datetime.now(UTC).isoformat()} | call


def events_of(lines: Iterable[str], refused: list[int]) -> Iterator[dict]:
    """The events of calls, one a line; the number of a line that is no call is noted."""
    for number, line in enumerate(lines, start=1):
        try:
            yield event_of(json.loads(line))
        except (ValueError, TypeError) as error:
            say(f"line {number} is left out: {error}")
            refused.append(number)


def main() -> int:
    """Publish the calls on standard input."""
    url = os.environ.get("USAGE_AMQP_URL", "amqp://guest:guest@127.0.0.1/")
    producer = UsageProducer(url, os.environ.get("USAGE_EXCHANGE", "usage"))
    refused: list[int] = []
    events = events_of(sys.stdin, refused)
    while group := list(islice(events, EVENTS_MAX)):
        producer.publish(group)
        sys.stdout.write("".join(f"{event['id']}\n" for event in group))
        sys.stdout.flush()
    producer.close()
    return 3 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
