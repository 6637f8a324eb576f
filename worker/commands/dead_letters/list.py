"""`usage-worker dead-letters list`: the letters, without their bodies."""

import asyncio
from typing import TYPE_CHECKING, Any

import click

from worker.commands.dead_letters.options import filter_options_with, redact_option
from worker.commands.options import json_option

if TYPE_CHECKING:
    from worker.postgres.dead_letters.table import Filter

EXAMPLE = """
\b
Example:
$ usage-worker dead-letters list --reason invalid --producer billing --since 2h
$ usage-worker dead-letters list --status any --user 0190a1b2-... --limit 500 --json
"""


@click.command("list", epilog=EXAMPLE)
@filter_options_with(limit=50)
@redact_option
@json_option
def command(*, chosen: "Filter", redact: bool | None, as_json: bool) -> None:
    """List letters, those first that came last."""
    from worker.commands.dead_letters.showing import moment, print_json, print_table

    letters = asyncio.run(_read(chosen, redact))
    if as_json:
        print_json(letters)
        return
    if not letters:
        click.echo("no letter is like that")
        return
    rows = [
        (
            str(letter["id"]), letter["status"], letter["reason"], letter["app_id"] or "", f"{letter['occurrences']:,}",
            moment(letter["first_seen"]), moment(letter["last_seen"]), _error(letter),
        )
        for letter in letters
    ]  # fmt: skip
    headings = ("id", "status", "reason", "producer", "times", "first seen", "last seen", "error")
    print_table(headings, rows, numbers=("id", "times", "first seen", "last seen"))


def _error(letter: dict[str, Any]) -> str:
    from worker.commands.dead_letters.showing import first_error
    from worker.dead_letters.text import BODY_GIVEN_UP

    text = first_error(letter["errors"])
    return f"{text}; {BODY_GIVEN_UP}" if letter["is_body_given_up"] and not letter["is_edited"] else text


async def _read(chosen: "Filter", redact: bool | None) -> list[dict[str, Any]]:  # noqa: FBT001 - see is_redacted
    from worker.commands.dead_letters.showing import is_redacted, redacted
    from worker.commands.session import session
    from worker.postgres.dead_letters.reading import newest_letters

    async with session("dead-letters list") as (connection, settings):
        letters = await newest_letters(connection, chosen)
    return [redacted(letter) for letter in letters] if is_redacted(redact, settings) else letters
