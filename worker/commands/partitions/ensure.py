"""`usage-worker partitions ensure`: make the partitions of months to come."""

import asyncio
import json
from datetime import UTC, datetime

import click

from worker.commands.options import json_option

AHEAD_DEFAULT, AHEAD_MAX = 3, 120
EXAMPLE = """
\b
Example, once a day:
$ usage-worker partitions ensure --ahead 3
made ai_usage_logs_2027_03 for 2027-03

\b
Exit status: 0 they are there; 2 wrong usage; 1 anything else.
"""
ahead_option = click.option(
    "--ahead",
    metavar="MONTHS",
    type=click.IntRange(min=1, max=AHEAD_MAX),
    default=AHEAD_DEFAULT,
    show_default=True,
    help="So many months after this one shall be ready.",
)


@click.command("ensure", epilog=EXAMPLE)
@ahead_option
@json_option
def command(*, ahead: int, as_json: bool) -> None:
    """Make the partitions that are missing for this month and MONTHS after it. Run it daily: a CronJob's command.

    Where it comes late, nothing is lost: ids of months without a partition are in ai_usage_logs_future, which then
    becomes the partition of those months up to this one.
    """
    asyncio.run(_ensure(ahead, as_json=as_json))


async def _ensure(ahead: int, *, as_json: bool) -> None:
    from worker.commands.dead_letters.showing import say
    from worker.commands.partitions.session import changing, tell
    from worker.postgres.partitions.ensure import ensure
    from worker.retention.layout import table_name

    async with changing("ensure") as connection:
        made = await ensure(connection, datetime.now(UTC), ahead, tell)
    if as_json:
        for ids in made:
            say(json.dumps({"made": table_name(ids), "low": str(ids.low), "high": str(ids.high)}))
