"""Ids of the chaos suite's producers: some may look like UUIDv7s of months ago."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from uuid import UUID

from chaos.producer import Options, events
from makers import ORGANIZATION, USER

from worker.retention.months import Month

COUNT = 400
OLD = Month.of(datetime.now(UTC)).plus(-30)
PLAIN = Options("", "", "", 1, 0, datetime.now(UTC).isoformat(), [str(USER)], [str(ORGANIZATION)])


def keys(options: Options) -> list[UUID]:
    """The first ids of a producer."""
    return [UUID(line.key) for line, _ in islice(events(options), COUNT)]


def test_a_quarter_of_the_ids_fall_into_a_month() -> None:
    """Where it is asked for, about a quarter lie among the month's, all differ, and the others are as without it."""
    plain = keys(PLAIN)
    timed = keys(replace(PLAIN, ids_from_ms=round(OLD.start.timestamp()) * 1000))
    fallen = [key for key in timed if OLD.first_id <= key < OLD.plus(1).first_id]
    assert COUNT / 8 < len(fallen) < COUNT / 2
    assert len(set(timed)) == COUNT
    assert [key for key in timed if key not in fallen] == [key for key in plain if key.int % 4]
