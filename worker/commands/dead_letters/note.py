"""`usage-worker dead-letters note`: a remark in a letter's history."""

import asyncio
from typing import Any
from uuid import UUID

import click

from worker.commands.dead_letters.options import check_words
from worker.commands.options import json_option, who_option

EXAMPLE = """
\b
Example:
$ usage-worker dead-letters note 0190a1b2-7c11-7d3e-8f00-5d6a3f0b9c2e "asked"
noted on letter 0190a1b2-7c11-7d3e-8f00-5d6a3f0b9c2e
"""


@click.command("note", epilog=EXAMPLE)
@click.argument("some_id", metavar="ID", type=click.UUID)
@click.argument("text", metavar="TEXT", callback=check_words)
@who_option
@json_option
def command(*, some_id: UUID, text: str, who: str, as_json: bool) -> None:
    """Add TEXT to the history of the letter with this ID, or of the letters of the event with this ID.

    The history is only added to: what was noted stays.
    """
    from worker.commands.dead_letters.showing import print_json
    from worker.errors import UsageWorkerError

    noted = asyncio.run(_note(some_id, who=who, note=text))
    if not noted:
        raise UsageWorkerError(
            f"no letter, and no event of one, has the id {some_id}; `usage-worker find {some_id}` says where it is"
        )
    if as_json:
        print_json({"letter_id": letter_id, "who": who, "note": text} for letter_id in noted)
        return
    for letter_id in noted:
        click.echo(f"noted on letter {letter_id}")


async def _note(some_id: UUID, **action: Any) -> list[UUID]:
    from worker.commands.session import session
    from worker.postgres.dead_letters.rights import require
    from worker.postgres.dead_letters.settling import ADDS_ACTIONS, add_note

    async with session("dead-letters note") as (connection, _):
        await require(connection, [ADDS_ACTIONS])
        return await add_note(connection, some_id, **action)
