"""The command line: a group whose commands are imported only when they run, and one place for errors."""

import errno
import sys
from typing import Any

import click

from worker.errors import UsageWorkerError
from worker.lazy_group import HELP_NAMES, LazyGroup

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
COMMANDS = {
    "run": "Consume events and store them until a signal.",
    "migrate": "Create or upgrade the tables.",
    "check": "Check settings, connections, schema, topology, rights, clocks.",
    "publish": "Publish events from files.",
    "dead-letters": "Find, understand, mend and replay refused events.",
    "find": "Say where events are, or balance the books of a ledger.",
    "retain": "Delete rows that are older than they have to be kept.",
    "partitions": "Divide the table of usage by months, and drop old ones.",
    "demo": "Show it all on this machine.",
}
EXAMPLE = """
\b
Example:
$ export USAGE_AMQP_URL=amqp://usage:secret@127.0.0.1/
$ export USAGE_POSTGRES_DSN=postgresql://usage@127.0.0.1/usage
$ usage-worker migrate && usage-worker check && usage-worker run
"""


@click.group(
    cls=LazyGroup,
    package="worker.commands",
    listing=COMMANDS,
    epilog=EXAMPLE,
    context_settings={"help_option_names": HELP_NAMES, "max_content_width": 110},
)
@click.version_option(package_name="usage-worker", prog_name="usage-worker")
def cli() -> None:
    """Account for AI usage: events in from RabbitMQ, rows out in Postgres, exactly once.

    Settings come from the environment (USAGE_…); `usage-worker run --help` lists them.
    """


def main(arguments: list[str] | None = None, **extra: Any) -> int:
    """Run the command line; the exit status."""
    try:
        status = cli.main(args=arguments, prog_name="usage-worker", standalone_mode=False, **extra)
    except click.exceptions.Abort:
        click.echo("stopped", err=True)
        return 1
    except click.ClickException as error:
        error.show(file=sys.stderr)
        return error.exit_code
    except UsageWorkerError as error:
        click.echo(f"usage-worker: {error}", err=True)
        return error.exit_status
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        click.echo(f"usage-worker: standard output cannot be written: {error}", err=True)
        return 1
    return status if isinstance(status, int) else 0
