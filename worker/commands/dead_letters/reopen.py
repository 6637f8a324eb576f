"""`usage-worker dead-letters reopen`: discarded letters are open again."""

import asyncio
from typing import TYPE_CHECKING

import click

from worker.commands.dead_letters.options import ANY_STATUS, check_words, filter_options_with
from worker.commands.options import json_option, who_option, yes_option

if TYPE_CHECKING:
    from worker.postgres.dead_letters.table import Filter

EXAMPLE = """
\b
Example:
$ usage-worker dead-letters reopen --producer chat --since 1d
$ usage-worker dead-letters reopen --status recovered --model gpt-4o-mini

\b
Exit status: 0 all are open; 3 only a part; 2 wrong usage; 1 anything else.
"""


@click.command("reopen", epilog=EXAMPLE)
@filter_options_with(status="discarded")
@click.option("--why", metavar="TEXT", callback=check_words, help="Stands in the history of each.")
@who_option
@yes_option
@json_option
def command(*, chosen: "Filter", why: str | None, who: str, yes: bool, as_json: bool) -> int:
    """Open discarded letters again, so that they can be mended and replayed.

    With --status recovered: those whose event is stored no more, since its row was deleted. Others stay as they are:
    their event is there, and a letter of a whole message does not tell its events' ids.
    Works in transactions of 1,000, as discard does.
    """
    from worker.commands.dead_letters.settling import run_settling
    from worker.postgres.dead_letters.settling import REOPEN, Order
    from worker.postgres.dead_letters.table import Status

    if chosen.status is Status.OPEN:
        raise click.UsageError(f"--status open: these are open already (discarded, recovered, {ANY_STATUS})")
    return asyncio.run(run_settling(Order(REOPEN, chosen, who, why), yes=yes, as_json=as_json))
