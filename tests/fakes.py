"""A broker and a database in memory, which keep the promises of the seams and fail on demand.

The contract suite runs on these and on the real adapters, so what is shown on them holds there, too.
"""

import asyncio
import json
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic, time
from typing import Any, NamedTuple

from makers import ORGANIZATION, USER
from signals import Signal
from usage_events.contract import Event, FieldError, Reason, Refusal

from worker.batch import Batch
from worker.clock import Reading
from worker.dead_letters.letters import DeadLetter, add_up, letter_of_event, letters_of_rejects
from worker.delivery import Delivery, PlainProperties
from worker.errors import SystemUnavailableError
from worker.settle import Ack
from worker.source import Receiver
from worker.store import Refused, Written

# The broker.


class Message(NamedTuple):
    """A message in a queue."""

    body: bytes
    delivery_count: int = 0


class MemoryQueue:
    """A queue: messages that are ready, in order."""

    def __init__(self, name: str = "usage.events") -> None:
        self.name = name
        self.ready: deque[Message] = deque()
        self.is_down = False
        self.on_ready: Callable[[], None] = lambda: None

    def publish(self, *bodies: bytes) -> None:
        """Put messages at the end."""
        self.ready.extend(Message(body) for body in bodies)
        self.on_ready()

    def put_back(self, messages: Sequence[Message]) -> None:
        """Messages that were handed out come back to their place at the head, with a higher count."""
        self.ready.extendleft(message._replace(delivery_count=message.delivery_count + 1) for message in messages[::-1])
        self.on_ready()


class MemorySource:
    """A consumer on a queue in memory. It is strict: an acknowledgement of an unknown tag fails the test."""

    def __init__(self, queue: MemoryQueue) -> None:
        self.queue = queue.name
        self.signal = Signal()
        self.prefetch = 0
        self.generation = 0
        self.unacknowledged: dict[int, Message] = {}
        self.settled: list[Message] = []
        self.acks: list[Ack] = []
        self.returns = 0  # calls of `give_back` that returned something
        self.opens = 0
        self.failed_opens = 0
        self.received = 0
        self.is_consuming = False
        self.is_open = False
        self._read = asyncio.Event()  # cleared while it is paused
        self._read.set()
        self.before_set_prefetch = asyncio.Event()
        self.before_set_prefetch.set()
        self.in_set_prefetch = False
        self.before_stop_consuming = asyncio.Event()
        self.before_stop_consuming.set()
        self.in_stop_consuming = False
        self._queue = queue
        self._receiver: Receiver | None = None
        self._tag = 0
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        queue.on_ready = self._pump

    @property
    def is_paused(self) -> bool:
        """Whether nothing is read."""
        return not self._read.is_set()

    async def open(self, generation: int, prefetch: int, receiver: Receiver) -> None:
        """See `Source.open`."""
        await asyncio.sleep(0)
        if self._queue.is_down:
            self.failed_opens += 1
            self.signal.notify()
            raise SystemUnavailableError("the queue in memory is down")
        self._lost = asyncio.get_running_loop().create_future()
        self._receiver = receiver
        self._tag = 0
        self.generation, self.prefetch = generation, prefetch
        self.opens += 1
        self.is_open = self.is_consuming = True
        self._changed()

    async def lost(self) -> str:
        """See `Source.lost`."""
        return await asyncio.shield(self._lost)

    async def set_prefetch(self, prefetch: int, acks: Sequence[Ack]) -> None:
        """See `Source.set_prefetch`. As on a broker it consumes again, also where nothing was consumed."""
        self._require_open()
        self.is_consuming = False
        self.in_set_prefetch = True
        self.signal.notify()
        try:
            await self._unless_lost(self.before_set_prefetch)
            await self._unless_lost(self._read)
        finally:
            self.in_set_prefetch = False
        await self.acknowledge(acks)
        self._require_open()
        self.prefetch, self.is_consuming = prefetch, True
        self._changed()

    async def acknowledge(self, acks: Sequence[Ack]) -> None:
        """See `Source.acknowledge`."""
        for ack in acks:
            await asyncio.sleep(0)
            self._require_open()
            tags = [tag for tag in self.unacknowledged if tag == ack.tag or (ack.multiple and tag < ack.tag)]
            if ack.tag not in tags:
                raise AssertionError(f"{ack} is of a delivery that is not outstanding")
            self.settled += [self.unacknowledged.pop(tag) for tag in tags]
            self.acks.append(ack)
        self._changed()

    def pause(self) -> None:
        """See `Source.pause`. The broker's answers are not read either."""
        self._read.clear()
        self.signal.notify()

    def resume(self) -> None:
        """See `Source.resume`."""
        self._read.set()
        self._changed()

    async def stop_consuming(self) -> None:
        """See `Source.stop_consuming`."""
        self.in_stop_consuming = True
        self.signal.notify()
        await self._unless_lost(self.before_stop_consuming)
        await self._unless_lost(self._read)
        await asyncio.sleep(0)
        self._require_open()
        self.is_consuming = False
        self.signal.notify()

    async def give_back(self, last_tag: int) -> None:
        """See `Source.give_back`."""
        await asyncio.sleep(0)
        if self.is_open:
            returned = [tag for tag in self.unacknowledged if tag <= last_tag]
            self.returns += bool(returned)
            self._queue.put_back([self.unacknowledged.pop(tag) for tag in returned])
            self.signal.notify()

    async def close(self) -> None:
        """See `Source.close`."""
        self.cut("closed by the worker")
        await asyncio.sleep(0)

    def cut(self, why: str = "cut") -> None:
        """The connection is gone: what was handed out returns to the queue."""
        returned, self.unacknowledged = self.unacknowledged, {}
        self.is_open = self.is_consuming = False
        self._read.set()
        if not self._lost.done():
            self._lost.set_result(why)
        self._queue.put_back(list(returned.values()))
        self.signal.notify()

    def delete_queue(self) -> None:
        """The queue is gone, and the consumer with it; the connection stays."""
        self._queue.ready.clear()
        self.is_consuming = False
        self._lost.set_result("the broker cancelled the consumer")
        self.signal.notify()

    async def _unless_lost(self, answered: asyncio.Event) -> None:
        """Wait for the broker's answer; a channel that is lost gives none, also where another has followed."""
        lost = self._lost
        answer = asyncio.ensure_future(answered.wait())
        either: set[asyncio.Future[Any]] = {answer, lost}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            answer.cancel()
        if not answer.done():
            raise SystemUnavailableError(lost.result())

    def _require_open(self) -> None:
        if not self.is_open:
            raise SystemUnavailableError("the channel in memory is closed")

    def _changed(self) -> None:
        self.signal.notify()
        asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        while self.is_consuming and not self.is_paused and len(self.unacknowledged) < self.prefetch:
            if not self._queue.ready:
                break
            message = self._queue.ready.popleft()
            self._tag += 1
            self.unacknowledged[self._tag] = message
            self.received += 1
            assert self._receiver is not None
            delivery = Delivery(
                self._tag, self.generation, message.body, PlainProperties(), message.delivery_count, queue=self.queue
            )
            self._receiver.receive([delivery])
        self.signal.notify()


# The database.


@dataclass
class MemoryDatabase:
    """The tables in memory."""

    users: set[bytes] = field(default_factory=lambda: {USER.bytes})
    organizations: set[bytes] = field(default_factory=lambda: {ORGANIZATION.bytes})
    rows: dict[bytes, Event] = field(default_factory=dict)
    letters: dict[bytes, DeadLetter] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)  # those that have committed
    signal: Signal = field(default_factory=Signal)
    is_down: bool = False
    failures: int = 0  # calls that failed since it is down
    gates: deque[asyncio.Event] = field(default_factory=deque)  # the next writes wait for one each
    waiting: int = 0  # at a gate
    answers_to_lose: int = 0  # the next writes commit, and their callers do not learn of it
    seen: list[Batch] = field(default_factory=list)  # every batch that a store was given
    clock: Callable[[], float] = time

    def require_up(self) -> None:
        """Fail where it is down."""
        if self.is_down:
            self.failures += 1
            self.signal.notify()
            raise SystemUnavailableError("the database in memory is down")

    def commit(self, batch: Batch) -> Written:
        """Everything of a batch, at once."""
        stored = duplicates = 0
        letters = letters_of_rejects(batch)
        rows = dict(self.rows)
        for origin, event in zip(batch.origins(), batch.accepted(), strict=True):
            reason = self._reason(event, rows)
            if reason is not None:
                refusal = Refusal(reason, [FieldError(field="", message=reason.value, input=None)])
                letters.append(letter_of_event(origin, event, refusal))
            elif event.id in rows:
                duplicates += 1
            else:
                rows[event.id] = event
                stored += 1
        self.rows = rows
        for letter in add_up(letters):
            known = self.letters.get(letter.fingerprint)
            total = letter.occurrences + (known.occurrences if known else 0)
            self.letters[letter.fingerprint] = (known or letter)._replace(occurrences=total)
        self.batches.append(batch)
        self.signal.notify()
        return Written(stored, duplicates, Counter(Refused(letter.reason, letter.app_id or "") for letter in letters))

    def _reason(self, event: Event, rows: dict[bytes, Event]) -> Reason | None:
        if event.user_id not in self.users:
            return Reason.UNKNOWN_USER
        if event.organization_id not in self.organizations:
            return Reason.UNKNOWN_ORGANIZATION
        known = rows.get(event.id)
        return None if known is None or _content(known, event) == _content(event, event) else Reason.ID_CONFLICT


def _content(event: Event, incoming: Event) -> tuple[Any, ...]:
    """What must be equal in two events with one id; the cost only where the incoming event names it."""
    metadata = None if event.metadata_json is None else json.loads(event.metadata_json)
    cost = event.cost_micro_usd if incoming.cost_given else None
    return (
        *event._replace(metadata_json=None, cost_micro_usd=None, cost_given=False),
        json.dumps(metadata, sort_keys=True),
        cost,
    )


class MemoryStore:
    """Writes to the database in memory."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self.is_closed = False

    async def ping(self) -> None:
        """See `Store.ping`."""
        await asyncio.sleep(0)
        self._database.require_up()

    async def read_clock(self) -> Reading:
        """See `Store.read_clock`."""
        asked_at = monotonic()
        await asyncio.sleep(0)
        self._database.require_up()
        return Reading(self._database.clock(), asked_at)

    async def write(self, batch: Batch) -> Written:
        """See `Store.write`."""
        database = self._database
        database.seen.append(batch)
        if database.gates:
            gate = database.gates.popleft()
            database.waiting += 1
            database.signal.notify()
            try:
                await gate.wait()
            finally:
                database.waiting -= 1
        await asyncio.sleep(0)
        database.require_up()
        written = database.commit(batch)
        await asyncio.sleep(0)  # committed, but the answer is still on its way
        if database.answers_to_lose:
            database.answers_to_lose -= 1
            raise SystemUnavailableError("the answer of the database in memory was lost")
        return written

    async def close(self) -> None:
        """See `Store.close`."""
        self.is_closed = True
        await asyncio.sleep(0)
