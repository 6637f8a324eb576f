"""A producer: publishes a seeded sequence of events until it is told to stop, and keeps a ledger of confirmations.

    python -m chaos.producer '{"amqp_url": …, "exchange": …, "ledger": …, "seed": 1, "rate": 500, …}'

Two with one seed publish the same events, in messages of different sizes. SIGTERM ends it once all is confirmed. It is
not the project's own publisher: it may send anything.
"""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from time import monotonic
from uuid import UUID

import aio_pika
import aiormq
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange
from usage_events.contract import Reason

from chaos.billed import short_digest
from chaos.drawn import BAD, draw, due_reason
from chaos.ledger import ENDPOINT, Kind, LedgerFile, Line, unreadable

PAUSE, RESUME = signal.SIGUSR1, signal.SIGUSR2
IN_FLIGHT_MAX = 200
CALL_SECONDS_MAX = 10.0
RETRY_SECONDS = 0.2
_TIME_PLACE = 80  # bits behind the time of a UUIDv7
_FOUR_WEEKS_MS = 28 * 86_400_000
_LOST = (aiormq.exceptions.AMQPError, aio_pika.exceptions.AMQPError, OSError, RuntimeError, TimeoutError)


@dataclass(slots=True, frozen=True)
class Options:
    """What a producer is told. `rate` is in events a second; shares are of events; sizes in events a message."""

    amqp_url: str
    exchange: str
    ledger: str
    seed: int
    rate: int
    created_at: str
    user_ids: Sequence[str]
    organization_ids: Sequence[str]
    number: int = 0  # among the producers of a seed
    sizes: Sequence[int] = (1, 1, 1, 10, 50)
    bad_share: float = 0.02
    unreadable_share: float = 0.0
    padding_bytes: int = 0  # of each event's metadata
    ids_from_ms: int = 0  # since 1970; a quarter of the ids begin with a time in the four weeks from then on; 0: none
    is_in_future: bool = False  # each event is, and has to be refused

    def command(self) -> list[str]:
        """How it is run."""
        return [sys.executable, "-m", "chaos.producer", json.dumps(asdict(self))]


@dataclass(slots=True)
class Message:
    """A body, and what the ledger says of it."""

    body: bytes
    lines: list[Line]


def events(options: Options) -> Iterator[tuple[Line, str]]:
    """The sequence of this seed, as JSON."""
    chance = random.Random(options.seed)
    created_at = datetime.fromisoformat(options.created_at)
    while True:
        created_at += timedelta(microseconds=1)
        key = str(UUID(int=_timed(chance.getrandbits(128), options.ids_from_ms)))
        fields, billed = draw(chance, options.user_ids, options.organization_ids, created_at)
        event = fields | {"id": key, "endpoint": f"{ENDPOINT}{key}"}
        if options.padding_bytes:
            metadata, padding = billed.metadata or {}, "x" * options.padding_bytes
            event["request_metadata"] = metadata | {"padding": padding}
            billed = billed._replace(metadata=metadata, padding=sha256(padding.encode()).hexdigest())
        is_bad, bad = chance.random() < options.bad_share, chance.choice(BAD)  # both drawn whatever the share
        reason = due_reason(bad if is_bad else None, is_in_future=options.is_in_future)
        text = json.dumps(event | bad.change if is_bad else event, ensure_ascii=False)
        if reason:
            yield Line(key, Kind.BAD, short_digest(text.encode()), reason), text
        else:
            yield Line(key, Kind.GOOD, billed.digest()), text


def _timed(bits: int, from_ms: int) -> int:
    """The bits of an id; of one in four the first 48 are made a time."""
    if not from_ms or bits % 4:
        return bits
    return from_ms + (bits >> _TIME_PLACE) % _FOUR_WEEKS_MS << _TIME_PLACE | bits & (1 << _TIME_PLACE) - 1


def messages(options: Options) -> Iterator[Message]:
    """The same in messages."""
    chance = random.Random(f"{options.seed} {options.number}")  # sizes are this producer's own
    source = events(options)
    while True:
        if chance.random() < options.unreadable_share:
            body = b'{"id": %d, ' % chance.getrandbits(64)
            yield Message(body, [unreadable(body, Reason.BAD_JSON)])
            continue
        lines, texts = zip(*(next(source) for _ in range(chance.choice(options.sizes))), strict=True)
        yield Message((texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]").encode(), list(lines))


def single(user_id: str, organization_id: str) -> Message:
    """One good event alone, like no other."""
    seed = random.SystemRandom().getrandbits(64)
    now = datetime.now(UTC).isoformat()
    return next(messages(Options("", "", "", seed, 0, now, [user_id], [organization_id], sizes=(1,), bad_share=0.0)))


class Producer:
    """Publishes, each message until it is confirmed."""

    def __init__(self, options: Options, ledger: LedgerFile) -> None:
        self._options = options
        self._ledger = ledger
        self._stop = asyncio.Event()
        self._going = asyncio.Event()
        self._going.set()
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._connecting = asyncio.Lock()
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._exchange: AbstractExchange | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Begin no further message."""
        self._stop.set()
        self._going.set()

    def pause(self) -> None:
        """Begin none until `resume`."""
        self._going.clear()

    def resume(self) -> None:
        """Go on, with what should have been published meanwhile at once."""
        self._going.set()

    async def run(self) -> None:
        """Publish at the rate until `stop`; return when all is confirmed."""
        begun_at = monotonic()
        published = 0
        async with asyncio.TaskGroup() as group:
            for message in messages(self._options):
                await self._slots.acquire()
                await self._pause(begun_at + published / self._options.rate - monotonic())
                await self._going.wait()
                if self._stop.is_set():
                    break
                published += len(message.lines)
                self._ledger.sent(message.lines)
                group.create_task(self._publish(message)).add_done_callback(lambda _: self._slots.release())

    async def close(self) -> None:
        """Say goodbye to the broker."""
        if self._connection is not None:
            await _close(self._connection)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._stop.wait()

    async def _publish(self, message: Message) -> None:
        outgoing = aio_pika.Message(
            message.body, content_type="application/json", delivery_mode=aio_pika.DeliveryMode.PERSISTENT
        )
        while True:
            exchange: AbstractExchange | None = None
            try:
                async with asyncio.timeout(2 * CALL_SECONDS_MAX):
                    exchange = await self._open()
                    await exchange.publish(outgoing, "usage.recorded", mandatory=True)
            except _LOST:
                self._abandon(exchange)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._ledger.confirmed(message.lines)
                return

    async def _open(self) -> AbstractExchange:
        async with self._connecting:
            if self._exchange is None or self._channel is None or self._channel.is_closed:
                self._abandon(self._exchange)
                self._connection = await aio_pika.connect(self._options.amqp_url, timeout=CALL_SECONDS_MAX)
                self._channel = await self._connection.channel(on_return_raises=True)
                self._exchange = await self._channel.get_exchange(self._options.exchange, ensure=False)
            return self._exchange

    def _abandon(self, exchange: AbstractExchange | None) -> None:
        """Leave the connection of a message that was not confirmed; the others on it are sent again, too."""
        if exchange is not self._exchange:
            return  # another message has left it already
        connection, self._connection, self._exchange = self._connection, None, None
        if connection is not None:
            leaving = asyncio.ensure_future(_close(connection))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)


async def _close(connection: AbstractConnection) -> None:
    with suppress(*_LOST):
        async with asyncio.timeout(1):
            await connection.close()


def _end_with_starter() -> None:
    """Nobody writes to the standard input: that it can be read means that whoever started this is gone."""
    if not os.read(sys.stdin.fileno(), 1):
        os._exit(1)


async def _main() -> None:
    options = Options(**json.loads(sys.argv[1]))
    with LedgerFile(Path(options.ledger)) as ledger:
        producer = Producer(options, ledger)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, producer.stop)
        loop.add_signal_handler(PAUSE, producer.pause)
        loop.add_signal_handler(RESUME, producer.resume)
        loop.add_reader(sys.stdin.fileno(), _end_with_starter)
        await producer.run()
        await producer.close()


if __name__ == "__main__":
    asyncio.run(_main())
