"""`usage-worker partitions enable`: divide the table of usage by months, while workers store events."""

import asyncio
from datetime import UTC, datetime

import click

from worker.commands.partitions.ensure import ahead_option

EXAMPLE = """
\b
Example:
$ usage-worker partitions enable
ids of 2026-12 to 2046-11 go to a table of their own
0 rows whose ids fall there by chance were moved to it
ai_usage_logs was read once: all else stays where it is
ai_usage_logs is divided
made ai_usage_logs_2026_12 for 2026-12
...

\b
Exit status: 0 it is divided; 2 wrong usage; 1 anything else.
"""


@click.command("enable", epilog=EXAMPLE)
@ahead_option
@click.option("--dry-run", is_flag=True, help="Only say whether it can be done.")
def command(*, ahead: int, dry_run: bool) -> None:
    """Divide ai_usage_logs by ranges of ids: a partition for each month from the next one on.

    The table that is there becomes the default partition and keeps all its rows, and every id that is not of such a
    month. Workers go on: they wait for a short lock a few times. It reads the table once, beside them. Grants, indexes,
    foreign keys, triggers, views and publications go over; what could not is named before anything is changed. New ids
    that the database makes, such as those of log_ai_usage, are UUIDv7s from then on.

    Ended in the middle, nothing is lost or doubled: run it again to go on.
    """
    asyncio.run(_enable(ahead, dry_run=dry_run))


async def _enable(ahead: int, *, dry_run: bool) -> None:
    from worker.commands.partitions.session import changing, tell
    from worker.postgres.partitions.catalogue import State, read_division
    from worker.postgres.partitions.enable import check_blockers, enable

    async with changing("enable") as connection:
        if not dry_run:
            await enable(connection, datetime.now(UTC), ahead, tell)
        elif (await read_division(connection)).state is State.DIVIDED:
            tell("it is divided already")
        else:
            await check_blockers(connection)
            tell("nothing stands in the way")
