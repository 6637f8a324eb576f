"""Postgres fails over to its synchronous standby and back; the standby is lost; commits are told not to wait for it."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import asyncpg
from harness import until

from chaos.arrangement import Arrangement
from chaos.failover import Node, Pair
from chaos.faults.postgres import WORKERS
from chaos.registry import fault
from chaos.stage import Stage

PATIENCE_SECONDS = 44.0  # a worker's session gives up what is not answered within 40 s
FOUND_SECONDS_MAX = 150.0  # within these the workers write to the new primary, whatever has become of the old one
WAITING = f"FROM pg_stat_activity WHERE {WORKERS} AND wait_event = 'SyncRep'"
CANCEL = "pg_cancel_backend"
ENDINGS = (CANCEL, "pg_terminate_backend")

Break = Callable[[Pair], Awaitable[Any]]


def pair_of(stage: Stage) -> Pair:
    """The run's two servers."""
    assert isinstance(stage.postgres, Pair)
    return stage.postgres


async def promote(stage: Stage) -> Node:
    """The standby becomes the primary, and the observer asks it; returns the old primary."""
    pair = pair_of(stage)
    old = pair.primary
    await asyncio.to_thread(pair.promote)
    assert pair.primary is not old
    return old


async def fail_over(stage: Stage, chance: random.Random, break_primary: Break) -> None:
    """Twice, there and back: break, promote, write; then the old primary becomes a standby, from a new copy."""
    pair = pair_of(stage)
    for _ in range(2):
        await break_primary(pair)
        await asyncio.sleep(chance.uniform(0, 2))
        await promote(stage)
        await stage.until_flowing(FOUND_SECONDS_MAX)
        await asyncio.to_thread(pair.rejoin)
        await asyncio.sleep(chance.uniform(0, 1))


@fault("failover, primary killed", arrangement=Arrangement.FAILOVER)
async def killed(stage: Stage, chance: random.Random) -> None:
    """SIGKILL to the primary, its standby is promoted, workers go on there; and back."""
    await fail_over(stage, chance, lambda pair: asyncio.to_thread(pair.kill))


@fault("failover, primary shut down at once", arrangement=Arrangement.FAILOVER)
async def shut_down(stage: Stage, chance: random.Random) -> None:
    """Immediate shutdown of the primary, its standby is promoted; and back."""
    await fail_over(stage, chance, lambda pair: asyncio.to_thread(pair.stop, "immediate"))


@fault("failover, workers killed as well", arrangement=Arrangement.FAILOVER)
async def killed_with_workers(stage: Stage, chance: random.Random) -> None:
    """SIGKILL to primary and workers at once: others begin while there is none, with what those had taken; and back."""

    async def kill_all(pair: Pair) -> None:
        await asyncio.gather(asyncio.to_thread(pair.kill), stage.fleet.replace())

    await fail_over(stage, chance, kill_all)


@fault("failover, primary frozen", arrangement=Arrangement.FAILOVER)
async def frozen(stage: Stage, chance: random.Random) -> None:
    """SIGSTOP to the primary, its standby is promoted, the old one is ended some seconds later without a word."""
    pair = pair_of(stage)
    await asyncio.to_thread(pair.freeze)
    await asyncio.sleep(chance.uniform(0, 2))
    old = await promote(stage)
    await asyncio.sleep(chance.uniform(1, 6))
    await asyncio.to_thread(old.end)
    await stage.until_flowing(FOUND_SECONDS_MAX)
    await asyncio.to_thread(pair.rejoin)


@fault("failover, primary out of reach", arrangement=Arrangement.FAILOVER, recovery_seconds_max=60)
async def out_of_reach(stage: Stage, chance: random.Random) -> None:
    """All that is sent to the primary is lost, as where its machine has died; its standby is promoted."""
    pair = pair_of(stage)
    proxy = stage.workers_to_nodes[pair.nodes.index(pair.primary)]
    links = (await proxy.tell(loses=True))["links"]
    assert links, "no worker was connected to the primary"
    await asyncio.sleep(chance.uniform(0, 2))
    await promote(stage)
    await stage.until_flowing(FOUND_SECONDS_MAX)
    await proxy.tell(loses=False)
    await asyncio.to_thread(pair.rejoin)


@fault("failover, the old primary goes on", arrangement=Arrangement.FAILOVER)
async def split(stage: Stage, chance: random.Random) -> None:
    """The standby is promoted while the primary runs, whose waiting commits are cancelled and ended; then that ends."""
    pair = pair_of(stage)
    old = await promote(stage)
    await end_waits(stage, old, chance, seconds=chance.uniform(3, 8))
    await asyncio.to_thread(old.end)
    await stage.until_flowing(FOUND_SECONDS_MAX)
    await asyncio.to_thread(pair.rejoin)


@fault("failover after commits were told not to wait", arrangement=Arrangement.FAILOVER)
async def told_not_to_wait(stage: Stage, chance: random.Random) -> None:
    """The standby is away, waiting commits are cancelled and ended; then the primary dies and it takes over."""
    pair = pair_of(stage)
    await asyncio.to_thread(pair.standby.end)
    await end_waits(stage, pair.primary, chance, seconds=chance.uniform(3, 8))
    await lose_primary(stage)


@fault("failover after the standby was away for long", arrangement=Arrangement.FAILOVER, recovery_seconds_max=60)
async def away_for_long(stage: Stage, chance: random.Random) -> None:
    """The standby is away for longer than workers wait for a commit; then the primary dies, the standby takes over."""
    pair = pair_of(stage)
    await asyncio.to_thread(pair.standby.end)
    await until_one_waits(stage)
    await asyncio.sleep(PATIENCE_SECONDS + chance.uniform(0, 6))
    await lose_primary(stage)


@fault("standby killed", arrangement=Arrangement.FAILOVER)
async def standby_killed(stage: Stage, chance: random.Random) -> None:
    """SIGKILL to the standby: commits wait until it is back."""
    pair = pair_of(stage)
    await asyncio.to_thread(pair.standby.end)
    await until_one_waits(stage)
    await asyncio.sleep(chance.uniform(1, 6))
    await asyncio.to_thread(pair.rejoin, afresh=False)


@fault("standby frozen", arrangement=Arrangement.FAILOVER)
async def standby_frozen(stage: Stage, chance: random.Random) -> None:
    """SIGSTOP to the standby for some seconds: commits wait for it."""
    standby = pair_of(stage).standby
    await asyncio.to_thread(standby.host.freeze)
    try:
        await until_one_waits(stage)
        await asyncio.sleep(chance.uniform(2, 8))
    finally:
        await asyncio.to_thread(standby.host.thaw)


@fault("switch-over", arrangement=Arrangement.FAILOVER)
async def switch_over(stage: Stage, chance: random.Random) -> None:
    """The primary is shut down cleanly, its standby promoted, and the old one follows it as it is; and back."""
    pair = pair_of(stage)
    for _ in range(2):
        await asyncio.to_thread(pair.stop, "fast")
        await promote(stage)
        await stage.until_flowing(FOUND_SECONDS_MAX)
        await asyncio.to_thread(pair.rejoin, afresh=False)
        await asyncio.sleep(chance.uniform(0, 1))


@fault("switch-over, sessions kept", arrangement=Arrangement.FAILOVER)
async def demoted(stage: Stage, chance: random.Random) -> None:
    """The primary is made read-only under its sessions, its standby promoted: workers leave the one for the other."""
    pair = pair_of(stage)
    for statement in ("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"):
        await asyncio.to_thread(pair.execute, statement)
    await asyncio.sleep(chance.uniform(0.5, 3))
    old = await promote(stage)
    await stage.until_flowing(FOUND_SECONDS_MAX)
    assert old.host.is_running(), "the workers were not made to leave it by its end"
    await asyncio.to_thread(pair.rejoin)


async def until_one_waits(stage: Stage) -> None:
    """Until a worker's commit waits for the standby."""

    async def waits() -> bool:
        return bool(await stage.value(f"SELECT count(*) {WAITING}"))

    await until(waits, "a commit waits for the standby", details=stage.details)


async def end_waits(stage: Stage, node: Node, chance: random.Random, *, seconds: float) -> None:
    """For so long each commit of a worker that waits for a standby is cancelled or its session ended; at least one.

    They are looked for in the run's database on this node, which need not be the primary any more. The first are
    cancelled: a worker whose session ends learns without being told that its commit is worth nothing.

    Raises:
        TimeoutError: none waits.
    """
    database = await asyncpg.connect(stage.dsn_of(node.server), timeout=30)
    ended = 0
    try:
        until_at = monotonic() + seconds
        async with asyncio.timeout(FOUND_SECONDS_MAX):
            while monotonic() < until_at or not ended:
                ending = chance.choice(ENDINGS) if ended else CANCEL
                ended += await database.fetchval(f"SELECT count({ending}(pid)) {WAITING}")
                await asyncio.sleep(chance.uniform(0, 0.3))
    finally:
        database.terminate()


async def lose_primary(stage: Stage) -> None:
    """The primary dies while its standby does not run, which then takes its place with what it had."""
    pair = pair_of(stage)
    await asyncio.to_thread(pair.kill)
    await asyncio.to_thread(pair.standby.follow)
    await promote(stage)
    await stage.until_flowing(FOUND_SECONDS_MAX)
    await asyncio.to_thread(pair.rejoin)
