"""The table is divided, and months of it are made and dropped, while events flow."""

import asyncio
import random
from datetime import UTC, datetime

from chaos import command
from chaos.load import Load
from chaos.registry import fault
from chaos.stage import Stage
from worker.postgres.partitions.enable import enable
from worker.postgres.session import connect
from worker.retention.months import Month

MONTHS_AGO = 38  # the months to be dropped are about so old; the table was divided before
ROWS = 200


@fault("partitions enabled under load", mixes=False)
async def enabled(stage: Stage, chance: random.Random) -> None:
    """`usage-worker partitions enable`, killed at random instants and run again, then `ensure`; a worker is killed."""
    for _ in range(3):
        await command.run_killed(stage, chance.uniform(0.3, 2), "partitions", "enable")
    await command.run(stage, "partitions", "enable")
    await _kill_a_worker(stage, chance)
    assert "made ai_usage_logs_" in await command.run(stage, "partitions", "ensure", "--ahead", "9")
    assert await stage.value("SELECT relkind = 'p' FROM pg_class WHERE oid = 'ai_usage_logs'::regclass")
    await stage.until_more_are_stored(ROWS)


@fault("partitions dropped under load", mixes=False, load=Load(ids_of_months_ago=MONTHS_AGO))
async def dropped(stage: Stage, chance: random.Random) -> None:
    """`usage-worker partitions ensure`, then `drop` of months into which a quarter of the ids of now fall by chance."""
    owner = await connect(stage.dsn, "public", name="chaos partitions")
    try:
        await enable(owner, Month.of(datetime.now(UTC)).plus(-MONTHS_AGO - 2).start, 3, lambda _: None)
    finally:
        owner.terminate()
    await _kill_a_worker(stage, chance)
    await stage.until_more_are_stored(ROWS)
    assert "made ai_usage_logs_" in await command.run(stage, "partitions", "ensure", "--ahead", "3")
    await _kill_a_worker(stage, chance)
    said = await command.run(stage, "partitions", "drop", "--older-than", "24", "--yes")
    assert "younger rows stay" in said, said
    await _kill_a_worker(stage, chance)
    await stage.until_more_are_stored(ROWS)
    assert await stage.value("SELECT count(*) FROM ai_usage_logs_past"), said


async def _kill_a_worker(stage: Stage, chance: random.Random) -> None:
    """What it held comes again, to be found wherever it is stored by now."""
    await asyncio.sleep(chance.uniform(0, 1))
    await (await stage.fleet.pick(chance)).kill()
