"""`usage-worker partitions drop`: drop months that are older than they have to be kept."""

import asyncio
import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from worker.commands.options import ask, json_option, older_than_option, yes_option

if TYPE_CHECKING:
    from worker.postgres.partitions.drop import Due

EXAMPLE = """
\b
Example:
$ usage-worker partitions drop --older-than 24 --dry-run
would drop ai_usage_logs_2026_12: 1,204,000 rows, 442.1 MB; 3 younger rows stay
$ usage-worker partitions drop --older-than 24 --yes && usage-worker retain --older-than 24 --yes

\b
Exit status: 0 all are dropped; 2 wrong usage; 1 anything else.
"""


@click.command("drop", epilog=EXAMPLE)
@older_than_option
@click.option("--dry-run", is_flag=True, help="Only say which it would be.")
@yes_option
@json_option
def command(*, months: int, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Drop the partitions of the months before the last MONTHS months and this one.

    Rows in them that were created since, whose random ids are there by chance, are kept (in ai_usage_logs_past). Each
    partition goes in one short transaction. What is older in the other partitions, and old letters, are left to
    `retain`, with the same MONTHS: run it afterwards. It refuses MONTHS so few that an event could still be accepted.
    """
    asyncio.run(_drop(months, dry_run=dry_run, yes=yes, as_json=as_json))


async def _drop(months: int, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    from worker.commands.partitions.session import changing
    from worker.postgres.clock import utcnow
    from worker.postgres.partitions.drop import drop, find_due
    from worker.retention.months import horizon
    from worker.settings import load_settings

    max_age = load_settings().max_age
    first_kept = horizon(datetime.now(UTC), months, max_age)
    async with changing("drop") as connection:
        # By the clock that is behind: what a wrong one would drop does not come back.
        first_kept = min(first_kept, horizon(await utcnow(connection), months, max_age))
        due = await find_due(connection, first_kept)
        if dry_run or not due:
            for one in due:
                _say("would drop", one, as_json=as_json)
            if not due and not as_json:
                click.echo(f"nothing to do: no partition lies before {first_kept}")
            return
        if not yes:
            _confirm(due)
        async for one in drop(connection, due, first_kept):
            _say("dropped", one, as_json=as_json)


def _confirm(due: "list[Due]") -> None:
    question = "This would drop " + ", ".join(one.partition.name for one in due)
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question[0].lower()}{question[1:]}, and there is no terminal to ask on: add --yes")
    ask(f"{question}. Their rows do not come back. Go on?")


def _say(verb: str, due: "Due", *, as_json: bool) -> None:
    from worker.commands.dead_letters.bulk import plural, size_text
    from worker.commands.dead_letters.showing import say

    if as_json:
        facts = {verb.replace(" ", "_"): due.partition.name, "rows": due.rows - due.kept, "kept": due.kept}
        say(json.dumps(facts | {"bytes": due.bytes}))
        return
    kept = f"; {plural(due.kept, 'younger row')} stay{'s' if due.kept == 1 else ''}" if due.kept else ""
    say(f"{verb} {due.partition.name}: {plural(due.rows, 'row')}, {size_text(due.bytes)}{kept}")
