"""The options that commands share: how to answer, whether to ask first, whose name the history gets, how much stays."""

import getpass
import signal
import socket

import click

EXIT_PARTLY = 3
MONTHS_MAX = 1200


def check_text(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The callback of an option that is a text: arguments may be any bytes, and Postgres takes UTF-8."""
    try:
        return None if value is None else value.encode().decode()
    except UnicodeEncodeError as error:
        raise click.BadParameter(f"{value!r} is not UTF-8", ctx, param) from error


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


def default_who() -> str:
    """The operator, as the history names them: user and host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id that has no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


who_option = click.option(
    "--who", callback=check_text, default=default_who, show_default="user@host", help="Your name in the history."
)

older_than_option = click.option(
    "--older-than",
    "months",
    metavar="MONTHS",
    type=click.IntRange(min=1, max=MONTHS_MAX),
    required=True,
    help="Whole months to keep before this one.",
)


def ask(question: str) -> None:
    """Ask on the terminal, in the middle of a command that runs on an event loop.

    Raises:
        click.Abort: the answer is no, or Ctrl-C.
    """
    # The loop's own handler only asks its task to end, which would wait here for a line for ever.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        click.confirm(question, abort=True, err=True)
    finally:
        signal.signal(signal.SIGINT, before)
