"""What a commit is worth where Postgres has a synchronous standby: it counts once it is on the standby, too.

Its wait for the standby may be cut short: by `pg_cancel_backend`, by the end of its session or of the server, by a
client that gives up. Then everybody sees what it has written, and the standby may lack it: if that one is promoted, it
is gone. For whoever acknowledges events after a commit two things follow:

- A commit that succeeds with the server's warning that its wait was cut short has not succeeded; see `CommitWatch`.
- What is found to be there already may be of such a transaction, so a transaction that has written nothing must wait,
  too. A writer's does: its stages are emptied at the commit, under a lock that the write-ahead log records, and who has
  a record in the log waits for all that stands before it (tests/integration/test_standby.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from worker.errors import SystemUnavailableError

_WAIT = "SyncRepWaitForLSN"  # the server's function that waits: its words are translated, its name is not


class CommitWatch:
    """Hears of commits of one session whose wait for the standby was cut short.

    What is heard is known before the answer to the commit is: both come in this order, and are handed on in it.

    Args:
        connection: the session.
    """

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._is_cut_short = False
        connection.add_log_listener(self._hear)

    def check(self) -> None:
        """After a commit.

        Raises:
            SystemUnavailableError: nobody knows whether the standby has it.
        """
        if self._is_cut_short:
            raise SystemUnavailableError(
                "Postgres was told not to wait for its synchronous standby, which may lack what was written: "
                "it is written again"
            )

    def _hear(self, _connection: object, message: asyncpg.PostgresLogMessage) -> None:
        if message.server_source_function == _WAIT:
            self._is_cut_short = True


@contextmanager
def answered() -> Iterator[None]:
    """Around a commit: says what may be the matter where it is not answered.

    Raises:
        SystemUnavailableError: it is not.
    """
    try:
        yield
    except TimeoutError as error:
        raise SystemUnavailableError(
            "Postgres has not answered a commit: it stands still, or its synchronous standby is away"
        ) from error
