"""Months of the calendar in UTC, and the horizon before which rows are no longer kept. Pure."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self
from uuid import UUID

from worker.errors import ConfigurationError

MONTHS_OF_A_YEAR = 12
MONTHS_MAX = 1200
GRACE = timedelta(days=1)  # beyond the age at which events are still taken: their ids must be known
_CYCLE_MONTHS = 48  # of leap years: the shortest months in turn are among them
_TIME_BITS_FREE = 80  # a UUIDv7 begins with 48 bits of milliseconds since 1970


class Month(NamedTuple):
    """A month of the calendar; they sort by time."""

    year: int
    month: int

    @classmethod
    def of(cls, moment: datetime) -> Self:
        """The month that a moment is in."""
        return cls(moment.astimezone(UTC).year, moment.astimezone(UTC).month)

    def plus(self, months: int) -> "Month":
        """So many months later."""
        year, index = divmod(self.year * MONTHS_OF_A_YEAR + self.month - 1 + months, MONTHS_OF_A_YEAR)
        return Month(year, index + 1)

    @property
    def start(self) -> datetime:
        """Its first instant."""
        return datetime(self.year, self.month, 1, tzinfo=UTC)

    @property
    def first_id(self) -> UUID:
        """Not above any UUIDv7 that is made in it or later, and above all that were made before."""
        return UUID(int=round(self.start.timestamp()) * 1000 << _TIME_BITS_FREE)

    def __str__(self) -> str:
        """Such as `2026-11`."""
        return f"{self.year:04}-{self.month:02}"


def month_of_id(bound: UUID) -> Month:
    """The month whose `first_id` this is, or into which it falls."""
    return Month.of(datetime.fromtimestamp((bound.int >> _TIME_BITS_FREE) / 1000, UTC))


def horizon(now: datetime, months: int, max_age_seconds: int) -> Month:
    """The first month that is kept: this one and `months` before it stay, so every row lives so many months at least.

    Raises:
        ConfigurationError: rows would go whose events could still be accepted, and would then be stored twice.
    """
    shortest = _days_min(months)
    needed = timedelta(seconds=max_age_seconds) + GRACE
    if timedelta(days=shortest) < needed:
        enough = next(count for count in range(months, MONTHS_MAX) if timedelta(days=_days_min(count)) >= needed)
        raise ConfigurationError(
            f"--older-than {months} keeps rows for {shortest} days at least, and events are taken up to"
            f" {needed.total_seconds() / 86_400:g} days back (USAGE_MAX_AGE={max_age_seconds} and one day): an event"
            f" that comes again would be stored twice: say {enough} or more"
        )
    return Month.of(now).plus(-months)


def _days_min(months: int) -> int:
    """How many days so many whole months have at least."""
    first = Month(2001, 1)
    return min((first.plus(skip + months).start - first.plus(skip).start).days for skip in range(_CYCLE_MONTHS))
