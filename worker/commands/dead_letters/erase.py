"""`usage-worker dead-letters erase`: remove a person or an organization from everything that is stored."""

import asyncio
import json
import sys
from typing import TYPE_CHECKING
from uuid import UUID

import click

from worker.commands.options import EXIT_PARTLY, ask, json_option, who_option, yes_option

if TYPE_CHECKING:
    import asyncpg

    from worker.commands.dead_letters.bulk import Work
    from worker.dead_letters.erasing import Subject
    from worker.postgres.dead_letters.erase import Eraser, Erasure, Order

UNSURE_SHOWN = 20
EXAMPLE = """
\b
Example:
$ usage-worker dead-letters erase --dry-run \\
    --user 0198c0de-0000-7000-8000-000000000001
would erase 12 rows of ai_usage_logs, 3 letters;
cut their events out of 1 letter;
mask the id in 0 rows, 2 letters and 1 line of the history

\b
Exit status: 0 all is erased; 3 only a part; 2 wrong usage; 1 anything else.
"""


@click.command("erase", epilog=EXAMPLE)
@click.option("--user", type=click.UUID, help="Who shall be forgotten.")
@click.option("--organization", type=click.UUID, help="Or which organization.")
@click.option("--whole-letters", is_flag=True, help="Delete also letters that may hold other people's events.")
@click.option(
    "--anonymise",
    "rows_to",
    metavar="UUID",
    type=click.UUID,
    help="Keep their rows, as this user's or organization's, without metadata.",
)
@click.option("--dry-run", is_flag=True, help="Only say what it would be.")
@who_option
@yes_option
@json_option
def command(  # noqa: PLR0913 - click hands over one argument for each option
    *,
    user: UUID | None,
    organization: UUID | None,
    whole_letters: bool,
    rows_to: UUID | None,
    dry_run: bool,
    who: str,
    yes: bool,
    as_json: bool,
) -> int:
    """Remove a person, or an organization, from usage, letters and history.

    Their rows and letters are deleted. An array of events loses theirs and keeps the others'. Where others' rows,
    letters or lines of the history only name them, zeros take the place of the id; notes on their letters go. A body
    that cannot be read and may hold other people's events stays as it is and is named: exit 3.

    Stop their producers first: an event that is still in a queue, or published again, is stored again, since its id is
    forgotten too; a second run removes it. `find` calls the ids of erased events missing. With --anonymise sums stay
    what they were: the rows keep id, tokens, cost and time, and the ids are still known. Tables of the host, users and
    organizations among them, are not touched; nor are backups.

    Run it as the tables' owner. It reads each table once, and changes 1,000 rows in a transaction. Ctrl-C, or the death
    of this command, leaves nothing half done: run it again to go on.
    """
    from worker.dead_letters.erasing import Field, Subject
    from worker.postgres.dead_letters.erase import Order

    if (user is None) == (organization is None):
        raise click.UsageError("say whom: either --user or --organization")
    if user is not None:
        subject = Subject(Field.USER, user)
    else:
        assert organization is not None  # noqa: S101 - one of the two is given
        subject = Subject(Field.ORGANIZATION, organization)
    order = Order(subject, who, whole_letters, rows_to)
    return asyncio.run(_erase(order, dry_run=dry_run, yes=yes, as_json=as_json))


async def _erase(order: "Order", *, dry_run: bool, yes: bool, as_json: bool) -> int:
    from worker.commands.dead_letters.bulk import working
    from worker.commands.session import session
    from worker.postgres.dead_letters.erase import RIGHTS, Eraser, require_heir
    from worker.postgres.dead_letters.rights import require

    async with session("dead-letters erase") as (connection, _):
        await require(connection, RIGHTS)
        await require_heir(connection, order)
        async with working("looking", 0) as work:
            await _look(connection, order.subject, work)
            plan = Eraser(connection, order, is_trial=True)
            await _run(plan, work)
        if work.is_stopped:
            raise click.Abort
        if dry_run:
            _report(plan.erasure, "would erase", as_json=as_json)
            return 0
        _confirm(plan.erasure, yes=yes)
        eraser = Eraser(connection, order, is_trial=False)
        try:
            async with working("erasing", plan.erasure.total) as work:
                await _run(eraser, work)
                await eraser.record()
        finally:  # once the bar is gone
            _report(eraser.erasure, "erased", as_json=as_json)
    if work.is_stopped:
        click.echo("stopped: nothing is half done; run this again to go on", err=True)
    return EXIT_PARTLY if work.is_stopped or eraser.erasure.unsure or eraser.erasure.busy else 0


async def _look(connection: "asyncpg.Connection", subject: "Subject", work: "Work") -> None:
    from worker.postgres.dead_letters.erase_scan import estimate, look, scans

    def on_rows(rows: int) -> None:
        work.done += rows
        if work.is_stopped:
            raise click.Abort

    for scan in scans(subject):
        work.what, work.total, work.done = f"reading {scan.table}", await estimate(connection, scan), 0
        await look(connection, scan, subject, on_rows)


async def _run(eraser: "Eraser", work: "Work") -> None:
    async for done in eraser.steps():
        work.done += done
        if work.is_stopped:
            return


def _confirm(plan: "Erasure", *, yes: bool) -> None:
    if yes or plan.total == 0:
        return
    question = _sentence(plan, "would erase")
    if not sys.stdin.isatty():
        raise click.UsageError(f"this {' '.join(question.split())}, and there is no terminal to ask on: add --yes")
    ask(f"This {question}. It cannot be taken back. Go on?")


def _report(erasure: "Erasure", verb: str, *, as_json: bool) -> None:
    from worker.commands.dead_letters.showing import say

    if as_json:
        say(json.dumps(erasure.facts()))
        return
    say(_sentence(erasure, verb))
    if erasure.unsure:
        named = " ".join(str(letter_id) for letter_id in erasure.unsure[:UNSURE_SHOWN])
        more = len(erasure.unsure) - UNSURE_SHOWN
        say(
            f"{len(erasure.unsure):,} not erased, since they may hold other people's events (--whole-letters deletes"
            f" them): {named}{f' and {more:,} more: see --json' if more > 0 else ''}"
        )
    if erasure.busy:
        say(f"{erasure.busy:,} were in other hands all the time; run this again")
    if erasure.rows_deleted and verb == "erased":
        say("`find` calls their events missing from now on; one that is published again is stored again")


def _sentence(erasure: "Erasure", verb: str) -> str:
    from worker.commands.dead_letters.bulk import plural
    from worker.dead_letters.erasing import Fate

    letters = erasure.letters
    anonymised = f"\nanonymise {plural(erasure.rows_anonymised, 'row')};" if erasure.rows_anonymised else ""
    lines = "line" if erasure.actions_masked == 1 else "lines"
    return (
        f"{verb} {plural(erasure.rows_deleted, 'row')} of ai_usage_logs, {plural(letters[Fate.DELETED])};"
        f"{anonymised}"
        f"\ncut their events out of {plural(letters[Fate.CUT])};"
        f"\nmask the id in {plural(erasure.rows_masked, 'row')}, {plural(letters[Fate.MASKED])}"
        f" and {erasure.actions_masked:,} {lines} of the history"
    )
