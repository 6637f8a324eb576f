"""The way of a delivery, explored: whatever fails in whatever order, none is acknowledged early, twice or astray.

The pipeline is the product's own; broker, database and clock are in memory. The last tests break the pipeline by hand
in the ways that the machine is there to notice.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import pytest
import stamina
import stamina.instrumentation
import structlog
from fakes import MemorySource
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from makers import array_of, body_of
from rig import Rig
from usage_events.ids import uuid7

from worker.batch import Batch, Batcher, Entry
from worker.decode import Decoded
from worker.delivery import Delivery
from worker.errors import SystemUnavailableError
from worker.held import Held
from worker.pipeline import Pipeline
from worker.settle import PATIENCE_SECONDS, Ack, Ledger
from worker.source import Receiver
from worker.store import Store

STEPS_OF_OTHERS = 60
STEPS_TO_THE_END_MAX = 2000
HOLD_SECONDS_MAX = 30.0


@pytest.fixture(autouse=True, scope="module")
def _no_backoff() -> Iterator[None]:
    """Tries follow each other at once, and nobody reads the log."""
    stamina.instrumentation.set_on_retry_hooks([])
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with stamina.set_testing(True, attempts=10**9):
        yield
    structlog.reset_defaults()


class Kind(StrEnum):
    """An event of a message."""

    NEW = "new"
    REPEAT = "repeat"  # of one that was published before
    CONFLICT = "conflict"  # the id of one, with other content
    BAD = "bad"


class Sent(NamedTuple):
    """An event that was published: its text, and what it says. Only what is bad has no tokens."""

    text: bytes
    id: UUID
    tokens: int | None


# An event, and which of those before it is repeated. There are more of them than the largest batch takes.
EVENTS = st.lists(st.tuples(st.sampled_from(Kind), st.integers(0, 100)), min_size=1, max_size=6)


class TimelessLoop(asyncio.SelectorEventLoop):
    """A loop whose clock stands still until a test moves it."""

    now = 1000.0

    def time(self) -> float:
        """See the base class; in seconds."""
        return self.now


class WatchedSource(MemorySource):
    """Knows of each delivery by its channel and tag, and remembers whose acknowledgement was wrong."""

    rig: Rig
    wrong: list[str]
    fails_to_open = False

    async def open(self, generation: int, prefetch: int, receiver: Receiver) -> None:
        """See `Source.open`; one that fails may have delivered before it did."""
        await super().open(generation, prefetch, receiver)
        if self.fails_to_open:
            self.fails_to_open = False
            for _ in range(3):
                await asyncio.sleep(0)
            self.cut()
            raise SystemUnavailableError("the channel in memory was lost while it was opened")

    async def acknowledge(self, acks: Sequence[Ack]) -> None:
        """See `Source.acknowledge`: each delivery once, on its own channel, after its commit."""
        for ack in acks:
            await asyncio.sleep(0)
            self._require_open()
            tags = [tag for tag in self.unacknowledged if tag == ack.tag or (ack.multiple and tag < ack.tag)]
            if ack.tag not in tags:
                self.wrong.append(f"{ack} on channel {self.generation} is of no outstanding delivery")
            for tag in tags:
                if (self.generation, tag) not in self._committed():
                    self.wrong.append(f"{ack} on channel {self.generation} came before the commit of {tag}")
                self.settled.append(self.unacknowledged.pop(tag))
            self.acks.append(ack)
        self._changed()

    def cancel_consumer(self) -> None:
        """The broker takes the consumer away; the channel stays, with all that is outstanding on it."""
        self.is_consuming = False
        if not self._lost.done():
            self._lost.set_result("the broker cancelled the consumer")

    def deliver_late(self, body: bytes) -> None:
        """A delivery of the channel before this one was still on its way when that was lost."""
        if self._receiver is not None:
            self._receiver.receive([Delivery(self._tag + 1, self.generation - 1, body)])

    def _committed(self) -> set[tuple[int, int]]:
        return {
            (entry.delivery.generation, entry.delivery.tag)
            for batch in self.rig.database.batches
            for entry in batch.entries
        }


class PipelineMachine(RuleBasedStateMachine):
    """Any order of messages, commits, failures, losses, time and stops."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.loop = TimelessLoop()
        for module in ("pipeline", "held", "outage", "consumption"):
            self.patch.setattr(f"worker.{module}.monotonic", self.loop.time)
        self.patch.setattr("worker.consumption.SHORT_LIFE_PAUSE_SECONDS_MAX", 0.0)
        self.gates: list[asyncio.Event] = []
        self.is_stopped = False
        self.published: dict[bytes, list[Sent]] = {}  # by message
        self.good: list[Sent] = []

    @initialize(
        writers=st.integers(1, 3), events_max=st.integers(1, 4), held_bytes_max=st.sampled_from([800, 2000, 10**6])
    )
    def start(self, **sizes: Any) -> None:
        """A pipeline with small bounds."""
        self.run(self._start(sizes))

    async def _start(self, sizes: dict[str, Any]) -> None:
        self.rig = Rig(age_seconds_max=0.2, hold_seconds_max=HOLD_SECONDS_MAX, source_of=WatchedSource, **sizes)
        assert isinstance(self.rig.source, WatchedSource)
        self.source = self.rig.source
        self.source.rig, self.source.wrong = self.rig, []
        self.running = asyncio.ensure_future(self.rig.pipeline.run())

    def run(self, coroutine: Coroutine[Any, Any, None] | None = None) -> None:
        """One step of everything."""
        if coroutine is not None:
            self.loop.run_until_complete(coroutine)
        self.loop.run_until_complete(_let_others_run())

    # The broker.

    @rule(count=st.integers(1, 12))
    def publish(self, count: int) -> None:
        """Messages arrive in the queue."""
        for _ in range(count):
            sent = self._make(Kind.NEW, 0)
            self.published[sent.text] = [sent]
        bodies = list(self.published)[-count:]
        self.run(self._do(lambda: self.rig.queue.publish(*bodies)))

    @rule(events=EVENTS)
    def publish_together(self, events: list[tuple[Kind, int]]) -> None:
        """A message of several events, which may fill more than a batch, be bad, or have come before."""
        sent = [self._make(kind, place) for kind, place in events]
        body = array_of(one.text for one in sent) + b" " * len(self.published)  # no two messages are the same
        self.published[body] = sent
        self.run(self._do(lambda: self.rig.queue.publish(body)))

    def _make(self, kind: Kind, place: int) -> Sent:
        before = self.good[place % len(self.good)] if self.good else None
        if kind is Kind.REPEAT and before:
            return before
        id_ = before.id if kind is Kind.CONFLICT and before else uuid7()
        if kind is Kind.BAD:
            return Sent(body_of(id=str(id_), input_token=1), id_, None)
        tokens = len(self.good)  # no two have the same content
        self.good.append(Sent(body_of(id=str(id_), input_tokens=tokens, output_tokens=0), id_, tokens))
        return self.good[-1]

    @rule(why=st.sampled_from(["cut", "cancel"]))
    def lose_channel(self, why: str) -> None:
        """The connection is gone, or the consumer alone."""
        if self.source.is_open:
            self.run(self._do(self.source.cut if why == "cut" else self.source.cancel_consumer))

    @precondition(lambda self: self.source.opens > 1)
    @rule()
    def deliver_late(self) -> None:
        """Something of a lost channel arrives all the same."""
        self.run(self._do(lambda: self.source.deliver_late(body_of())))

    @rule(is_down=st.booleans())
    def change_broker(self, *, is_down: bool) -> None:
        """New connections are refused, or opened again."""
        self.rig.queue.is_down = is_down
        self.run()

    @rule()
    def fail_to_open(self) -> None:
        """The next channel is lost when it has just begun to deliver."""
        self.source.fails_to_open = True

    @rule(is_held_up=st.booleans())
    def hold_up_prefetch(self, *, is_held_up: bool) -> None:
        """The broker takes its time to change the prefetch, or answers."""
        (self.source.before_set_prefetch.clear if is_held_up else self.source.before_set_prefetch.set)()
        self.run()

    # The database.

    @rule()
    def hold_up_commit(self) -> None:
        """The next write waits before its commit."""
        self.gates.append(asyncio.Event())
        self.rig.database.gates.append(self.gates[-1])

    @precondition(lambda self: self.gates)
    @rule(data=st.data())
    def let_commit(self, data: st.DataObject) -> None:
        """One that waits commits, in any order."""
        gate = data.draw(st.sampled_from(self.gates))
        self.gates.remove(gate)
        gate.set()
        self.run()

    @rule(is_down=st.booleans())
    def change_database(self, *, is_down: bool) -> None:
        """Every transaction fails, or they commit again."""
        self.rig.database.is_down = is_down
        self.run()

    @rule()
    def lose_answer(self) -> None:
        """The next write commits, and the connection is gone before its answer: it is tried again."""
        self.rig.database.answers_to_lose += 1

    # Time, and the end.

    @rule(seconds=st.sampled_from([0.1, PATIENCE_SECONDS, HOLD_SECONDS_MAX]))
    def wait(self, seconds: float) -> None:
        """Time passes: batches come of age, acknowledgements become overdue, an outage outlasts what may be held."""
        self.loop.now += seconds
        self.run()

    @precondition(lambda self: not self.is_stopped)
    @rule(at_once=st.booleans())
    def stop(self, *, at_once: bool) -> None:
        """It is told to stop; or it is cancelled, as when its time is over."""
        self.is_stopped = True
        if at_once:
            self.running.cancel()
        else:
            self.rig.pipeline.stop()
        self.run()

    @invariant()
    def nothing_is_wrong(self) -> None:
        """No acknowledgement was early, doubled or astray; each message is in one place; only a stop ends it."""
        assert self.source.wrong == []
        if self.running.done() and not self.running.cancelled():
            self.running.result()
            assert self.is_stopped, "it has ended by itself"
        ready, settled = self.rig.queue.ready, self.source.settled
        places = Counter(message.body for message in (*ready, *settled, *self.source.unacknowledged.values()))
        assert set(places.values()) <= {1}, "a message is in two places"
        assert len(places) == len(self.published), "a message is in no place"

    def teardown(self) -> None:
        """When everything answers again it all ends: what a stopped pipeline has not settled is in the queue."""
        try:
            if hasattr(self, "rig"):
                self._recover()
                if not self.is_stopped:
                    self._go_on_until(lambda: len(self.source.settled) == len(self.published), "all is settled")
                    self.stop(at_once=False)
                self._go_on_until(self.running.done, "it has stopped")
                self.nothing_is_wrong()
                self._assert_books()
                assert self.rig.pipeline.held() == 0
                assert not self.source.unacknowledged
        finally:
            self._clean_up()

    def _assert_books(self) -> None:
        """Every event of a message that is settled is a row with its content, or else a letter with its text."""
        letters = {letter.body for letter in self.rig.database.letters.values()}
        for message in self.source.settled:
            for sent in self.published[message.body]:
                row = self.rig.database.rows.get(sent.id.bytes)
                is_stored = row is not None and row.tokens_used == sent.tokens
                assert is_stored != (sent.text in letters), f"{sent} is nowhere, or in both tables"

    def _recover(self) -> None:
        self.rig.queue.is_down = self.rig.database.is_down = False
        self.source.fails_to_open = False
        self.rig.database.gates.clear()
        for gate in self.gates:
            gate.set()
        self.source.before_set_prefetch.set()

    def _go_on_until(self, condition: Any, what: str) -> None:
        for _ in range(STEPS_TO_THE_END_MAX):
            if condition():
                return
            self.loop.now += 0.1
            self.run()
            self.nothing_is_wrong()
        raise AssertionError(f"it does not come about that {what}")

    def _clean_up(self) -> None:
        if hasattr(self, "running"):
            self.running.cancel()
            self.run()
            if self.running.done() and not self.running.cancelled():
                self.running.exception()  # told above
        self.loop.close()
        self.patch.undo()

    async def _do(self, act: Any) -> None:
        act()


async def _let_others_run() -> None:
    for _ in range(STEPS_OF_OTHERS):
        await asyncio.sleep(0)


TestPipelineMachine = PipelineMachine.TestCase
TestPipelineMachine.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


# What the machine is there to notice.

_write_batch = Pipeline._write
_settle = Held.settle
_receive = Pipeline.receive
_try_to_write = Pipeline._try_to_write
_add = Batcher.add


class AcknowledgesBeforeTheCommit(PipelineMachine):
    """The acknowledgement leaves when the transaction begins."""

    def __init__(self) -> None:
        super().__init__()

        async def write(pipeline: Pipeline, store: Store, batch: Batch, generation: int) -> Any:
            await _settle(pipeline._held, batch, generation)
            return await _write_batch(pipeline, store, batch, generation)

        async def settle(*_: object) -> bool:
            return True

        self.patch.setattr(Pipeline, "_write", write)
        self.patch.setattr(Held, "settle", settle)


class KnowsNoGenerations(PipelineMachine):
    """Tags of a lost channel are taken for tags of the one that has followed."""

    def __init__(self) -> None:
        super().__init__()

        async def settle(held: Held, batch: Batch, _: int) -> bool:
            return await _settle(held, batch, held.generation)

        self.patch.setattr(Held, "settle", settle)


class TakesWhatComesLate(PipelineMachine):
    """A delivery of a lost channel is taken for one of the channel that has followed."""

    def __init__(self) -> None:
        super().__init__()

        def receive(pipeline: Pipeline, deliveries: Sequence[Delivery]) -> None:
            for delivery in deliveries:
                delivery.generation = pipeline._held.generation
            _receive(pipeline, deliveries)

        self.patch.setattr(Pipeline, "receive", receive)


class AcknowledgesTwice(PipelineMachine):
    """What has waited for its predecessors is acknowledged with them, and by itself again."""

    def __init__(self) -> None:
        super().__init__()
        committed = Ledger.committed

        def twice(ledger: Ledger, tags: Any, now: float) -> list[Ack]:
            return committed(ledger, tags, now) * 2

        self.patch.setattr(Ledger, "committed", twice)


class ForgetsOverdue(PipelineMachine):
    """What has committed out of order is never acknowledged."""

    def __init__(self) -> None:
        super().__init__()

        def prefix_only(ledger: Ledger, tags: Any, _: float) -> list[Ack]:
            return [Ack(tag, multiple=False) for tag in tags if tag == ledger.first_tag]

        self.patch.setattr(Ledger, "committed", prefix_only)


class GivesUpWhatIsStored(PipelineMachine):
    """A batch whose second try finds all of it stored is taken for somebody else's."""

    def __init__(self) -> None:
        super().__init__()
        tried: list[Batch] = []

        async def try_to_write(pipeline: Pipeline, store: Store, batch: Batch, generation: int) -> Any:
            is_second = batch in tried
            tried.append(batch)
            written = await _try_to_write(pipeline, store, batch, generation)
            return None if is_second and written is not None and not written.stored else written

        self.patch.setattr(Pipeline, "_try_to_write", try_to_write)


class ChangesWhatIsWritten(PipelineMachine):
    """Something of a message is left out of its batch."""

    events_max: int

    def __init__(self) -> None:
        super().__init__()

        def add(batcher: Batcher, entry: Entry, now: float) -> Sequence[Batch]:
            self.events_max = batcher._events_max
            entry.decoded = self.left(entry)
            return _add(batcher, entry, now)

        self.patch.setattr(Batcher, "add", add)

    def left(self, entry: Entry) -> Decoded:
        """What is left of it."""
        raise NotImplementedError


class CutsWhatIsTooLarge(ChangesWhatIsWritten):
    """Of a message that is larger than a batch what fits is written."""

    def left(self, entry: Entry) -> Decoded:
        """See the base class."""
        events, places, rejects = entry.decoded
        return Decoded(events[: self.events_max], places[: self.events_max], rejects)


class ForgetsRejects(ChangesWhatIsWritten):
    """What validation refuses is acknowledged, and no letter says so."""

    def left(self, entry: Entry) -> Decoded:
        """See the base class."""
        return entry.decoded._replace(rejects=[])


class TakesARepeatForTheSame(ChangesWhatIsWritten):
    """An id that has come on this channel is not written again, whatever the event says."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[tuple[int, bytes]] = set()

    def left(self, entry: Entry) -> Decoded:
        """See the base class."""
        events, places, rejects = entry.decoded
        generation = entry.delivery.generation
        new = [place for place, event in enumerate(events) if (generation, event.id) not in self.known]
        self.known |= {(generation, event.id) for event in events}
        return Decoded([events[place] for place in new], [places[place] for place in new], rejects)


@pytest.mark.parametrize(
    "broken",
    [
        AcknowledgesBeforeTheCommit,
        KnowsNoGenerations,
        TakesWhatComesLate,
        AcknowledgesTwice,
        ForgetsOverdue,
        GivesUpWhatIsStored,
        CutsWhatIsTooLarge,
        ForgetsRejects,
        TakesARepeatForTheSame,
    ],
    ids=lambda machine: machine.__name__,
)
def test_the_machine_notices_a_broken_pipeline(broken: type[PipelineMachine]) -> None:
    """Each of the mistakes that it is there for is found within the examples that it is given."""
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(
            broken,
            settings=settings(
                max_examples=1000,
                stateful_step_count=40,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
