"""`usage-worker dead-letters purge`: remove letters that were settled long ago."""

import asyncio
from datetime import datetime

import click

from worker.commands.dead_letters.options import check_moment, confirm_bulk
from worker.commands.options import json_option, who_option, yes_option

EXAMPLE = """
\b
Example:
$ usage-worker dead-letters purge --settled-before 90d --dry-run
would purge 12,400 letters: 9.1 MB of bodies
$ usage-worker dead-letters purge --settled-before 90d --yes
purged 12,400 letters: 9.1 MB of bodies

\b
Exit status: 0 all are removed; 3 only a part; 2 wrong usage; 1 anything else.
"""


@click.command("purge", epilog=EXAMPLE)
@click.option(
    "--settled-before",
    "before",
    metavar="MOMENT",
    required=True,
    callback=check_moment,
    help="A time, or an age such as 90d.",
)
@click.option("--dry-run", is_flag=True, help="Only say how much it would be.")
@who_option
@yes_option
@json_option
def command(*, before: datetime, dry_run: bool, who: str, yes: bool, as_json: bool) -> int:
    """Remove recovered and discarded letters that nothing has come for and nothing was done to since MOMENT.

    Run it as the tables' owner: the worker's role has no right to delete. Open letters are never removed. What was done
    to the letters stays in the history, and that they were purged. From then on `find` knows nothing of the events of
    discarded ones, and a body that comes again makes a new letter. Space goes to new rows once autovacuum has been
    there; only VACUUM FULL gives it back to the disk.
    """
    return asyncio.run(_purge(before, dry_run=dry_run, who=who, yes=yes, as_json=as_json))


async def _purge(before: datetime, *, dry_run: bool, who: str, yes: bool, as_json: bool) -> int:
    from worker.commands.dead_letters.bulk import plural, size_text, take_all
    from worker.commands.dead_letters.showing import print_json, say
    from worker.commands.session import session
    from worker.postgres.dead_letters.purge import RIGHTS, pick_settled, purge
    from worker.postgres.dead_letters.rights import require

    async with session("dead-letters purge") as (connection, _):
        await require(connection, RIGHTS)
        found = await pick_settled(connection, before)
        space = f"{size_text(found.body_bytes)} of bodies"
        if dry_run and as_json:
            print_json([{"would_purge": found.letters, "body_bytes": found.body_bytes}])
        elif dry_run:
            say(f"would purge {plural(found.letters)}: {space}")
        if dry_run:
            return 0
        confirm_bulk(found.letters, yes=yes, action="purge", more=f" ({space})")
        lots = purge(connection, before, who=who)
        return await take_all(lots, doing="purging", past="purged", total=found.letters, as_json=as_json)
