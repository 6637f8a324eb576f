"""Dividing the table of usage, step by step; each can be interrupted, and the next run goes on where it stood."""

from collections.abc import Callable
from datetime import datetime

import asyncpg

from worker.errors import SchemaError
from worker.postgres.partitions.begin import begin, empty_range, range_begun, validate
from worker.postgres.partitions.blockers import find_blockers
from worker.postgres.partitions.catalogue import State, read_division
from worker.postgres.partitions.ensure import ensure
from worker.postgres.partitions.swap import swap
from worker.retention.layout import TABLE, first_range


async def check_blockers(connection: asyncpg.Connection) -> None:
    """Make sure that it can be divided.

    Raises:
        SchemaError: it cannot, and why.
    """
    blockers = await find_blockers(connection)
    if blockers:
        raise SchemaError(f"{TABLE} cannot be divided, and nothing was changed: {'; '.join(blockers)}")


async def enable(connection: asyncpg.Connection, now: datetime, ahead: int, say: Callable[[str], None]) -> None:
    """Divide it, and make the partitions of the first months.

    Raises:
        SchemaError: something of the host's stands in the way.
        SystemUnavailableError: others held a lock that was needed all the time.
    """
    division = await read_division(connection)
    if division.state is State.DIVIDED:
        say(f"{TABLE} is divided already")
    else:
        await check_blockers(connection)
        if division.state is State.PLAIN:
            ids = first_range(now)
            await begin(connection, division.owner, ids)
            say(f"ids of {ids} go to a table of their own")
        else:
            ids = await range_begun(connection)
            say("going on where an earlier run stood")
        moved: list[int] = []
        await empty_range(connection, ids, moved.append)
        say(f"{sum(moved):,} rows whose ids fall there by chance were moved to it")
        await validate(connection)
        say(f"{TABLE} was read once: all else stays where it is")
        await swap(connection, division.owner, ids)
        say(f"{TABLE} is divided")
    await ensure(connection, now, ahead, say)
