"""Isolation: which rows of a batch does the database refuse, when validation let them through?

Rare by design: what validation accepts, Postgres takes. A host's own trigger or constraint may still refuse a row.
"""

from collections.abc import Awaitable, Callable, Sequence

from usage_events.contract import Event, FieldError, Reason, Refusal

from worker.errors import RowsRefusedError, SystemUnavailableError

NAMED_LINES_MAX = 3  # after these the rest is bisected: one try a bad row would be slow for many

Numbered = tuple[int, Event]


class Isolation:
    """The events of a batch, less those that the database has refused one by one.

    Args:
        numbered: ordinal and event of all, or of those of a part.
        try_alone: would the database take these by themselves? The error where it would not.
    """

    def __init__(
        self,
        numbered: Sequence[Numbered],
        try_alone: Callable[[list[Numbered]], Awaitable[RowsRefusedError | None]],
    ) -> None:
        self._numbered = list(numbered)
        self._try_alone = try_alone
        self._by_ordinal: dict[int, Event] | None = None  # most batches never ask
        self._named = 0
        self.refusals: dict[int, Refusal] = {}

    def sound(self) -> list[Numbered]:
        """What nothing is known against."""
        if not self.refusals:
            return self._numbered
        return [pair for pair in self._numbered if pair[0] not in self.refusals]

    def event(self, ordinal: int) -> Event:
        """The event with this ordinal."""
        if self._by_ordinal is None:
            self._by_ordinal = dict(self._numbered)
        return self._by_ordinal[ordinal]

    async def find(self, error: RowsRefusedError) -> None:
        """Find at least one of the rows that made `sound()` fail with `error`.

        Raises:
            SystemUnavailableError: all of them pass together now, so the failure was no row's.
        """
        rows = self.sound()
        found = False
        if error.line is not None and self._named < NAMED_LINES_MAX and error.line <= len(rows):
            self._named += 1
            found = await self._bisect([rows[error.line - 1]])
        if not found and not await self._bisect(rows):
            raise SystemUnavailableError(
                f"Postgres refused a batch and takes the same rows now: {error.headline}"
            ) from error

    async def _bisect(self, rows: list[Numbered]) -> bool:
        """Refuse each row that fails by itself, else one that fails beside others; is there one?"""
        error = await self._try_alone(rows) if rows else None
        if error is None:
            return False
        if len(rows) == 1:
            return self._refuse(rows[0], error)
        middle = len(rows) // 2
        left = await self._bisect(rows[:middle])
        right = await self._bisect(rows[middle:])
        return left or right or await self._refuse_latecomer(rows, error)

    async def _refuse_latecomer(self, rows: list[Numbered], error: RowsRefusedError) -> bool:
        """Refuse the first row that fails beside those before it: a host's unique index lets only one of two in."""
        passing, failing = 0, len(rows)  # so many of the first rows pass, so many fail
        while failing - passing > 1:
            middle = (passing + failing) // 2
            tried = await self._try_alone(rows[:middle])
            if tried is None:
                passing = middle
            else:
                failing, error = middle, tried
        return self._refuse(rows[failing - 1], error)

    def _refuse(self, row: Numbered, error: RowsRefusedError) -> bool:
        self.refusals[row[0]] = _refusal(error)
        return True


def _refusal(error: RowsRefusedError) -> Refusal:
    message = f"{error} (SQLSTATE {error.sqlstate})"
    return Refusal(Reason.REJECTED_BY_DATABASE, [FieldError(field=error.column or "", message=message, input=None)])
