"""A cluster of three RabbitMQ nodes loses some of them, or falls apart.

The queue and its dead queue have a member on each node, as a worker declares them. Clients come through a load
balancer, which passes over nodes that refuse.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http.client import HTTPException
from typing import Any

from harness.waiting import until

from chaos.arrangement import Arrangement
from chaos.cluster import PARTITION_HANDLING, TICK_SECONDS, Cluster, Node, Queue
from chaos.proxy import Proxy
from chaos.registry import NotHereError, fault
from chaos.stage import PRODUCERS, WORKERS, Stage

_CLUSTER: dict[str, Any] = {"arrangement": Arrangement.CLUSTER, "mixes": False, "recovery_seconds_max": 60}
_AWAY = (OSError, HTTPException)
# The nodes notice after the tick time and a quarter of it; then the others go on for a while without it.
APART_SECONDS = (2.0 * TICK_SECONDS, 4.0 * TICK_SECONDS)
SHORTLY_APART_SECONDS = (0.2 * TICK_SECONDS, 0.7 * TICK_SECONDS)
NOTICED_SECONDS_MAX = FLOWING_SECONDS_MAX = 60.0
ON_ITS_WAY_SECONDS = 2.0  # a confirmation, at most
ALL_ON_ONE_SIDE = 0.7  # of the partitions begin with every client on the leader's node


@fault("queue leader killed", **_CLUSTER)
async def kill_leader(stage: Stage, chance: random.Random) -> None:
    """SIGKILL to the node that leads the queue, twice: another leads it, and the node comes back later."""
    async with _whole(stage) as cluster:
        for _ in range(2):
            leader = await _leader(stage, cluster)
            await asyncio.to_thread(leader.kill)
            await _until_led_by_another(stage, cluster, leader)
            await stage.until_flowing(FLOWING_SECONDS_MAX)
            await asyncio.sleep(chance.uniform(0, 3))
            await _start(stage, cluster)


@fault("queue follower killed", **_CLUSTER)
async def kill_follower(stage: Stage, chance: random.Random) -> None:
    """SIGKILL to a node that does not lead the queue; it comes back later."""
    async with _whole(stage) as cluster:
        leader = await _leader(stage, cluster)
        follower = chance.choice(cluster.others(leader))
        await asyncio.to_thread(follower.kill)
        await _until_seen(stage, leader, lambda queue: follower.name not in queue.online)
        await stage.until_flowing(FLOWING_SECONDS_MAX)
        await _start(stage, cluster)


@fault("queue leader frozen", **_CLUSTER)
async def freeze_leader(stage: Stage, chance: random.Random) -> None:
    """SIGSTOP to the node that leads the queue, connections stay open; another leads; SIGCONT."""
    async with _whole(stage) as cluster:
        leader = await _leader(stage, cluster)
        await asyncio.to_thread(leader.freeze)
        try:
            await _until_led_by_another(stage, cluster, leader)
            await asyncio.sleep(chance.uniform(0, TICK_SECONDS))
        finally:
            await asyncio.to_thread(leader.thaw)
        # For its clients it goes on where it stood. 3.10 does not notice that the others have gone on without it, and
        # neither pauses nor joins them (tried).
        await _meet_again(stage, cluster, leader, chance)


@fault("two of three RabbitMQ nodes killed", **_CLUSTER)
async def kill_majority(stage: Stage, chance: random.Random) -> None:
    """SIGKILL to two nodes: the queue has no majority and takes nothing until one of them is back."""
    async with _whole(stage) as cluster:
        lost = chance.sample(cluster.nodes, 2)
        for node in lost:
            await asyncio.to_thread(node.kill)
        assert all(node.refuses() for node in lost)
        await asyncio.sleep(ON_ITS_WAY_SECONDS)
        before = _confirmations(stage)
        await asyncio.sleep(chance.uniform(1, 2.0 * TICK_SECONDS))
        assert _confirmations(stage) == before, "something was confirmed without a majority"
        await asyncio.to_thread(lost[-1].start)
        await stage.until_flowing(FLOWING_SECONDS_MAX)
        await _start(stage, cluster)


@fault("all RabbitMQ nodes killed", **_CLUSTER)
async def kill_all(stage: Stage, chance: random.Random) -> None:
    """SIGKILL to all three at once; they are started again together."""
    async with _whole(stage) as cluster:
        await asyncio.to_thread(cluster.kill)
        assert all(node.refuses() for node in cluster.nodes)
        await asyncio.sleep(chance.uniform(0, 3))
        await asyncio.to_thread(cluster.start)
        await stage.until_flowing(FLOWING_SECONDS_MAX)


@fault("RabbitMQ nodes restarted one by one", **_CLUSTER)
async def restart_rolling(stage: Stage, chance: random.Random) -> None:
    """Each node is stopped cleanly and started, the next once all members of the queues are online again."""
    async with _whole(stage) as cluster:
        leaders = {await _leader(stage, cluster)}
        for node in chance.sample(cluster.nodes, len(cluster.nodes)):
            await asyncio.to_thread(node.stop)
            assert node.refuses()
            await _start(stage, cluster)
            leaders.add(await _leader(stage, cluster))
        assert len(leaders) > 1, "the leader was stopped, and leads"


@fault("queue leader cut off, and pauses", **_CLUSTER)
async def part_paused(stage: Stage, chance: random.Random) -> None:
    """No way between the leader's node and the two others for longer than the tick time, nobody is told; it pauses."""
    if _cluster(stage).joins_by_itself:
        raise NotHereError("this RabbitMQ pauses no node: Khepri is enabled")
    async with _whole(stage) as cluster:
        async with _parted(stage, cluster, chance) as alone:
            # It finds itself in the minority, and closes its listeners and connections.
            await _until_led_by_another(stage, cluster, alone)
            await until(
                lambda: asyncio.to_thread(alone.refuses),
                f"{alone.name} pauses",
                seconds_max=NOTICED_SECONDS_MAX,
                details=stage.details,
            )
            await stage.until_flowing(FLOWING_SECONDS_MAX)  # on the other side
            await asyncio.sleep(chance.uniform(*APART_SECONDS))
        await stage.until_flowing(FLOWING_SECONDS_MAX)


@fault("queue leader cut off, and goes on", **_CLUSTER)
async def part_ignored(stage: Stage, chance: random.Random) -> None:
    """No way between the leader's node and the two others; it keeps its listeners and its clients (`ignore`)."""
    async with _whole(stage) as cluster, _with_handling(cluster, "ignore"):
        async with _parted(stage, cluster, chance) as alone:
            await _until_led_by_another(stage, cluster, alone)
            await asyncio.sleep(chance.uniform(*APART_SECONDS))
            assert not alone.refuses(), "it has paused"
        await _meet_again(stage, cluster, alone, chance)


@fault("queue leader cut off for a moment", **_CLUSTER)
async def part_shortly(stage: Stage, chance: random.Random) -> None:
    """No way between the leader's node and the two others, three times, too shortly for them to notice."""
    async with _whole(stage) as cluster:
        for _ in range(3):
            async with _parted(stage, cluster, chance):
                await asyncio.sleep(chance.uniform(*SHORTLY_APART_SECONDS))
            await stage.until_flowing(FLOWING_SECONDS_MAX)


@fault("workers started on a node that is cut off", **_CLUSTER)
async def start_apart(stage: Stage, chance: random.Random) -> None:
    """Workers are killed, and others started, on a node with no way to the two others: they leave it for those."""
    async with _whole(stage) as cluster, _with_handling(cluster, "ignore"):
        async with _parted(stage, cluster, chance) as alone:
            await _until_led_by_another(stage, cluster, alone)
            proxy = stage.workers_to_rabbitmq
            await proxy.tell(prefers=alone.port)
            try:
                await stage.fleet.kill_all()
                await stage.fleet.scale(2)
                await until(lambda: _has_links(proxy), "workers connect", seconds_max=60, details=stage.details)
                assert not alone.refuses(), "nobody is connected to the node that is cut off"
            finally:
                await proxy.tell(prefers=0)
            await stage.fleet.until_up(NOTICED_SECONDS_MAX)
            await stage.until_flowing(2 * FLOWING_SECONDS_MAX)  # past the watch for a consumer that gets nothing
        await _meet_again(stage, cluster, alone, chance)


def _confirmations(stage: Stage) -> int:
    """How many the producers have by now."""
    return sum(path.read_bytes().count(b"confirmed ") for path in stage.producers_ledgers)


async def _has_links(proxy: Proxy) -> bool:
    return bool((await proxy.tell())["links"])


def _cluster(stage: Stage) -> Cluster:
    cluster = stage.rabbitmq
    assert isinstance(cluster, Cluster)
    return cluster


@asynccontextmanager
async def _whole(stage: Stage) -> AsyncIterator[Cluster]:
    """The cluster, whose nodes are all members of both queues; at the end they are again, by themselves."""
    cluster = _cluster(stage)
    await _until_whole(stage, cluster)
    yield cluster
    await _until_whole(stage, cluster)


async def _meet_again(stage: Stage, cluster: Cluster, node: Node, chance: random.Random) -> None:
    """The others have gone on without it: both sides meet, with clients at both, and an operator restarts it."""
    await asyncio.sleep(chance.uniform(0, 2.0 * TICK_SECONDS))
    if not cluster.joins_by_itself:
        await asyncio.to_thread(node.restart)
    await stage.until_flowing(FLOWING_SECONDS_MAX)


@asynccontextmanager
async def _parted(stage: Stage, cluster: Cluster, chance: random.Random) -> AsyncIterator[Node]:
    """The queue's leader reaches no other node; mostly it is the one that every client is connected to."""
    alone = await _leader(stage, cluster)
    if chance.random() < ALL_ON_ONE_SIDE:
        await _connect_all_to(stage, cluster, alone)
    held = cluster.held()
    await asyncio.to_thread(cluster.part, alone)
    try:
        yield alone
    finally:
        await asyncio.to_thread(cluster.heal)
    assert cluster.held() > held, "nothing was held back between the nodes"


@asynccontextmanager
async def _with_handling(cluster: Cluster, handling: str) -> AsyncIterator[None]:
    """`cluster_partition_handling` on every node."""
    expression = "application:set_env(rabbit, cluster_partition_handling, {})."
    await _evaluate(cluster, expression.format(handling))
    try:
        yield
    finally:
        await _evaluate(cluster, expression.format(PARTITION_HANDLING))


async def _evaluate(cluster: Cluster, expression: str) -> None:
    await asyncio.gather(*(asyncio.to_thread(node.evaluate, expression) for node in cluster.nodes))


async def _connect_all_to(stage: Stage, cluster: Cluster, node: Node) -> None:
    """The load balancers send all clients there, once."""
    proxies = (stage.workers_to_rabbitmq, stage.producers_to_rabbitmq)
    for proxy in proxies:
        await proxy.tell(prefers=node.port, cut=True)

    async def all_are_there() -> bool:
        try:
            found = await asyncio.to_thread(cluster.manage, "GET", "/api/connections")
        except _AWAY:
            return False
        by_user = {user: {one["node"] for one in found if one.get("user") == user} for user in (WORKERS, PRODUCERS)}
        return all(nodes == {node.name} for nodes in by_user.values())

    try:
        await until(all_are_there, f"all clients are connected to {node.name}", seconds_max=60, details=stage.details)
        await stage.until_more_are_stored(100)
    finally:
        for proxy in proxies:
            await proxy.tell(prefers=0)


async def _leader(stage: Stage, cluster: Cluster) -> Node:
    """The node that leads the queue."""
    queue = await _until_seen(stage, cluster.nodes[0], lambda queue: bool(queue.leader))
    return cluster.named(queue.leader)


async def _until_led_by_another(stage: Stage, cluster: Cluster, node: Node) -> None:
    """Until another node leads the queue, and says so."""
    other = cluster.others(node)[0]
    await _until_seen(stage, other, lambda queue: queue.leader not in {"", node.name})


async def _until_seen(stage: Stage, node: Node, condition: Callable[[Queue], bool]) -> Queue:
    """Until the queue is so in this node's eyes; how it is then."""
    seen: list[Queue] = []

    async def is_so() -> bool:
        try:
            seen[:] = [await asyncio.to_thread(node.queue, stage.settings.queue)]
        except _AWAY:
            return False
        return condition(seen[0])

    await until(
        is_so,
        "the queue's members have changed",
        seconds_max=NOTICED_SECONDS_MAX,
        details=lambda: f"{seen}\n{stage.details()}",
    )
    return seen[0]


async def _start(stage: Stage, cluster: Cluster) -> None:
    """Start those that do not run; returns when they are members again."""
    await asyncio.to_thread(cluster.start)
    await _until_whole(stage, cluster)


async def _until_whole(stage: Stage, cluster: Cluster) -> None:
    await asyncio.to_thread(cluster.wait_until_whole, stage.settings.queue, stage.settings.dead_queue)
