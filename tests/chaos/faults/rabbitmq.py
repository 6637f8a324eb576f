"""RabbitMQ restarts, crashes, stands still, is short of memory, and is operated upon."""

import asyncio
import random
from http.client import HTTPException
from urllib.parse import quote

import aio_pika
from harness.waiting import until

from chaos.faults.postgres import hold
from chaos.registry import NotHereError, fault
from chaos.stage import PRODUCERS, WORKERS, Stage
from worker.demo.processes import LocalProcess
from worker.demo.rabbitmq_server import find_script

# What a worker says of each.
CLOSED = "CONNECTION_FORCED"
LOST = "lost the broker"  # by the end of its channel (3.10), of its consumer (4.3), or since nothing came
NOT_LET_IN = "waiting for the broker"  # a worker, each time that its rights or its connection are not there
_KEPT, _MONITOR = "chaos_watermark", "vm_memory_monitor"


@fault("RabbitMQ restarted", recovery_seconds_max=60)
async def restart(stage: Stage, chance: random.Random) -> None:
    """Stopped cleanly and started again."""
    await asyncio.to_thread(stage.rabbitmq.stop)
    await asyncio.sleep(chance.uniform(0, 2))
    await asyncio.to_thread(stage.rabbitmq.start)


@fault("RabbitMQ killed", recovery_seconds_max=60)
async def kill(stage: Stage, chance: random.Random) -> None:
    """SIGKILL to every process of it."""
    await asyncio.sleep(chance.uniform(0, 1))
    await asyncio.to_thread(stage.rabbitmq.kill)
    await asyncio.sleep(chance.uniform(0, 2))
    await asyncio.to_thread(stage.rabbitmq.start)


@fault("RabbitMQ frozen")
async def freeze(stage: Stage, chance: random.Random) -> None:
    """SIGSTOP to every process of it for some seconds: connections stay open and nobody answers."""
    stage.rabbitmq.freeze()
    try:
        await asyncio.sleep(chance.uniform(3, 8))
    finally:
        stage.rabbitmq.thaw()


@fault("RabbitMQ connections closed by an operator")
async def close_connections(stage: Stage, chance: random.Random) -> None:
    """The workers' connections are closed at 10 random instants, the producers' at some of them."""
    said = stage.fleet.times_said(CLOSED)
    for _ in range(10):
        await _close(stage, WORKERS)
        if chance.random() < 0.3:
            await _close(stage, PRODUCERS)
        await asyncio.sleep(chance.uniform(0, 0.8))
    await stage.fleet.until_said(CLOSED, said)


# RabbitMQ 3.10 sometimes cancels nobody, or serves a consumer no more: workers notice that within 45 s where messages
# wait, and connect again. What it believes to have delivered comes with the end of the channel: once, therefore.
@fault("RabbitMQ queue deleted and declared again", mixes=False, recovery_seconds_max=90, broker_forgets=True)
async def delete_queue(stage: Stage, _: random.Random) -> None:
    """The empty queue is deleted under its consumers, and declared again at once: the broker cancels them."""
    said = stage.fleet.times_said(LOST)
    await stage.pause_producers()  # or the operator would delete messages
    try:
        await until(stage.is_whole, "everything is stored", seconds_max=60, details=stage.details)
        connection = await aio_pika.connect(stage.rabbitmq.amqp_url)
        async with connection, connection.channel() as channel:
            await channel.queue_delete(stage.settings.queue)
        await stage.declare()
    finally:
        stage.resume_producers()
    await stage.fleet.until_said(LOST, said, seconds_max=60)


@fault("RabbitMQ memory alarm")
async def memory_alarm(stage: Stage, chance: random.Random) -> None:
    """The broker is short of memory for some seconds: it takes no publishes."""
    # Kept where the broker runs: its default has changed with its versions.
    await _evaluate(stage, f"application:set_env(rabbit, {_KEPT}, {_MONITOR}:get_vm_memory_high_watermark()).")
    await _control(stage, "set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        await _until_alarm(stage, "mem_alarm")
        await asyncio.sleep(chance.uniform(2, 5))
    finally:
        kept = f"{{ok, Kept}} = application:get_env(rabbit, {_KEPT})"
        await _evaluate(stage, f"{kept}, {_MONITOR}:set_vm_memory_high_watermark(Kept).")


@fault("RabbitMQ disk alarm")
async def disk_alarm(stage: Stage, chance: random.Random) -> None:
    """The broker is short of disk for some seconds: it takes no publishes."""
    await _control(stage, "set_disk_free_limit", "100000GB")
    try:
        await _until_alarm(stage, "disk_free_alarm")
        await asyncio.sleep(chance.uniform(2, 5))
    finally:
        await _control(stage, "set_disk_free_limit", "50MB")


@fault("RabbitMQ consumer time-out", mixes=False, recovery_seconds_max=60)
async def consumer_timeout(stage: Stage, chance: random.Random) -> None:
    """Deliveries are held, because of a lock, for longer than the broker allows: it ends channels or consumers."""
    await _evaluate(stage, "application:set_env(rabbit, consumer_timeout, 2000).")
    await _evaluate(stage, "application:set_env(rabbit, channel_tick_interval, 1000).")
    try:
        await stage.workers_to_rabbitmq.cut()  # channels read their interval when they begin
        await stage.until_more_are_stored(300)
        await stage.fleet.until_up()
        said = stage.fleet.times_said(LOST)
        await hold(stage, "LOCK TABLE ai_usage_logs IN ACCESS EXCLUSIVE MODE", chance.uniform(6, 9))
        await stage.fleet.until_said(LOST, said)
    finally:
        await _evaluate(stage, "application:set_env(rabbit, consumer_timeout, 1800000).")
        await _evaluate(stage, "application:set_env(rabbit, channel_tick_interval, 60000).")


@fault("RabbitMQ user without rights for a while")
async def rights(stage: Stage, chance: random.Random) -> None:
    """The workers' rights are taken away and their connections closed; then they get them back."""
    path = f"/api/permissions/%2F/{WORKERS}"
    before = stage.fleet.times_said(NOT_LET_IN)

    async def is_felt() -> bool:
        await _close(stage, WORKERS)
        return stage.fleet.times_said(NOT_LET_IN) > before

    await asyncio.to_thread(stage.rabbitmq.manage, "DELETE", path)
    try:
        await stage.until_felt(is_felt, "a worker is not let in")
        await asyncio.sleep(chance.uniform(1, 4))
    finally:
        every = {"configure": ".*", "write": ".*", "read": ".*"}
        await asyncio.to_thread(stage.rabbitmq.manage, "PUT", path, every)


async def _close(stage: Stage, user: str) -> None:
    """Close a user's connections; the management API sees them with a delay, so it is asked for them by name."""
    manage = stage.rabbitmq.manage
    for connection in await asyncio.to_thread(manage, "GET", "/api/connections"):
        if connection.get("user") == user:
            try:
                await asyncio.to_thread(manage, "DELETE", f"/api/connections/{quote(connection['name'], safe='')}")
            except HTTPException:
                continue  # it has ended meanwhile


async def _until_alarm(stage: Stage, alarm: str) -> None:
    """Until the management API shows that the broker is short of it."""

    async def is_on() -> bool:
        nodes = await asyncio.to_thread(stage.rabbitmq.manage, "GET", "/api/nodes")
        return any(node.get(alarm) for node in nodes)

    await until(is_on, f"the broker has a {alarm}")


async def _evaluate(stage: Stage, expression: str) -> None:
    await _control(stage, "eval", expression)


async def _control(stage: Stage, *arguments: str) -> None:
    """Run `rabbitmqctl` on the broker.

    Raises:
        NotHereError: it is no local process.
    """
    host = stage.rabbitmq._host
    script = find_script()
    if script is None or not isinstance(host, LocalProcess):
        raise NotHereError("rabbitmqctl is run on a local process only")
    environment = {**host._environment, "RABBITMQ_LOGS": ""}
    await asyncio.to_thread(host._folder.run, [script.with_name("rabbitmqctl"), *arguments], environment)
