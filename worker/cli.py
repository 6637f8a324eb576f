"""The command line: a group whose commands are imported only when they run, and one place for errors."""

import importlib
import sys
from typing import Any

import click

from worker.errors import UsageWorkerError

COMMANDS = {
    "run": "Consume events and store them until a signal.",
    "migrate": "Create or upgrade the tables.",
    "check": "Check settings, connections, schema, topology, rights and clocks.",
    "publish": "Publish events from files.",
    "demo": "Show it all on this machine.",
}
EXAMPLE = """
\b
Example:
$ export USAGE_AMQP_URL=amqp://usage:secret@127.0.0.1/
$ export USAGE_POSTGRES_DSN=postgresql://usage@127.0.0.1/usage
$ usage-worker migrate && usage-worker check && usage-worker run
"""


class _Lazy(click.Group):
    """Lists commands without importing them: `--help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is the library's
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"worker.commands.{cmd_name.replace('-', '_')}")
        command = module.command
        assert isinstance(command, click.Command)  # noqa: S101 - each module of commands has one
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Lazy, epilog=EXAMPLE, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
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
    return status if isinstance(status, int) else 0
