"""`usage-worker dead-letters`: a group; one file a command, each imported only when it runs."""

import click

from worker.lazy_group import LazyGroup

COMMANDS: dict[str, str] = {
    "try": "Would today's code and data take these letters? Nothing is changed.",
    "replay": "Store the events of letters, and settle the letters.",
}
EXAMPLE = """
\b
Example:
$ export USAGE_POSTGRES_DSN=postgresql://usage@127.0.0.1:5432/usage
$ usage-worker dead-letters try --reason unknown_user --since 2h
$ usage-worker dead-letters replay --reason unknown_user --since 2h
"""


@click.group("dead-letters", cls=LazyGroup, package=__name__, listing=COMMANDS, epilog=EXAMPLE)
def command() -> None:
    """Try and replay events that were refused.

    Needs only Postgres.
    """
