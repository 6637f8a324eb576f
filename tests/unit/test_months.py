"""Months, horizons and the ids that begin them."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from usage_events.contract import MAX_AGE_SECONDS
from usage_events.ids import uuid7

from worker.errors import ConfigurationError
from worker.retention.months import Month, horizon, month_of_id


def test_months_in_turn() -> None:
    """Years begin and end, both ways; a month is of UTC, whatever the moment's own offset."""
    assert Month(2026, 11).plus(2) == Month(2027, 1)
    assert Month(2026, 1).plus(-13) == Month(2024, 12)
    assert str(Month(2026, 3)) == "2026-03"
    assert Month.of(datetime(2026, 12, 31, 23, tzinfo=timezone(timedelta(hours=-2)))) == Month(2027, 1)


def test_an_id_of_the_month_is_not_below_its_first() -> None:
    """Every UUIDv7 of a month lies in its range, to the millisecond; an id made now lies in this month's."""
    start = Month(2026, 12)
    first_ms = round(start.start.timestamp() * 1000)
    least = UUID(int=first_ms << 80 | 7 << 76 | 0b10 << 62)
    last_before = UUID(int=(first_ms - 1) << 80 | 7 << 76 | (1 << 76) - 1)
    assert last_before < start.first_id < least < start.plus(1).first_id
    assert str(start.first_id).endswith("-0000-0000-000000000000")
    this = Month.of(datetime.now(UTC))
    assert this.first_id < uuid7() < this.plus(2).first_id
    assert month_of_id(start.first_id) == start


def test_rows_live_so_many_whole_months() -> None:
    """The horizon is the start of a month; what it removes is as old as was asked for, on any day."""
    for day in (1, 15, 30):
        assert horizon(datetime(2026, 11, day, tzinfo=UTC), 13, MAX_AGE_SECONDS) == Month(2025, 10)


@pytest.mark.parametrize(("months", "max_age_days", "enough"), [(1, 35, 2), (2, 90, 4), (1, 27.5, 2)])
def test_a_horizon_that_forgets_too_early(months: int, max_age_days: float, enough: int) -> None:
    """It is refused, the same on every day of the year, and says how many would do; those are taken."""
    now = datetime(2026, 3, 31, tzinfo=UTC)
    with pytest.raises(ConfigurationError, match=f"say {enough} or more"):
        horizon(now, months, round(max_age_days * 86_400))
    assert horizon(now, enough, round(max_age_days * 86_400)) == Month(2026, 3).plus(-enough)
    assert horizon(now, 1, 27 * 86_400) == Month(2026, 2)
