"""The task behind `record`: takes events from the buffer, packs them, and sees each message to its end."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from usage_events import backoff
from usage_events.books import Books
from usage_events.buffer import Buffer, Lease
from usage_events.complaints import Complaints
from usage_events.courier import Courier
from usage_events.envelope import MESSAGE_BYTES_MAX, MESSAGE_EVENTS_MAX
from usage_events.errors import EventTooLargeError, MessageTooLargeError, RefusedError, UnroutableError
from usage_events.in_flight import Deliveries
from usage_events.messages import Message, events_bytes_max, groups, message_of

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Packing:
    """How events become messages.

    Raises:
        ValueError: a limit that the contract does not allow.
    """

    routing_key: str
    by_organization: bool
    events_max: int
    linger_seconds: float

    def __post_init__(self) -> None:
        if not 1 <= self.events_max <= MESSAGE_EVENTS_MAX:
            raise ValueError(
                f"events_per_message_max is {self.events_max:,}; it must be from 1 to {MESSAGE_EVENTS_MAX:,}"
            )
        if not 0 <= self.linger_seconds < float("inf"):
            raise ValueError(f"linger_seconds is {self.linger_seconds}; it must be 0 or more")

    @property
    def events_bytes_max(self) -> int:
        """How long the events of one message may be together."""
        return events_bytes_max(MESSAGE_BYTES_MAX, self.events_max)

    def parcels(self, lease: Lease, bytes_max: int) -> Iterator["Parcel"]:
        """The messages for these events; the order is kept within each routing key."""
        for routing_key, part in self._by_routing_key(lease):
            start = 0
            for group in groups([entry.text for entry in part.entries], self.events_max, bytes_max):
                yield Parcel(part.part(range(start, start + len(group))), routing_key, message_of(group))
                start += len(group)

    def _by_routing_key(self, lease: Lease) -> Iterator[tuple[str, Lease]]:
        if not self.by_organization:
            yield self.routing_key, lease
            return
        places: dict[str, list[int]] = {}
        for place, entry in enumerate(lease.entries):
            places.setdefault(f"{self.routing_key}.{entry.organization_id}", []).append(place)
        for routing_key, found in places.items():
            yield routing_key, lease.part(found)


@dataclass(frozen=True, slots=True, eq=False)
class Parcel:
    """Leased events in the message that carries them."""

    lease: Lease
    routing_key: str
    message: Message


class Sender:
    """Sends what the buffer holds, until each event is confirmed or given up.

    A refusal that somebody can mend on the broker is reported and tried again, with back-off: by each message for
    itself where it has come back, by one message for all where the exchange or the user is refused.
    """

    def __init__(  # noqa: PLR0913 - the parts that it joins
        self,
        *,
        buffer: Buffer,
        courier: Courier,
        deliveries: Deliveries,
        books: Books,
        packing: Packing,
        complaints: Complaints,
    ) -> None:
        self._buffer = buffer
        self._courier = courier
        self._deliveries = deliveries
        self._books = books
        self._packing = packing
        self._complaints = complaints
        self._on_their_way: set[Parcel] = set()
        self._woken = asyncio.Event()
        self._moved = asyncio.Event()
        self._is_idle = True
        self._hurries = 0  # flushes that wait: nothing lingers meanwhile
        self._is_shut = False  # the exchange or the user is refused
        self._shut_delays = backoff.delays()
        self._turn = asyncio.Lock()

    @property
    def events(self) -> int:
        """Events that are on their way."""
        return sum(len(parcel.lease.keys) for parcel in self._on_their_way)

    def wants_notice(self) -> bool:
        """Whether a new event is worth a call of `notify`; may be asked in any thread."""
        return self._is_idle or bool(self._hurries) or self._is_message_full()

    def notify(self) -> None:
        """The buffer has a new event. Called for each: it must not cost anything."""
        if self._is_idle or self._is_message_full():
            self._woken.set()
        if self._hurries:
            self._moved.set()  # the new event may have taken an older one's place

    async def run(self) -> None:
        """Sends until it is cancelled; what is on its way goes on, and waits again where it is cancelled, too."""
        delays = backoff.delays()
        try:
            while True:
                try:
                    lease = await self._next_lease()
                    await self._begin(lease)
                    delays = backoff.delays()
                except Exception:  # a disk that is full, say: what is recorded must go on when that is over
                    _logger.exception("sending failed; it goes on")
                    await asyncio.sleep(next(delays))
        finally:
            self._moved.set()  # whoever drains sees to it that somebody sends

    async def drain(self, keep_sending: Callable[[], None]) -> None:
        """Returns when all that is recorded by now is settled; nothing lingers meanwhile.

        `keep_sending` is asked again and again: it begins anew where `run` was cancelled, or raises what ends this.
        """
        key = self._buffer.youngest_key
        self._hurries += 1
        self._woken.set()
        try:
            while self._is_open(key):
                keep_sending()
                self._moved.clear()
                await _wait(self._moved, self._buffer.poll_seconds)
        finally:
            self._hurries -= 1

    def give_back(self) -> None:
        """Once everything is cancelled: what was on its way waits in the buffer again."""
        self._give_back(list(self._on_their_way))

    def _is_open(self, key: int) -> bool:
        return self._buffer.is_pending(key) or any(parcel.lease.keys[0] <= key for parcel in self._on_their_way)

    def _is_message_full(self) -> bool:
        return self._buffer.events >= self._packing.events_max or self._buffer.bytes >= self._packing.events_bytes_max

    async def _next_lease(self) -> Lease:
        while True:
            self._woken.clear()
            self._is_idle = True  # before the buffer is looked at: another thread looks at this after it has put in
            if not self._buffer.events:
                await _wait(self._woken, self._buffer.poll_seconds)
            self._is_idle = False
            if not self._hurries and not self._is_message_full():
                self._woken.clear()
                await _wait(self._woken, self._packing.linger_seconds)
            lease = self._buffer.lease(self._packing.events_max, self._packing.events_bytes_max)
            if lease is not None:
                return lease

    async def _begin(self, lease: Lease) -> None:
        parcels = list(self._packing.parcels(lease, self._courier.bytes_max))
        self._on_their_way.update(parcels)
        self._moved.set()
        left = deque(parcels)
        try:
            while left:
                task = await self._deliveries.begin(len(left[0].message.body), partial(self._carry, left[0]))
                task.add_done_callback(partial(self._end, left.popleft()))
        finally:
            self._give_back(left)

    def _end(self, parcel: Parcel, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            self._give_back([parcel])

    def _give_back(self, parcels: Iterable[Parcel]) -> None:
        for parcel in parcels:
            if parcel in self._on_their_way:
                self._on_their_way.remove(parcel)
                self._buffer.give_back(parcel.lease)
        self._moved.set()

    async def _carry(self, parcel: Parcel) -> None:
        """Sees a parcel to its end, also through errors of the program: none of them may lose an event."""
        for delay_seconds in backoff.delays():
            try:
                await self._deliver(parcel)
            except Exception:  # seen in the log; the events' ids make a second copy harmless
                _logger.exception("a message of %d events goes again", parcel.message.events_count)
                await asyncio.sleep(delay_seconds)
            else:
                return

    async def _deliver(self, parcel: Parcel) -> None:
        is_first = True
        for delay_seconds in backoff.delays():
            try:
                await self._send_in_turn(parcel)
            except MessageTooLargeError as error:
                await self._split(parcel, error)
                return
            except RefusedError as error:
                self._note_refusal(parcel, error, is_first=is_first)
                is_first = False
                if isinstance(error, UnroutableError):
                    await asyncio.sleep(delay_seconds)
            else:
                self._settle(parcel)
                self._books.confirmed += parcel.message.events_count
                self._books.confirmed_messages += 1
                return

    async def _send_in_turn(self, parcel: Parcel) -> None:
        if not self._is_shut:
            await self._send(parcel)
            return
        async with self._turn:  # one asks for all whether it has been mended
            if self._is_shut:
                await asyncio.sleep(next(self._shut_delays))
            await self._send(parcel)

    async def _send(self, parcel: Parcel) -> None:
        try:
            await self._courier.deliver(parcel.message, parcel.routing_key, parcel.lease.origins)
        except (UnroutableError, MessageTooLargeError):
            self._open()  # a matter of this message alone
            raise
        except RefusedError:
            self._is_shut = True
            raise
        else:
            self._open()

    def _open(self) -> None:
        if self._is_shut:
            self._is_shut = False
            self._shut_delays = backoff.delays()

    async def _split(self, parcel: Parcel, error: MessageTooLargeError) -> None:
        if parcel.message.events_count == 1:
            size_bytes = len(parcel.message.body)
            self._settle(parcel)
            self._books.given_up += 1
            self._complaints.given_up(
                EventTooLargeError(f"an event of {size_bytes:,} bytes can never be delivered: {error}"),
                parcel.message.events,
            )
            return
        parts = list(self._packing.parcels(parcel.lease, error.bytes_max))
        self._on_their_way.remove(parcel)
        self._on_their_way.update(parts)
        try:
            for part in parts:
                await self._carry(part)
        finally:
            self._give_back(parts)  # where it is cancelled

    def _note_refusal(self, parcel: Parcel, error: RefusedError, *, is_first: bool) -> None:
        if is_first:
            count = parcel.message.events_count
            if isinstance(error, UnroutableError):
                self._books.returned += count
            else:
                self._books.refused += count
        self._complaints.refused(error, parcel.message.events, is_first=is_first)

    def _settle(self, parcel: Parcel) -> None:
        self._buffer.settle(parcel.lease)
        self._on_their_way.discard(parcel)
        self._moved.set()


async def _wait(event: asyncio.Event, timeout_seconds: float | None) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_seconds):
            await event.wait()
