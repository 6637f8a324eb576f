"""Reading what a provider answered: the SDK's objects and plain dicts alike."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any

from usage_events.contract import TOKENS_MAX
from usage_events.errors import ProviderUsageError


def field(holder: object, *names: str) -> Any:
    """The first of `names` that `holder` has, as a key or an attribute; `None` where it has none of them."""
    for name in names:
        value = holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
        if value is not None:
            return value
    return None


def text(holder: object, *names: str) -> str | None:
    """The first of `names` that `holder` has, where it is text with something in it."""
    value = field(holder, *names)
    if isinstance(value, Enum):
        value = value.value
    return value if isinstance(value, str) and value else None


def items(holder: object, *names: str) -> list[Any]:
    """The first of `names` that `holder` has, where it is a list; else nothing."""
    value = field(holder, *names)
    return list(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)) else []


def moment(value: object) -> datetime | None:
    """A time as providers write it (a datetime, seconds since 1970, RFC 3339, an HTTP date), where `value` is one."""
    if isinstance(value, datetime):
        return value
    try:
        if isinstance(value, (int, float)):
            return datetime.fromtimestamp(value, UTC)
        return _from_text(value) if isinstance(value, str) else None
    except (ValueError, OverflowError, OSError):
        return None  # no time: whoever needs one says so


def _from_text(value: str) -> datetime:
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return parsedate_to_datetime(value)


class Counts:
    """The counts in one part of an answer; what is wrong with one is said with its path."""

    def __init__(self, holder: object, path: str) -> None:
        self._holder = holder
        self._path = path

    def get(self, *names: str) -> int | None:
        """The first of `names` that is given; `None` where the provider says nothing.

        Raises:
            ProviderUsageError: it is no count.
        """
        for name in names:
            value = field(self._holder, name)
            if value is not None:
                return checked_count(value, f"{self._path}.{name}")
        return None

    def part(self, *names: str) -> "Counts":
        """The counts in the first of `names` that is given."""
        for name in names:
            value = field(self._holder, name)
            if value is not None:
                return Counts(value, f"{self._path}.{name}")
        return Counts(None, f"{self._path}.{names[0]}")

    def each(self, name: str) -> "list[Counts]":
        """The counts in each of a list."""
        return [Counts(item, f"{self._path}.{name}[{at}]") for at, item in enumerate(items(self._holder, name))]

    def text(self, *names: str) -> str | None:
        """A name beside the counts."""
        return text(self._holder, *names)

    def named(self, **names: str | tuple[str, ...]) -> dict[str, int]:
        """Counts by the key that they get in the metadata; those that are 0 or not given are left out."""
        found = {key: self.get(*((given,) if isinstance(given, str) else given)) for key, given in names.items()}
        return {key: value for key, value in found.items() if value}


def checked_count(value: object, path: str) -> int:
    """A count as it is.

    Raises:
        ProviderUsageError: it is negative, no integer (`7.0` and `True` are none), or larger than an event may hold.
    """
    if type(value) is int and 0 <= value <= TOKENS_MAX:
        return value
    raise ProviderUsageError(
        f"{path} is {value!r}; a count is an integer from 0 to {TOKENS_MAX}."
        " Correct what comes from the provider, or make the UsageEvent yourself."
    )
