"""The publisher beside a broker that fails in any order: nothing lost, nothing sent after its confirmation."""

import asyncio
from itertools import repeat

import pytest
from fake_broker import FakeBroker, let_others_run
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from producing import new_event
from usage_events.errors import (
    AccessRefusedError,
    BrokerUnavailableError,
    BufferFullError,
    ExchangeMissingError,
    UnroutableError,
    UsageEventsError,
)
from usage_events.publisher import UsagePublisher

BUFFER_EVENTS_MAX = 8


class SendingMachine(RuleBasedStateMachine):
    """Any order of events, answers, losses and refusals."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("usage_events.backoff.delays", lambda: repeat(0.0))
        self.broker = FakeBroker()
        self.patch.setattr("usage_events.courier.Link.open", self.broker.open)
        self.loop = asyncio.new_event_loop()
        self.recorded = 0
        self.flushes: list[tuple[int, asyncio.Task[None]]] = []
        self.heard: list[type[UsageEventsError]] = []

    @initialize(
        when_full=st.sampled_from(["raise", "drop_oldest"]),
        in_flight_max=st.integers(1, 3),
        events_per_message_max=st.integers(1, 4),
        linger_seconds=st.sampled_from([0.0, 3600.0]),
    )
    def start(self, **arguments: object) -> None:
        """A publisher with small bounds."""
        self.keeps_order = arguments["in_flight_max"] == 1
        self.publisher = UsagePublisher(
            "amqp://rabbit/",
            buffer_events_max=BUFFER_EVENTS_MAX,
            on_error=lambda error, _: self.heard.append(type(error)),
            **arguments,  # type: ignore[arg-type] # each strategy makes what its argument takes
        )
        self.run(self.publisher.start())

    def run(self, coroutine: object) -> None:
        """One step of everything."""
        self.loop.run_until_complete(coroutine)  # type: ignore[arg-type] # a coroutine
        self.loop.run_until_complete(let_others_run())

    @rule(count=st.integers(1, 5))
    def record(self, count: int) -> None:
        """New events; a full buffer refuses them or drops older ones."""
        for _ in range(count):
            try:
                self.publisher.record(new_event(input_tokens=self.recorded))
            except BufferFullError:
                assert self.publisher._buffer.events >= BUFFER_EVENTS_MAX
                break
            self.recorded += 1
        self.run(let_others_run())

    @precondition(lambda self: self.broker.waiting)
    @rule(data=st.data(), held=st.booleans())
    def answer(self, data: st.DataObject, *, held: bool) -> None:
        """A message is confirmed, or it comes back because nothing is bound."""
        published = data.draw(st.sampled_from(self.broker.waiting))
        if held:
            self.broker.confirm(published)
        else:
            self.broker.refuse(published, UnroutableError("unbound"))
        self.run(let_others_run())

    @rule(data=st.data(), error=st.sampled_from([BrokerUnavailableError, ExchangeMissingError, AccessRefusedError]))
    def lose_link(self, data: st.DataObject, error: type[UsageEventsError]) -> None:
        """The link ends; some of what was on its way is held all the same."""
        for published in list(self.broker.waiting):
            if data.draw(st.booleans()):
                self.broker.hold(published)
        self.broker.lose_link(error("lost"))
        self.run(let_others_run())

    @rule(error=st.sampled_from([None, BrokerUnavailableError("away"), ExchangeMissingError("missing")]))
    def change_open(self, error: UsageEventsError | None) -> None:
        """New links are refused from now on, or opened again."""
        self.broker.open_error = error
        self.run(let_others_run())

    @rule(bytes_max=st.sampled_from([None, 500, 800]))
    def change_limit(self, bytes_max: int | None) -> None:
        """The broker takes only small messages; each event alone is small enough."""
        self.broker.bytes_max = bytes_max

    @rule()
    def flush(self) -> None:
        """Somebody waits for what is recorded by now."""
        self.flushes.append((self.recorded, self.loop.create_task(self.publisher.flush())))
        self.run(let_others_run())

    @invariant()
    def flushed_is_confirmed(self) -> None:
        """A flush that has returned has waited for every event that was not dropped."""
        for recorded, flush in self.flushes:
            if flush.done():
                flush.result()
                if not self.publisher.books.dropped:
                    assert self.broker.confirmed >= set(range(recorded))

    def teardown(self) -> None:
        """When the broker has recovered everything that was not dropped is held, and the books say so."""
        self.broker.recover()
        self.flush()
        self.run(asyncio.gather(*[flush for _, flush in self.flushes]))
        self.flushed_is_confirmed()
        self.run(self.publisher.close())
        self.loop.close()
        self.patch.undo()
        books = self.publisher.books
        assert books.recorded == self.recorded
        assert (books.open, books.buffered, books.given_up) == (0, 0, 0)
        assert books.confirmed == len(self.broker.confirmed)
        assert self.broker.confirmed <= set(self.broker.held)
        assert self.recorded - len(self.broker.confirmed) == books.dropped
        if not books.dropped:
            assert self.broker.confirmed == set(range(self.recorded))
        if self.keeps_order:
            assert self.broker.held == sorted(self.broker.held)


TestSendingMachine = SendingMachine.TestCase
TestSendingMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
