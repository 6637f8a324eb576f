"""The buffer in memory: nothing is lost, nothing comes twice, the order is kept, and the bounds hold."""

from collections import deque
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from usage_events.buffer import Entry, Lease, MemoryBuffer, WhenFull
from usage_events.errors import BufferFullError

ORGANIZATION = UUID(int=1)


def entry(number: int, size_bytes: int = 10) -> Entry:
    """An event that can be told apart."""
    return Entry(str(number).encode().ljust(size_bytes), ORGANIZATION)


def numbers(lease: Lease | None) -> list[int]:
    """The events of a lease."""
    return [] if lease is None else [int(one.text) for one in lease.entries]


def filled(count: int, when_full: WhenFull = "raise", events_max: int = 100, bytes_max: int = 10_000) -> MemoryBuffer:
    """A buffer with numbered events of ten bytes."""
    buffer = MemoryBuffer(events_max=events_max, bytes_max=bytes_max, when_full=when_full)
    for number in range(count):
        buffer.put(entry(number))
    return buffer


def test_a_signal_in_the_middle_leaves_the_order_whole() -> None:
    """A time limit that strikes `put` just when the event is in: the next has a key of its own, and all come out."""

    class Struck(deque[tuple[int, Entry]]):
        def append(self, item: tuple[int, Entry]) -> None:
            super().append(item)
            if item[1] == entry(0):
                raise InterruptedError

    buffer = MemoryBuffer(events_max=100, bytes_max=10_000)
    buffer._fresh = Struck()
    with pytest.raises(InterruptedError):
        buffer.put(entry(0))
    buffer.put(entry(1))
    assert buffer.bytes == 20
    lease = buffer.lease(10, 1000)
    assert lease is not None
    buffer.give_back(lease)
    assert numbers(buffer.lease(10, 1000)) == [0, 1]


@pytest.mark.parametrize(("events_max", "bytes_max"), [(3, 10_000), (100, 39)])
def test_a_full_buffer_refuses(events_max: int, bytes_max: int) -> None:
    """The event past either limit is refused with counts, limits and what to do; what is in stays in."""
    buffer = filled(3, events_max=events_max, bytes_max=bytes_max)
    with pytest.raises(BufferFullError) as raised:
        buffer.put(entry(3))
    assert str(raised.value) == (
        f"the buffer is full: 3 events of 30 bytes wait, the limits are buffer_events_max={events_max:,} and"
        f" buffer_bytes_max={bytes_max:,}; is RabbitMQ away? Record it again later, or choose"
        " when_full='drop_oldest' or 'spool'"
    )
    assert numbers(buffer.lease(100, 1_000)) == [0, 1, 2]


@pytest.mark.parametrize(("events_max", "bytes_max"), [(3, 10_000), (100, 39)])
def test_a_full_buffer_drops_the_oldest(events_max: int, bytes_max: int) -> None:
    """The event past either limit takes the oldest one's place, and how many were given up is told."""
    dropped: list[int] = []
    buffer = MemoryBuffer(
        events_max=events_max, bytes_max=bytes_max, when_full="drop_oldest", on_dropped=dropped.append
    )
    for number in range(5):
        buffer.put(entry(number))
    assert (dropped, buffer.events, buffer.bytes) == ([1, 1], 3, 30)
    assert numbers(buffer.lease(100, 1_000)) == [2, 3, 4]


def test_an_event_longer_than_all_the_room_is_kept_alone() -> None:
    """It is no reason to refuse for ever; the next one has to wait until it has gone."""
    buffer = MemoryBuffer(events_max=10, bytes_max=20)
    buffer.put(entry(0, size_bytes=50))
    with pytest.raises(BufferFullError):
        buffer.put(entry(1))
    assert numbers(buffer.lease(10, 20)) == [0]
    buffer.put(entry(1))


def test_a_lease_is_bounded() -> None:
    """By number and by bytes; a first event past the bytes is leased alone."""
    buffer = filled(10)
    assert numbers(buffer.lease(3, 1_000)) == [0, 1, 2]
    assert numbers(buffer.lease(100, 29)) == [3, 4]
    assert numbers(buffer.lease(100, 5)) == [5]
    assert numbers(buffer.lease(100, 1_000)) == [6, 7, 8, 9]
    assert buffer.lease(100, 1_000) is None


def test_what_comes_back_is_oldest_again() -> None:
    """Leases given back in any order, whole or in part, are leased again in the order of recording."""
    buffer = filled(8)
    first, second = buffer.lease(3, 1_000), buffer.lease(3, 1_000)
    assert first is not None
    assert second is not None
    buffer.give_back(second)
    buffer.settle(first.part([1]))
    buffer.give_back(first.part([0, 2]))
    assert numbers(buffer.lease(100, 1_000)) == [0, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(("when_full", "kept"), [("raise", [0, 1, 2, 3, 4, 5]), ("drop_oldest", [4, 5, 6])])
def test_what_comes_back_past_the_limit(when_full: WhenFull, kept: list[int]) -> None:
    """All of it is kept; the next event is refused, or takes the place of as many as are too many."""
    buffer = filled(3, when_full=when_full, events_max=3)
    lease = buffer.lease(3, 1_000)
    assert lease is not None
    for number in range(3, 6):
        buffer.put(entry(number))
    buffer.give_back(lease)
    assert buffer.events == 6
    if when_full == "raise":
        with pytest.raises(BufferFullError):
            buffer.put(entry(6))
    else:
        buffer.put(entry(6))
    assert numbers(buffer.lease(100, 1_000)) == kept


@pytest.mark.parametrize(("events_max", "bytes_max"), [(0, 1), (1, 0)])
def test_a_buffer_without_room_is_refused(events_max: int, bytes_max: int) -> None:
    """A buffer that keeps nothing would refuse or drop everything."""
    with pytest.raises(ValueError, match=r"^buffer_(events|bytes)_max is 0; the least is 1$"):
        MemoryBuffer(events_max=events_max, bytes_max=bytes_max)


class BufferMachine(RuleBasedStateMachine):
    """Any order of recording, leasing, settling and giving back, beside a model that is a sorted list."""

    when_full: WhenFull = "raise"
    EVENTS_MAX = 6
    BYTES_MAX = 60

    def __init__(self) -> None:
        super().__init__()
        self.dropped = 0
        self.buffer = MemoryBuffer(
            events_max=self.EVENTS_MAX, bytes_max=self.BYTES_MAX, when_full=self.when_full, on_dropped=self.note
        )
        self.waiting: list[tuple[int, int]] = []  # number and length
        self.leases: list[Lease] = []
        self.recorded = 0
        self.settled: list[int] = []

    def note(self, count: int) -> None:
        """Some were given up: the oldest."""
        self.dropped += count

    def trim(self) -> None:
        """What `drop_oldest` does, in the model."""
        while len(self.waiting) > 1 and (
            len(self.waiting) > self.EVENTS_MAX or sum(size for _, size in self.waiting) > self.BYTES_MAX
        ):
            self.waiting.pop(0)

    @rule(size_bytes=st.integers(1, 80))
    def put(self, size_bytes: int) -> None:
        """A new event is taken exactly where the model has room."""
        one = entry(self.recorded, max(size_bytes, len(str(self.recorded))))
        after = [*self.waiting, (self.recorded, len(one.text))]
        fits = len(after) == 1 or (len(after) <= self.EVENTS_MAX and sum(size for _, size in after) <= self.BYTES_MAX)
        if self.when_full == "raise" and not fits:
            with pytest.raises(BufferFullError):
                self.buffer.put(one)
            return
        self.buffer.put(one)
        self.recorded += 1
        self.waiting = after
        if self.when_full == "drop_oldest":
            self.trim()
            assert self.buffer.events <= self.EVENTS_MAX
            assert self.buffer.bytes <= self.BYTES_MAX or self.buffer.events == 1

    @rule(events_max=st.integers(1, 5), bytes_max=st.integers(1, 60))
    def lease(self, events_max: int, bytes_max: int) -> None:
        """The oldest are leased, as many as fit."""
        expected: list[int] = []
        left = bytes_max
        while self.waiting and len(expected) < events_max:
            left -= self.waiting[0][1]
            if expected and left < 0:
                break
            expected.append(self.waiting.pop(0)[0])
        lease = self.buffer.lease(events_max, bytes_max)
        assert numbers(lease) == expected
        if lease is not None:
            self.leases.append(lease)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """A part of a lease is confirmed, and the rest comes back."""
        lease = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        confirmed = data.draw(st.lists(st.booleans(), min_size=len(lease.keys), max_size=len(lease.keys)))
        gone = lease.part([place for place, is_gone in enumerate(confirmed) if is_gone])
        back = lease.part([place for place, is_gone in enumerate(confirmed) if not is_gone])
        self.buffer.settle(gone)
        self.settled += numbers(gone)
        self.buffer.give_back(back)
        self.waiting = sorted(self.waiting + [(int(one.text), len(one.text)) for one in back.entries])

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        """Every recorded event waits, is on its way, is settled once, or was dropped."""
        assert self.buffer.events == len(self.waiting)
        assert self.buffer.bytes == sum(size for _, size in self.waiting)
        assert self.buffer.is_pending(self.buffer.youngest_key) == bool(self.waiting)
        if self.waiting:  # keys are the numbers here
            assert self.buffer.is_pending(self.waiting[0][0])
            assert not self.buffer.is_pending(self.waiting[0][0] - 1)
        leased = sum(len(lease.keys) for lease in self.leases)
        assert self.recorded == len(self.waiting) + leased + len(set(self.settled)) + self.dropped
        assert len(set(self.settled)) == len(self.settled)


class DroppingMachine(BufferMachine):
    """The same with `drop_oldest`."""

    when_full: WhenFull = "drop_oldest"


TestBufferMachine = BufferMachine.TestCase
TestDroppingMachine = DroppingMachine.TestCase
