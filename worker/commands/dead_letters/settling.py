"""What `discard` and `reopen` have in common."""

from worker.commands.dead_letters.bulk import take_all
from worker.commands.dead_letters.options import confirm_bulk
from worker.commands.session import session
from worker.postgres.dead_letters.rights import require
from worker.postgres.dead_letters.settling import RIGHTS, Order, pick_settling, settle

_PAST = {"discard": "discarded", "reopen": "reopened"}


async def run_settling(order: Order, *, yes: bool, as_json: bool) -> int:
    """Count, ask, settle, report; the exit status."""
    action = order.settling.action
    async with session(f"dead-letters {action}") as (connection, _):
        await require(connection, RIGHTS)
        total = (await pick_settling(connection, order)).letters
        confirm_bulk(total, yes=yes, action=action)
        lots = settle(connection, order)
        return await take_all(lots, doing=f"{action}ing", past=_PAST[action], total=total, as_json=as_json)
