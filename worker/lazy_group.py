"""A group of commands that are imported only when they run, so that `--help` is quick."""

import importlib
import keyword
from collections.abc import Mapping
from typing import Any

import click

HELP_NAMES = ("-h", "--help")


class LazyGroup(click.Group):
    """Knows its commands by name and one line each; each is the `command` of a module of `package`.

    Args:
        package: the package that holds the modules.
        listing: what each command does, by its name.
        default: the command that runs where none is named.
        **attributes: see `click.Group`.
    """

    def __init__(
        self, *, package: str, listing: Mapping[str, str], default: str | None = None, **attributes: Any
    ) -> None:
        super().__init__(**attributes)
        self._package = package
        self._listing = listing
        self._default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command in front where the first argument names none."""
        if self._default is not None and (not args or (args[0].startswith("-") and args[0] not in HELP_NAMES)):
            args = [self._default, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the signature is the library's
        """Their names, in the order of the listing."""
        return list(self._listing)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Import one."""
        if cmd_name not in self._listing:
            return None
        module = importlib.import_module(f"{self._package}.{module_name(cmd_name)}")
        command = module.command
        assert isinstance(command, click.Command)  # noqa: S101 - each module of commands has one
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        """Write the listing."""
        if self._listing:
            with formatter.section("Commands"):
                formatter.write_dl(list(self._listing.items()))


def module_name(command_name: str) -> str:
    """The module of a command: `dead_letters` of `dead-letters`, `try_` of `try`."""
    name = command_name.replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name
