"""`usage-worker dead-letters history`: what was done, by whom."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click

from worker.commands.dead_letters.options import check_moment, redact_option
from worker.commands.options import check_text, json_option

EXAMPLE = """
\b
Example:
$ usage-worker dead-letters history --since 1d
$ usage-worker dead-letters history 0190a1b2-7c11-7d3e-8f00-5d6a3f0b9c2e
"""


@click.command("history", epilog=EXAMPLE)
@click.argument("letter_id", metavar="[ID]", type=click.UUID, required=False)
@click.option("--who", callback=check_text, help="Only what this operator or worker did.")
@click.option(
    "--since", metavar="MOMENT", callback=check_moment, default="7d", show_default=True, help="A time, or an age."
)
@click.option("--until", metavar="MOMENT", callback=check_moment, help="The same.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many lines.")
@redact_option
@json_option
def command(  # noqa: PLR0913 - click hands over one argument for each option
    *,
    letter_id: UUID | None,
    who: str | None,
    since: datetime,
    until: datetime | None,
    limit: int,
    redact: bool | None,
    as_json: bool,
) -> None:
    """Show what was done, the newest first: who, when, to how many letters, chosen by which filter, and the outcome.

    The same action by the same operator is one line as long as no five minutes lie between. With the ID of a letter:
    all that was done to it, the oldest first, whatever the options say.
    """
    from worker.commands.dead_letters.showing import print_json

    actions = asyncio.run(_read(letter_id, redact, who=who, since=since, until=until or datetime.now(UTC), limit=limit))
    if as_json:
        print_json(actions)
    elif not actions:
        click.echo("nothing was done")
    elif letter_id is None:
        _print_runs(actions)
    else:
        _print_actions(actions)


async def _read(letter_id: UUID | None, redact: bool | None, **options: Any) -> list[dict[str, Any]]:  # noqa: FBT001 - see is_redacted
    from worker.commands.dead_letters.showing import is_redacted
    from worker.commands.session import session
    from worker.dead_letters.redaction import redact_note
    from worker.postgres.dead_letters.reading import letter_history, runs

    async with session("dead-letters history") as (connection, settings):
        if letter_id is None:
            actions = await runs(connection, **options)
        else:
            actions = await letter_history(connection, letter_id)
    if not is_redacted(redact, settings):
        return actions
    return [action | {"note": redact_note(action["action"], action["note"])} for action in actions]


def _print_runs(actions: list[dict[str, Any]]) -> None:
    from worker.commands.dead_letters.showing import moment, print_table, transition

    rows = [
        (
            moment(action["since"]), moment(action["until"]), action["who"], action["action"],
            f"{action['letters']:,}", transition(action), _filter(action), action["note"] or "",
        )
        for action in actions
    ]  # fmt: skip
    headings = ("from", "to", "who", "action", "letters", "outcome", "filter", "note")
    print_table(headings, rows, numbers=("from", "to", "letters"))


def _print_actions(actions: list[dict[str, Any]]) -> None:
    from worker.commands.dead_letters.showing import moment, print_table, transition

    rows = [
        (
            moment(action["at"]),
            action["who"],
            action["action"],
            transition(action),
            _filter(action),
            action["note"] or "",
        )
        for action in actions
    ]
    print_table(("at", "who", "action", "outcome", "filter", "note"), rows, numbers=("at",))


def _filter(action: dict[str, Any]) -> str:
    return "" if action["filter"] is None else json.dumps(action["filter"], ensure_ascii=False)
