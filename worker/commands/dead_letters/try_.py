"""`usage-worker dead-letters try`: would today's code and data take these letters?"""

import asyncio
from typing import TYPE_CHECKING

import click

from worker.commands.dead_letters.options import filter_options
from worker.commands.options import EXIT_PARTLY, default_who, json_option

if TYPE_CHECKING:
    from worker.postgres.dead_letters.table import Filter

EXAMPLE = """
\b
Example:
$ usage-worker dead-letters try --reason unknown_user
reason        answer       now  letters  a sample                              its error
unknown_user  same reason            12  01999a4e-93c1-7b3c-9d1f-6b0c5e8f1a2b  user_id: is not in `users`
unknown_user  stored              1,988  01999a4e-93c1-7b3c-9d1f-6b0c5e8f1a2c
tried 2,000 letters: 1,988 would be recovered, 12 refused; nothing was changed

\b
Exit status: 0 all are tried, whatever the answers; 3 stopped before; 2 wrong
usage; 1 anything else.
"""


@click.command("try", epilog=EXAMPLE)
@filter_options
@json_option
def command(*, chosen: "Filter", as_json: bool) -> int:
    """Carry letters through the worker's decoder and merge, and roll it back.

    Exact: a replay of the same letters would answer the same, as long as nothing else changes. Letters are tried 1,000
    at a time; two letters of one event in different thousands are both told as stored. Nothing is changed.
    """
    return asyncio.run(_try(chosen, as_json=as_json))


async def _try(chosen: "Filter", *, as_json: bool) -> int:
    from worker.commands.dead_letters.carrying import opened, report, run_to_the_end
    from worker.commands.session import session
    from worker.postgres.dead_letters.replay import ReplayLimits
    from worker.postgres.dead_letters.table import HAS_BODY, HAS_NO_BODY, count_letters
    from worker.postgres.dead_letters.tally import Ending

    async with session("dead-letters try") as (connection, settings):
        count = await count_letters(connection, chosen, HAS_BODY)
        without_body = await count_letters(connection, chosen, HAS_NO_BODY)
    async with opened(chosen, ReplayLimits(count), settings, who=default_who(), is_trial=True) as trial:
        trial.tally.bodies_given_up = without_body
        try:
            await run_to_the_end(trial, count, "trying")
        finally:
            report(trial.tally, as_json=as_json, is_trial=True)
    return EXIT_PARTLY if trial.tally.ending is Ending.STOPPED else 0
