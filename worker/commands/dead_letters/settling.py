"""What `discard` and `reopen` have in common."""

import json

import click

from worker.commands.dead_letters.bulk import EXIT_PARTLY, Work, plural, working
from worker.commands.dead_letters.options import confirm_bulk
from worker.commands.dead_letters.session import session
from worker.postgres.letter_settling import RIGHTS, Order, pick_settling, settle
from worker.postgres.rights import require

_PAST = {"discard": "discarded", "reopen": "reopened"}


async def run_settling(order: Order, *, yes: bool, as_json: bool) -> int:
    """Count, ask, settle, report; the exit status."""
    action = order.settling.action
    async with session(action, carries=False) as (connection, _):
        await require(connection, RIGHTS)
        total = (await pick_settling(connection, order)).letters
        confirm_bulk(total, yes=yes, action=action)
        busy = 0
        async with working(f"{action}ing", total) as work:
            try:
                async for lot in settle(connection, order):
                    work.done += lot.done
                    busy += len(lot.busy)
                    if work.is_stopped:
                        break
            finally:
                _report(_PAST[action], work, busy, as_json=as_json)
    return EXIT_PARTLY if busy or work.is_stopped else 0


def _report(past: str, work: Work, busy: int, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({past: work.done, "chosen": work.total, "busy": busy, "stopped": work.is_stopped}))
        return
    click.echo(f"{past} {plural(work.done)}{'' if work.done == work.total else f' of {work.total:,}'}")
    if work.is_stopped:
        click.echo("stopped: nothing is half done; run this again to go on")
    if busy:
        click.echo(f"{busy:,} were in other hands all the time; run this again")
    elif work.done < work.total and not work.is_stopped:
        click.echo("the others were changed by somebody else meanwhile")
