"""`usage-worker partitions list`: which partitions there are."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from worker.commands.options import json_option

if TYPE_CHECKING:
    from worker.postgres.partitions.catalogue import Division

EXAMPLE = """
\b
Example:
$ usage-worker partitions
ai_usage_logs_default  all other ids              ~ 20,000,000 rows     7.4 GB
ai_usage_logs_2026_12  2026-12                    ~  1,204,000 rows   442.1 MB
...
partitions are ready for 3 months after this one
"""


@click.command("list", epilog=EXAMPLE)
@json_option
def command(*, as_json: bool) -> None:
    """List the partitions: their ids by month, about how many rows, how many bytes with indexes."""
    asyncio.run(_list(as_json=as_json))


async def _list(*, as_json: bool) -> None:
    from worker.commands.dead_letters.showing import say
    from worker.commands.session import session
    from worker.postgres.partitions.catalogue import State, read_division

    async with session("partitions list") as (connection, _):
        division = await read_division(connection)
    if as_json:
        for facts in _facts(division):
            say(json.dumps(facts))
    elif division.state is State.DIVIDED:
        say("\n".join(_lines(division)))
    else:
        say("ai_usage_logs has no partitions: `usage-worker partitions enable` divides it")


def _facts(division: "Division") -> Iterator[dict[str, Any]]:
    for one in division.layout.partitions:
        size = division.sizes[one.name]
        low, high = (str(one.ids.low), str(one.ids.high)) if one.ids else (None, None)
        months = str(one.ids) if one.is_month else None
        yield {
            "name": one.name, "months": months, "low": low, "high": high,
            "rows_estimated": size.rows, "bytes": size.bytes,
        }  # fmt: skip


def _lines(division: "Division") -> Iterator[str]:
    from worker.commands.dead_letters.bulk import size_text

    wide = max(len(one.name) for one in division.layout.partitions)
    for one in division.layout.partitions:
        size = division.sizes[one.name]
        what = "all other ids" if one.ids is None else str(one.ids)
        yield f"{one.name:{wide}}  {what:22}  ~{size.rows:>14,} rows  {size_text(size.bytes):>10}"
    yield f"partitions are ready for {division.layout.months_ahead(datetime.now(UTC))} months after this one"
    yield from (f"wrong: {fault}" for fault in division.layout.faults(division.excluded))
