"""The project's own errors; adapters translate their library's errors into these, once.

A message says what is wrong, with which value, what the limit is, and what to do next.
"""


class UsageWorkerError(Exception):
    """Anything that this project reports by itself; ends a command with exit status 1."""

    exit_status = 1


class ConfigurationError(UsageWorkerError):
    """A setting or an option has a value that cannot be used; ends a command with exit status 2."""

    exit_status = 2


class SystemUnavailableError(UsageWorkerError):
    """The database or the broker cannot do its work now: hold what is held, back off, try again.

    Never a reason to refuse an event.
    """


class SchemaError(UsageWorkerError):
    """The database does not hold the tables that this version needs."""


class RowsRefusedError(UsageWorkerError):
    """The database refused a batch because of what is in its rows (SQLSTATE class 22, 23 or P0001).

    `line` is the 1-based line of the COPY that failed, where the server named one.
    """

    def __init__(self, message: str, *, sqlstate: str, column: str | None, line: int | None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.column = column
        self.line = line

    @property
    def headline(self) -> str:
        """What the server says without its DETAIL, which holds the row: for logs, where no event's content belongs."""
        return f"{str(self).partition(chr(10))[0]} (SQLSTATE {self.sqlstate})"


class TopologyError(UsageWorkerError):
    """An exchange or queue exists with other properties than this version needs."""
