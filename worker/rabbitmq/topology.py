"""Exchange, queues and bindings: declared by the worker, or found where someone else has declared them."""

from dataclasses import dataclass

from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AMQPConnectionError, ChannelClosed
from aiormq.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed
from pamqp.common import FieldValue

from worker.errors import SystemUnavailableError, TopologyError
from worker.settings import Settings, Topology

DELIVERY_LIMIT = 20
# -1 is taken by 3.10 as "drop at the first return": a number that is never reached says the same to every version.
DEAD_DELIVERY_LIMIT = 1_000_000_000


@dataclass(slots=True, frozen=True)
class QueueSpec:
    """A durable quorum queue."""

    name: str
    arguments: dict[str, FieldValue]


def main_queue(settings: Settings) -> QueueSpec:
    """The queue of events; what keeps failing moves to the dead queue, at least once."""
    return QueueSpec(
        settings.queue,
        {
            "x-queue-type": "quorum",
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": settings.dead_exchange,
            "x-dead-letter-routing-key": settings.queue,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    )


def dead_queue(settings: Settings) -> QueueSpec:
    """The safety net for messages that keep crashing consumers."""
    return QueueSpec(settings.dead_queue, {"x-queue-type": "quorum", "x-delivery-limit": DEAD_DELIVERY_LIMIT})


async def ensure_topology(connection: AbstractConnection, settings: Settings) -> None:
    """Declare everything, or check that it is there (`USAGE_TOPOLOGY=passive`).

    Raises:
        TopologyError: something is there with other properties.
        SystemUnavailableError: something is missing, or the broker went away.
    """
    passive = settings.topology is Topology.PASSIVE
    try:
        async with connection.channel() as channel:
            events = await channel.declare_exchange(settings.exchange, "topic", durable=True, passive=passive)
            dead = await channel.declare_exchange(settings.dead_exchange, "direct", durable=True, passive=passive)
            # The dead queue first: what is dead-lettered before its queue is bound would wait unseen.
            net = dead_queue(settings)
            spare = await channel.declare_queue(net.name, durable=True, passive=passive, arguments=net.arguments)
            if not passive:
                await spare.bind(dead, settings.queue)
            spec = main_queue(settings)
            queue = await channel.declare_queue(spec.name, durable=True, passive=passive, arguments=spec.arguments)
            if not passive:
                await queue.bind(events, settings.binding_key)
    except ChannelPreconditionFailed as error:
        raise TopologyError(
            f"RabbitMQ holds an exchange or queue of another kind: {error}. Delete it when it is empty, or set "
            f"USAGE_EXCHANGE and USAGE_QUEUE to other names, or USAGE_TOPOLOGY=passive to take it as it is"
        ) from error
    except ChannelNotFoundEntity as error:
        raise SystemUnavailableError(
            f"{error}: declare it, or let the worker do it with USAGE_TOPOLOGY=declare"
        ) from error
    except (ChannelClosed, AMQPConnectionError) as error:
        raise SystemUnavailableError(f"RabbitMQ refused to declare the topology: {error}") from error


async def remove_topology(connection: AbstractConnection, settings: Settings) -> None:
    """Delete what `ensure_topology` has declared, with everything in it; for throw-away names only."""
    async with connection.channel() as channel:
        for queue in (settings.queue, settings.dead_queue):
            await channel.queue_delete(queue)
        for exchange in (settings.exchange, settings.dead_exchange):
            await channel.exchange_delete(exchange)
