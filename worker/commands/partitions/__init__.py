"""`usage-worker partitions`: a group; one file a command, each imported only when it runs."""

import click

from worker.lazy_group import LazyGroup

COMMANDS: dict[str, str] = {
    "list": "Which partitions there are (the default).",
    "enable": "Divide the table, while workers store events.",
    "ensure": "Make the partitions of months to come.",
    "drop": "Drop months that are older than they have to be kept.",
}
EXAMPLE = """
\b
Example:
$ usage-worker partitions enable
$ usage-worker partitions ensure --ahead 3
$ usage-worker partitions drop --older-than 24 --dry-run
"""


@click.group("partitions", cls=LazyGroup, package=__name__, listing=COMMANDS, default="list", epilog=EXAMPLE)
def command() -> None:
    """Divide ai_usage_logs by the months of its UUIDv7s, so that old months are dropped and not deleted.

    Run it as the table's owner. Without a command it is list. docs/data-life.md says when it pays.
    """
