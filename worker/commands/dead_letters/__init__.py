"""`usage-worker dead-letters`: a group; one file a command, each imported only when it runs."""

import click

from worker.lazy_group import LazyGroup

COMMANDS: dict[str, str] = {
    "summary": "What is refused, by reason, field and producer (the default).",
    "list": "List letters.",
    "show": "Show all about one letter.",
    "history": "What was done to letters, and by whom.",
    "export": "Write letters to a file.",
    "edit": "Change letters in an editor, or many at once; the original stays.",
    "try": "Would today's code and data take these letters? Nothing is changed.",
    "replay": "Store the events of letters, and settle the letters.",
    "discard": "Settle letters without storing their events.",
    "reopen": "Open discarded letters again.",
    "note": "Add a remark to a letter's history.",
    "purge": "Remove letters that were settled long ago.",
    "erase": "Remove a person or an organization from all that is stored.",
}
EXAMPLE = """
\b
Example:
$ export USAGE_POSTGRES_DSN=postgresql://usage@127.0.0.1:5432/usage
$ usage-worker dead-letters --since 1d
$ usage-worker dead-letters list --reason unknown_user --since 2h
$ usage-worker dead-letters try --reason unknown_user --since 2h
$ usage-worker dead-letters replay --reason unknown_user --since 2h
"""


@click.group("dead-letters", cls=LazyGroup, package=__name__, listing=COMMANDS, default="summary", epilog=EXAMPLE)
def command() -> None:
    """Find, understand and replay events that were refused.

    Needs only Postgres. Without a command it is summary, and takes its options.
    """
