"""The clock: the database's, whatever this machine's does; and what was refused for its time is judged by it again."""

import asyncio
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any
from uuid import UUID

import pytest
from makers import array_of, body_of
from rig import Rig, running
from structlog.testing import capture_logs
from usage_events.contract import Reason
from usage_events.ids import uuid7

from worker.clock import Clock, Reading
from worker.prefetch import Prefetch

HOUR_SECONDS = 3600.0
NOW = 1_000_000.0


class Machine:
    """A machine's clock that a test may put forward and back."""

    def __init__(self, seconds: float = NOW) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        """What it shows."""
        return self.seconds


def reading(seconds: float, *, took_seconds: float = 0.0) -> Reading:
    """An answer that comes now."""
    return Reading(seconds, monotonic() - took_seconds)


def test_it_is_this_machines_until_the_database_has_answered() -> None:
    """As it always was."""
    machine = Machine()
    clock = Clock(machine)
    machine.seconds += 5
    assert (clock.now(), clock.ahead_seconds) == (NOW + 5, 0)
    assert clock.utcnow() == datetime.fromtimestamp(NOW + 5, UTC)


@pytest.mark.parametrize("ahead_seconds", [-HOUR_SECONDS, HOUR_SECONDS])
def test_it_follows_the_database(ahead_seconds: float) -> None:
    """Ahead or behind, and carried on by this machine's."""
    machine = Machine()
    clock = Clock(machine)
    clock.set(reading(NOW + ahead_seconds))
    machine.seconds += 10
    assert clock.now() == pytest.approx(NOW + ahead_seconds + 10, abs=1.0)
    machine.seconds += ahead_seconds  # set right
    clock.set(reading(machine.seconds))
    assert clock.now() == pytest.approx(machine.seconds, abs=1.0)


def test_a_slow_answer_moves_it_no_further_than_it_must() -> None:
    """What the database's clock showed up to 10 s ago fits the clock as it is, and what it showed 30 s ago does not."""
    clock = Clock(Machine())
    clock.set(reading(NOW - 6, took_seconds=10.0))
    assert (clock.ahead_seconds, clock.was_set_since(0.0)) == (0, False)
    clock.set(reading(NOW - 30, took_seconds=10.0))
    assert clock.ahead_seconds == pytest.approx(-20, abs=1.0)
    assert clock.was_set_since(0.0)
    assert not clock.was_set_since(monotonic() + 1)


def test_an_operator_is_told_once_a_change() -> None:
    """A warning where they differ by more than 2 s, and by how much; a line when they agree again."""
    clock = Clock(Machine())
    with capture_logs() as logs:
        for ahead_seconds in (1.0, 100.0, 100.5, 200.0, 0.0, 0.5):
            clock.set(reading(NOW + ahead_seconds))
    assert [(line["log_level"], line.get("database_ahead_seconds")) for line in logs] == [
        ("warning", pytest.approx(100, abs=1)),
        ("warning", pytest.approx(200, abs=1)),
        ("info", None),
    ]


# In the pipeline.


@pytest.fixture
def wide_prefetch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a slow start that is over: 64 messages at once."""
    monkeypatch.setattr(Prefetch, "restart", lambda self: setattr(self, "current", 64))


def rig_with(machine: Machine, database: Machine) -> Rig:
    """A pipeline on a machine with this clock, and a database with that."""
    rig = Rig(age_seconds_max=0.01)
    rig.database.clock = database
    rig.pipeline._clock._machine = machine
    return rig


def body_at(seconds: float, **fields: Any) -> bytes:
    """An event that was made then."""
    return body_of(created_at=datetime.fromtimestamp(seconds, UTC).isoformat(), **fields)


@pytest.mark.parametrize("wrong_by", [-HOUR_SECONDS, 2 * HOUR_SECONDS])
async def test_a_worker_whose_clock_is_wrong_at_its_start_refuses_nothing(wrong_by: float) -> None:
    """The database is asked before anything is consumed."""
    rig = rig_with(Machine(NOW + wrong_by), Machine())
    rig.published.add(one := uuid7())
    rig.queue.publish(body_at(NOW, id=str(one)))
    async with running(rig):
        await rig.until(lambda: len(rig.source.settled) == 1)
    assert rig.database.letters == {}
    rig.assert_all_stored()
    age_seconds = rig.metrics.registry.get_sample_value("usage_worker_event_age_seconds_sum")
    assert age_seconds == pytest.approx(0, abs=30), "by the database's clock it is new"


@pytest.mark.parametrize("jump_seconds", [-HOUR_SECONDS, 2 * HOUR_SECONDS])
async def test_a_clock_that_jumps_refuses_nothing(jump_seconds: float) -> None:
    """While it consumes the machine's clock jumps: good events alone and in an array are stored, late ones are not."""
    machine = Machine()
    rig = rig_with(machine, Machine())
    ids = [uuid7() for _ in range(3)]
    good = [body_at(NOW, id=str(one)) for one in ids]
    bad = body_at(NOW - 5 * HOUR_SECONDS)
    async with running(rig):
        await rig.until(lambda: rig.source.is_consuming)
        machine.seconds += jump_seconds
        rig.queue.publish(good[0], array_of([good[1], bad, good[2]]))
        await rig.until(lambda: len(rig.source.settled) == 2)
        assert rig.pipeline.held() == 0
    assert set(rig.database.rows) == {one.bytes for one in ids}
    assert [letter.reason for letter in rig.database.letters.values()] == [Reason.TOO_OLD]
    held = rig.metrics.registry.get_sample_value("usage_worker_held_events")
    assert held == 0, "a refusal that became an event is counted once"


@pytest.mark.usefixtures("wide_prefetch")
async def test_what_waited_for_a_writer_while_the_clock_was_set_is_judged_again_too() -> None:
    """Both batches were decoded by the wrong clock, and the first one's reading has put it right."""
    machine = Machine()
    rig = rig_with(machine, Machine())
    gate = asyncio.Event()
    async with running(rig):
        await rig.until(lambda: rig.source.is_consuming)
        rig.database.gates.append(gate)
        machine.seconds -= HOUR_SECONDS
        ids = [uuid7() for _ in range(40)]
        rig.queue.publish(*(body_at(NOW, id=str(one)) for one in ids))
        await rig.until(lambda: rig.database.waiting == 1)
        gate.set()
        await rig.until(lambda: len(rig.source.settled) == 40)
    assert rig.database.letters == {}
    assert {UUID(bytes=one) for one in rig.database.rows} == set(ids)


async def test_a_late_event_is_refused_though_the_machine_is_late_too() -> None:
    """The contract's limits hold by the database's clock."""
    now = datetime.now(UTC)
    rig = Rig(age_seconds_max=0.01)
    rig.pipeline._clock._machine = (now - timedelta(hours=5)).timestamp
    rig.database.clock = now.timestamp
    rig.queue.publish(body_of(created_at=(now - timedelta(hours=5)).isoformat()))
    async with running(rig):
        await rig.until(lambda: len(rig.source.settled) == 1)
    assert [letter.reason for letter in rig.database.letters.values()] == [Reason.TOO_OLD]


async def test_an_outage_while_the_clock_is_asked_is_an_outage() -> None:
    """The database goes away just then: nothing is refused, and the batch is written when it is back."""
    machine = Machine()
    rig = rig_with(machine, Machine())
    async with running(rig):
        await rig.until(lambda: rig.source.is_consuming)
        machine.seconds -= HOUR_SECONDS
        rig.database.is_down = True
        rig.queue.publish(body_at(NOW))
        await rig.until(lambda: rig.database.failures >= 2)
        assert rig.database.letters == {}
        rig.database.is_down = False
        await rig.until(lambda: len(rig.source.settled) == 1)
    assert (len(rig.database.rows), rig.database.letters) == (1, {})
