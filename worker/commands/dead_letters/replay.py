"""`usage-worker dead-letters replay`: carry letters through the worker's decoder and merge."""

import asyncio
from typing import TYPE_CHECKING

import click

from worker.commands.dead_letters.options import confirm_bulk, filter_options
from worker.commands.options import EXIT_PARTLY, json_option, who_option, yes_option

if TYPE_CHECKING:
    from worker.postgres.dead_letters.replay import ReplayLimits
    from worker.postgres.dead_letters.table import Filter
    from worker.postgres.dead_letters.tally import Tally

EXAMPLE = """
\b
Example:
$ usage-worker dead-letters replay --reason unknown_user --abort-if-failing 20 --yes
reason        answer  now  letters  a sample                              its error
unknown_user  stored         2,000  01999a4e-93c1-7b3c-9d1f-6b0c5e8f1a2b
carried 2,000 letters: 2,000 recovered, 0 refused

\b
Exit status: 0 all are recovered; 3 some stay as they were, or it ended early;
2 wrong usage; 1 anything else.
"""


@click.command("replay", epilog=EXAMPLE)
@filter_options
@click.option("--rate", type=click.IntRange(min=1), help="Letters a second, at most.  [default: no limit]")
@click.option("--max", "letters_max", type=click.IntRange(min=1), help="Letters, at most.  [default: all]")
@click.option(
    "--abort-if-failing",
    "failing_percent_max",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="End where more than so many per cent are refused; judged from the tenth letter on.",
)
@who_option
@yes_option
@json_option
def command(  # noqa: PLR0913 - click hands over one argument for each option
    *,
    chosen: "Filter",
    rate: int | None,
    letters_max: int | None,
    failing_percent_max: float | None,
    who: str,
    yes: bool,
    as_json: bool,
) -> int:
    """Store the events of letters, and settle each letter in the transaction that stores its event.

    An edited body is taken in place of the original. What is refused again keeps its status and gets its new reason.
    The first letter goes alone, then 10, 100, and 1,000 at a time, slower while the database is slow. Several replays
    share the work. Ctrl-C, or the death of this command, leaves nothing half done: run it again to go on.
    A letter that may have ended an earlier replay is left out unless --id names it.
    """
    from worker.postgres.dead_letters.replay import ReplayLimits

    limits = ReplayLimits(letters_max, rate, failing_percent_max)
    tally = asyncio.run(_replay(chosen, limits, who=who, yes=yes, as_json=as_json))
    return 0 if tally.is_whole else EXIT_PARTLY


async def _replay(chosen: "Filter", limits: "ReplayLimits", *, who: str, yes: bool, as_json: bool) -> "Tally":
    from dataclasses import replace

    from worker.commands.dead_letters.carrying import opened, report, run_to_the_end
    from worker.commands.session import session
    from worker.postgres.dead_letters.table import HAS_BODY, HAS_NO_BODY, count_letters

    async with session("dead-letters replay") as (connection, settings):
        count = await count_letters(connection, chosen, HAS_BODY)
        without_body = await count_letters(connection, chosen, HAS_NO_BODY)
    count = min(count, limits.letters_max or count)
    confirm_bulk(count, yes=yes, action="replay")
    # What arrives meanwhile was not agreed to.
    async with opened(chosen, replace(limits, letters_max=count), settings, who=who, is_trial=False) as replay:
        replay.tally.bodies_given_up = without_body
        try:
            await run_to_the_end(replay, count, "replaying")
        finally:
            report(replay.tally, as_json=as_json, is_trial=False)
    return replay.tally
