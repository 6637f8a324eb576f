"""`usage-worker retain`: delete rows of usage that are older than they have to be kept."""

import asyncio
import json
import sys
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import click

from worker.commands.options import EXIT_PARTLY, ask, json_option, older_than_option, who_option, yes_option

if TYPE_CHECKING:
    from worker.postgres.retain import Due
    from worker.retention.months import Month

EXAMPLE = """
\b
Example:
$ usage-worker retain --older-than 24 --dry-run
would delete 1,204,000 rows from before 2024-11-01; would discard 3 letters
$ usage-worker retain --older-than 24 --yes
deleted 1,204,000 rows from before 2024-11-01; discarded 3 letters

\b
Exit status: 0 all are deleted; 3 only a part; 2 wrong usage; 1 anything else.
"""


@click.command("retain", epilog=EXAMPLE)
@older_than_option
@click.option("--dry-run", is_flag=True, help="Only say how much it would be.")
@who_option
@yes_option
@json_option
def command(*, months: int, dry_run: bool, who: str, yes: bool, as_json: bool) -> int:
    """Delete the rows of ai_usage_logs whose created_at lies before the last MONTHS months and this one, in UTC.

    Run it as the tables' owner: the worker's role has no right to delete. It deletes 2,000 rows in a transaction, and
    pauses as long as each took; workers go on beside it. Ctrl-C, or the death of this command, leaves nothing half
    done: run it again to go on. What somebody has locked stays: exit 3.

    Open letters that were first seen before the same moment are discarded first: a replay could store an event again
    whose row is gone. From then on `find` calls the ids of deleted rows missing. It refuses MONTHS so few that an event
    could still be accepted (USAGE_MAX_AGE, which must be set as for the workers). Settled letters go by `dead-letters
    purge`. Space goes to new rows once autovacuum has been there; VACUUM ai_usage_logs makes it so at once, only
    VACUUM FULL gives it back to the disk, and stops the workers as long as it takes.

    Where the table has partitions, `partitions drop` removes whole months first, and this the few rows beside them.
    """
    return asyncio.run(_retain(months, dry_run=dry_run, who=who, yes=yes, as_json=as_json))


async def _retain(months: int, *, dry_run: bool, who: str, yes: bool, as_json: bool) -> int:
    from worker.commands.dead_letters.bulk import working
    from worker.commands.session import session
    from worker.postgres.clock import utcnow
    from worker.postgres.dead_letters.rights import require
    from worker.postgres.dead_letters.settling import DISCARD, Order
    from worker.postgres.dead_letters.table import Filter
    from worker.postgres.retain import RIGHTS, Due, count_due, count_rows, delete_rows, discard_letters
    from worker.retention.months import horizon
    from worker.settings import load_settings

    max_age = load_settings().max_age
    first_kept = horizon(datetime.now(UTC), months, max_age)
    async with session("retain") as (connection, _):
        await require(connection, RIGHTS)
        # By the clock that is behind: what a wrong one would delete does not come back.
        first_kept = min(first_kept, horizon(await utcnow(connection), months, max_age))
        before = first_kept.start
        order = Order(DISCARD, Filter(until=before), who, f"older than {months} months, as rows are kept")
        due = await count_due(connection, order, before)
        if dry_run:
            _report(_Did("would delete", "would discard", due, first_kept), as_json=as_json)
            return 0
        _confirm(due, first_kept, yes=yes)
        rows = letters = letters_left = 0
        begun_at = perf_counter()
        try:
            async with working("deleting", due.rows) as work:
                letters, letters_left = await discard_letters(connection, order)
                async for rows_of_lot in delete_rows(connection, before):
                    work.done = rows = rows + rows_of_lot
                    if work.is_stopped:
                        break
        finally:  # once the bar is gone
            done = _Did("deleted", "discarded", Due(rows, letters), first_kept)
            _report(done, as_json=as_json, seconds=perf_counter() - begun_at)
        left = await count_rows(connection, before)
    if left:
        why = "stopped" if work.is_stopped else "in other hands all the time"
        click.echo(f"{left:,} rows are left ({why}): run this again to go on", err=True)
    if letters_left:
        click.echo(f"{letters_left:,} letters were in other hands and are open: run this again", err=True)
    return EXIT_PARTLY if left or letters_left else 0


def _confirm(due: "Due", first_kept: "Month", *, yes: bool) -> None:
    if yes or due == (0, 0):
        return
    question = _Did("would delete", "would discard", due, first_kept).sentence
    if not sys.stdin.isatty():
        raise click.UsageError(f"this {question}, and there is no terminal to ask on: add --yes")
    ask(f"This {question}. Deleted rows do not come back. Go on?")


class _Did(NamedTuple):
    """What was done, or would be, in words and numbers."""

    deletes: str
    discards: str
    what: "Due"
    first_kept: "Month"

    @property
    def sentence(self) -> str:
        """For people."""
        from worker.commands.dead_letters.bulk import plural

        rows, letters = plural(self.what.rows, "row"), plural(self.what.letters)
        return f"{self.deletes} {rows} from before {self.first_kept.start:%Y-%m-%d}; {self.discards} {letters}"

    @property
    def facts(self) -> dict[str, object]:
        """For programs."""
        return {
            f"{self.deletes} rows".replace(" ", "_"): self.what.rows,
            f"{self.discards} letters".replace(" ", "_"): self.what.letters,
            "before": self.first_kept.start.isoformat(),
        }


def _report(done: _Did, *, as_json: bool, seconds: float | None = None) -> None:
    from worker.commands.dead_letters.showing import say

    if as_json:
        say(json.dumps(done.facts if seconds is None else done.facts | {"seconds": round(seconds, 3)}))
    else:
        say(done.sentence)
