"""What the reading commands have in common: whether metadata is hidden, tables, moments."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from worker.dead_letters.redaction import redact_errors
from worker.errors import UsageWorkerError

if TYPE_CHECKING:
    from rich.table import Table

    from worker.settings import Settings

PIPE_CHARACTERS = 200  # the width of a table that is read by no terminal


def is_redacted(redact: bool | None, settings: "Settings") -> bool:  # noqa: FBT001 - what the option said, if anything
    """Whether metadata is hidden: the option, else the setting."""
    return settings.redact if redact is None else redact


def moment(value: datetime) -> str:
    """A moment to the second, UTC."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def first_error(errors: Sequence[dict[str, Any]]) -> str:
    """A letter's first error in a line, and how many more there are."""
    if not errors:
        return ""
    text = ": ".join(str(part) for part in (errors[0].get("field"), errors[0].get("message")) if part)
    return f"{text} (and {len(errors) - 1} more)" if len(errors) > 1 else text


def redacted(letter: dict[str, Any]) -> dict[str, Any]:
    """A letter without metadata in its errors."""
    return letter | {"errors": redact_errors(letter["errors"])}


def say(text: str) -> None:
    """Print it, also while a session is open, which takes every `OSError` for the database's."""
    try:
        click.echo(text)
    except OSError as error:
        raise UsageWorkerError(f"standard output cannot be written: {error}") from error


def print_json(values: Iterable[dict[str, Any]]) -> None:
    """One object a line."""
    for value in values:
        say(json.dumps(value, default=_json_text))


def make_table(headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str] = ()) -> "Table":
    """A table of plain texts; the columns named by `numbers` are aligned right, the last one is folded."""
    from rich.table import Table
    from rich.text import Text

    from worker.dead_letters.text import one_line

    table = Table(box=None, pad_edge=False)
    for heading in headings:
        is_number = heading in numbers
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    return table


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str] = ()) -> None:
    """Print one; see `make_table`."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_CHARACTERS
    Console(highlight=False, width=width).print(make_table(headings, rows, numbers))


def _json_text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def transition(action: dict[str, Any]) -> str:
    """From which reason or status to which, where an action changed one; or that a replay changed nothing."""
    if action["to_status"] is None and action["to_reason"] is not None and action["to_reason"] == action["from_reason"]:
        return f"still {action['to_reason']}"
    changes = ((action[f"from_{what}"], action[f"to_{what}"]) for what in ("reason", "status"))
    return ", ".join(f"{before or '?'} → {after}" for before, after in changes if after is not None and after != before)
