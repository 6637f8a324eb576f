"""Two writers of a process and the same ids: who waits for whom, and that nobody waits for ever."""

import asyncio
import gc
import weakref
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.postgres.in_flight import InFlight

A, B, C = b"a", b"b", b"c"


def test_shared_is_what_others_write() -> None:
    """Of a batch the ids count that another flight has too; none where there is no other, or it is over."""
    in_flight = InFlight()
    with in_flight.begin({A, B}) as first:
        assert first.shared == set()
        with in_flight.begin({B, C}) as second:
            assert second.shared == {B}
            with in_flight.begin({A, C}) as third:
                assert third.shared == {A, C}
    with in_flight.begin({A, B}) as later:
        assert later.shared == set()


async def test_it_waits_for_those_ahead_and_for_no_others() -> None:
    """A flight is clear when the last one ahead that shares an id is over, whatever began behind it."""
    in_flight = InFlight()
    with in_flight.begin({C}):
        with in_flight.begin({A, B}), in_flight.begin({B}) as behind, in_flight.begin({B}):
            waiting = asyncio.ensure_future(behind.until_clear())
            await asyncio.sleep(0)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 30)


async def test_a_flight_that_fails_is_over() -> None:
    """Those behind a writer that raised, or was cancelled, go on."""
    in_flight = InFlight()
    with ExitStack() as ahead:
        ahead.enter_context(in_flight.begin({A}))
        with in_flight.begin({A}) as behind:
            pass
        with pytest.raises(OSError, match="the database"), ahead.pop_all():
            raise OSError("the database")
    await asyncio.wait_for(behind.until_clear(), 30)


def test_a_flight_that_is_over_keeps_none_that_were_ahead() -> None:
    """Writers that overlap for hours hold the ids of what they are writing, and not of all that they have written."""
    in_flight = InFlight()
    behind = in_flight.begin({A})
    first = weakref.ref(behind.__enter__())
    for _ in range(3):
        ahead, behind = behind, in_flight.begin({A})
        behind.__enter__()
        ahead.__exit__(None, None, None)
    del ahead
    gc.collect()
    assert first() is None
    behind.__exit__(None, None, None)


@given(st.lists(st.tuples(st.frozensets(st.sampled_from([A, B, C])), st.integers(0, 3)), max_size=12))
def test_no_two_waits_form_a_circle(batches: list[tuple[frozenset[bytes], int]]) -> None:
    """However writers come and go, all of them get through, and no id is written by two at once."""

    async def write(in_flight: InFlight, ids: frozenset[bytes], turns: int, writing: list[bytes]) -> None:
        async def part(chosen: set[bytes]) -> None:
            assert chosen.isdisjoint(writing)
            writing.extend(chosen)
            for _ in range(turns):
                await asyncio.sleep(0)
            for id_ in chosen:
                writing.remove(id_)

        with in_flight.begin(set(ids)) as flight:
            await part(set(ids) - flight.shared)
            await flight.until_clear()
            await part(flight.shared)

    async def all_of_them() -> None:
        in_flight, writing = InFlight(), list[bytes]()
        await asyncio.wait_for(asyncio.gather(*(write(in_flight, *batch, writing) for batch in batches)), 30)

    asyncio.run(all_of_them())
