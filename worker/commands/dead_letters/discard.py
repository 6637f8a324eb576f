"""`usage-worker dead-letters discard`: letters whose events shall not be stored."""

import asyncio
from typing import TYPE_CHECKING

import click

from worker.commands.dead_letters.options import ANY_STATUS, check_words, filter_options
from worker.commands.options import json_option, who_option, yes_option

if TYPE_CHECKING:
    from worker.postgres.dead_letters.table import Filter

EXAMPLE = """
\b
Example:
$ usage-worker dead-letters discard --producer probe --why "a load test"
This would discard 12 letters. Go on? [y/N]: y
discarded 12 letters

\b
Exit status: 0 all are discarded; 3 only a part; 2 wrong usage; 1 else.
"""


@click.command("discard", epilog=EXAMPLE)
@filter_options
@click.option("--why", metavar="TEXT", required=True, callback=check_words, help="Stands in the history of each.")
@who_option
@yes_option
@json_option
def command(*, chosen: "Filter", why: str, who: str, yes: bool, as_json: bool) -> int:
    """Settle open letters without storing their events; `reopen` takes it back.

    1,000 in a transaction, each with its line in the history. Several operators share the work. Ctrl-C, or the death
    of this command, leaves nothing half done: run it again to go on. The body that comes again opens its letter again.
    """
    from worker.commands.dead_letters.settling import run_settling
    from worker.postgres.dead_letters.settling import DISCARD, Order
    from worker.postgres.dead_letters.table import Status

    if chosen.status not in (None, Status.OPEN):
        raise click.UsageError(f"--status {chosen.status}: only open letters can be discarded (open, {ANY_STATUS})")
    return asyncio.run(run_settling(Order(DISCARD, chosen, who, why), yes=yes, as_json=as_json))
