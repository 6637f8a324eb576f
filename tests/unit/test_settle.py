"""The ledger: what is acknowledged, in which frames, and what never is."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from worker.settle import PATIENCE_SECONDS, Ack, Ledger


def ledger(*tags: int) -> Ledger:
    """A ledger with these delivered."""
    made = Ledger(generation=1)
    for tag in tags:
        made.delivered([tag])
    return made


class Settling(RuleBasedStateMachine):
    """Deliveries arrive, commit in any order and are acknowledged; a broker on the other side keeps its own books."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(generation=1)
        self.now = 0.0
        self.tag = 0
        self.outstanding: set[int] = set()  # as the broker sees it
        self.committed: set[int] = set()

    @rule(count=st.integers(1, 5), skipped=st.integers(0, 1))
    def deliver(self, count: int, skipped: int) -> None:
        """Tags rise, not always by one."""
        for _ in range(count):
            self.tag += 1 + skipped
            self.ledger.delivered([self.tag])
            self.outstanding.add(self.tag)

    @precondition(lambda self: self.outstanding - self.committed)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        """A batch of any deliveries commits, in any order."""
        pending = sorted(self.outstanding - self.committed)
        tags = data.draw(st.lists(st.sampled_from(pending), unique=True, min_size=1))
        self.committed.update(tags)
        self._send(self.ledger.committed(tags, self.now))

    @rule(seconds=st.sampled_from([0.1, PATIENCE_SECONDS, 3.0]))
    def wait(self, seconds: float) -> None:
        """Time passes; what is overdue goes out one by one, and then no committed delivery is outstanding."""
        self.now += seconds
        overdue_at = self.ledger.overdue_at()
        acks = self.ledger.overdue(self.now)
        assert bool(acks) == (overdue_at is not None and self.now >= overdue_at)
        assert not any(ack.multiple for ack in acks)
        self._send(acks)
        if acks:
            assert not self.outstanding & self.committed

    def _send(self, acks: list[Ack]) -> None:
        for ack in acks:
            assert ack.tag in self.outstanding, "acknowledged twice, or never delivered"
            settled = {tag for tag in self.outstanding if tag == ack.tag or (ack.multiple and tag < ack.tag)}
            assert settled <= self.committed, "acknowledged before its commit"
            assert len(settled) > 1 or not ack.multiple
            self.outstanding -= settled

    @invariant()
    def the_books_agree(self) -> None:
        """Ledger and broker see the same deliveries outstanding; no prefix that has committed is left waiting."""
        assert len(self.ledger) == len(self.outstanding)
        assert self.ledger.last_tag == max(self.outstanding, default=0)
        assert not self.outstanding or min(self.outstanding) not in self.committed
        assert (self.ledger.overdue_at() is not None) == bool(self.outstanding & self.committed)

    def teardown(self) -> None:
        """In the end everything commits, and everything has been acknowledged."""
        pending = self.outstanding - self.committed
        self.committed |= pending
        self._send(self.ledger.committed(pending, self.now))
        self._send(self.ledger.overdue(self.now + PATIENCE_SECONDS))
        assert not self.outstanding


TestSettling = Settling.TestCase


def test_a_whole_prefix_is_one_frame() -> None:
    """A contiguous prefix, in whatever order it commits, is one `multiple`; what it jumps over needs none."""
    held = ledger(1, 2, 3, 7)
    assert held.committed([3, 2], 0.0) == []
    assert held.committed([1], 0.1) == [Ack(3, multiple=True)]
    assert held.committed([7], 0.2) == [Ack(7, multiple=False)]


def test_one_by_one_after_patience() -> None:
    """A batch behind one that is stuck waits for it a moment, then is acknowledged by itself, in order."""
    held = ledger(1, 2, 3)
    assert held.committed([3, 2], 10.0) == []
    assert held.overdue_at() == 10.0 + PATIENCE_SECONDS
    assert held.overdue(10.0 + PATIENCE_SECONDS - 0.01) == []
    assert held.overdue(10.0 + PATIENCE_SECONDS) == [Ack(2, multiple=False), Ack(3, multiple=False)]
    assert (len(held), held.overdue_at()) == (1, None)
    assert held.committed([1], 11.0) == [Ack(1, multiple=False)]


@pytest.mark.parametrize("tags", [[1, 1], [9]])
def test_an_unknown_or_settled_delivery_is_a_bug(tags: list[int]) -> None:
    """A second settlement of one delivery would close the channel: it stops here, with the tag in the message."""
    held = ledger(1, 2)
    with pytest.raises(AssertionError, match=f"delivery {tags[-1]} is settled twice"):
        held.committed([2, *tags], 0.0)


def test_nothing_outstanding() -> None:
    """An empty ledger has nothing to say."""
    held = ledger()
    assert (len(held), held.last_tag, held.overdue_at(), held.overdue(1e9)) == (0, 0, None, [])
