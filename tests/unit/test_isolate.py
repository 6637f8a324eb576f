"""Isolation: exactly the bad rows of a batch are found in few tries, and a sick system refuses none."""

import math
from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import event_of
from usage_events.contract import Event, Reason

from worker.errors import RowsRefusedError, SystemUnavailableError
from worker.postgres.isolate import NAMED_LINES_MAX, Isolation

ROWS_AND_BAD = st.integers(1, 200).flatmap(
    lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1), min_size=1))
)


class Server:
    """Refuses what holds a bad row; names the first one's line, where it does so."""

    def __init__(self, bad: Collection[int], *, names_lines: bool) -> None:
        self.bad = bad
        self.names_lines = names_lines
        self.tries = 0

    def refuses(self, rows: list[tuple[int, Event]]) -> RowsRefusedError | None:
        """The error of these rows."""
        lines = [line for line, (ordinal, _) in enumerate(rows, 1) if ordinal in self.bad]
        if not lines:
            return None
        line = lines[0] if self.names_lines else None
        return RowsRefusedError("value out of range", sqlstate="22003", column="tokens_used", line=line)

    async def try_alone(self, rows: list[tuple[int, Event]]) -> RowsRefusedError | None:
        """One try, counted."""
        self.tries += 1
        return self.refuses(rows)


async def isolate(count: int, server: Server) -> Isolation:
    """As the store does it: until what is left is taken."""
    isolation = Isolation([(ordinal, event_of(ordinal)) for ordinal in range(count)], server.try_alone)
    while (error := server.refuses(isolation.sound())) is not None:
        await isolation.find(error)
    return isolation


@pytest.mark.parametrize("names_lines", [True, False])
@given(rows=ROWS_AND_BAD)
async def test_finds_exactly_the_bad_rows(rows: tuple[int, set[int]], *, names_lines: bool) -> None:
    """For any set of bad rows these are refused, all others are left in order; tries grow with the bad ones."""
    count, bad = rows
    server = Server(bad, names_lines=names_lines)
    isolation = await isolate(count, server)
    assert set(isolation.refusals) == bad
    assert [ordinal for ordinal, _ in isolation.sound()] == [row for row in range(count) if row not in bad]
    depth = math.ceil(math.log2(count)) + 1
    assert server.tries <= min(2 * len(bad) * depth, 2 * count) + NAMED_LINES_MAX


async def test_a_named_line_takes_one_try() -> None:
    """Where the server names the line, a bad row costs one try; after a few, the rest is bisected at once."""
    few = Server({7, 900}, names_lines=True)
    await isolate(1000, few)
    assert few.tries == 2
    many = Server(set(range(1000)), names_lines=True)
    await isolate(1000, many)
    assert many.tries <= NAMED_LINES_MAX + 2 * 1000


async def test_the_refusal_says_what_the_server_said() -> None:
    """The letter names the column and the SQLSTATE."""
    isolation = await isolate(3, Server({1}, names_lines=True))
    refusal = isolation.refusals[1]
    assert refusal.reason is Reason.REJECTED_BY_DATABASE
    (error,) = refusal.errors
    assert (error["field"], error["message"]) == ("tokens_used", "value out of range (SQLSTATE 22003)")
    assert isolation.event(1) == event_of(1)


@pytest.mark.parametrize("line", [None, 2, 4])
async def test_no_row_is_refused_where_each_passes_by_itself(line: int | None) -> None:
    """A failure that no part of the batch repeats is the system's: nothing is refused, and the message says why."""
    server = Server((), names_lines=True)
    isolation = Isolation([(ordinal, event_of(ordinal)) for ordinal in range(3)], server.try_alone)
    error = RowsRefusedError("out of range", sqlstate="22003", column=None, line=line)
    with pytest.raises(SystemUnavailableError, match=r"refused a batch and .*: out of range \(SQLSTATE 22003\)"):
        await isolation.find(error)
    assert isolation.refusals == {}


@given(rows=ROWS_AND_BAD)
async def test_of_rows_that_fail_together_one_is_left(rows: tuple[int, set[int]]) -> None:
    """Of rows that a host's unique index takes only one of, the first stays and each other is refused."""
    count, rivals = rows

    def refuses(tried: list[tuple[int, Event]]) -> RowsRefusedError | None:
        present = sum(ordinal in rivals for ordinal, _ in tried)
        return RowsRefusedError("unique", sqlstate="23505", column=None, line=None) if present > 1 else None

    async def try_alone(tried: list[tuple[int, Event]]) -> RowsRefusedError | None:
        return refuses(tried)

    isolation = Isolation([(ordinal, event_of(ordinal)) for ordinal in range(count)], try_alone)
    while (error := refuses(isolation.sound())) is not None:
        await isolation.find(error)
    assert set(isolation.refusals) == rivals - {min(rivals)}


async def test_a_line_past_the_batch_is_not_believed() -> None:
    """A line that is not one of the batch's falls back to bisecting."""
    server = Server({0}, names_lines=False)
    isolation = Isolation([(0, event_of()), (1, event_of(1))], server.try_alone)
    await isolation.find(RowsRefusedError("no", sqlstate="22003", column=None, line=3))
    assert set(isolation.refusals) == {0}


async def test_an_outage_while_isolating_refuses_nothing() -> None:
    """When the server goes away between two tries, that comes out, and no row is held responsible for it."""

    async def gone(_: list[tuple[int, Event]]) -> RowsRefusedError | None:
        raise SystemUnavailableError("gone")

    isolation = Isolation([(0, event_of())], gone)
    with pytest.raises(SystemUnavailableError, match="gone"):
        await isolation.find(RowsRefusedError("no", sqlstate="22003", column=None, line=1))
    assert isolation.refusals == {}
