"""What `usage-worker check` looks at in RabbitMQ: server, exchanges, queues, whether dead letters arrive, the clock.

Nothing is changed but what the worker would declare anyway, and no message that could be an event is sent.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import cast

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue
from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    ConnectionNotAllowed,
    InvalidFrameError,
    ProbableAuthenticationError,
    PublishError,
)
from pamqp.common import FieldValue
from usage_events.tls import AMQP, advice
from yarl import URL

from worker.errors import SystemUnavailableError
from worker.findings import Finding, judge_clock, not_checked, ok, wrong
from worker.rabbitmq.connection import connect
from worker.rabbitmq.source import CLOSE_SECONDS_MAX
from worker.rabbitmq.topology import QueueSpec, dead_queue, main_queue
from worker.rabbitmq.unavailable import address, unavailable
from worker.settings import Settings, Topology

PROBE_APP_ID = "usage-worker check"  # with an empty body: the worker takes it from the dead queue and forgets it
PROBE_SECONDS_MAX = 60  # where no worker takes it, it vanishes by itself
LOOK_SECONDS_MAX = 10.0
LEADER_SECONDS_MAX = 7.0
VERSION_MIN = (3, 10)
_TOPIC = "RabbitMQ"
_PERMIT = "rabbitmqctl set_permissions gives the right, or set USAGE_TOPOLOGY=passive and declare it yourself"
_NO_LEADER = (
    "start the nodes that hold it; where they all run, as after a RabbitMQ 3.10 was killed right after the queue's"
    " declaration, nothing can be in it: delete it, and start a worker, which declares it anew"
)
_LOST = (AMQPError, OSError, TimeoutError, RuntimeError)
# The library expects no refusal where it opens the virtual host, and calls it a wrong frame.
_BAD_VIRTUAL_HOST = (ConnectionNotAllowed, InvalidFrameError)
_BAD_LOGIN = (AuthenticationError, ProbableAuthenticationError)


@dataclass(slots=True, frozen=True)
class _Exchange:
    name: str
    kind: str

    def __str__(self) -> str:
        return f"exchange {self.name}"

    @property
    def wanted(self) -> str:
        return f"declare a durable {self.kind} exchange {self.name}"

    async def declare(self, channel: AbstractChannel, *, passive: bool) -> str:
        await channel.declare_exchange(self.name, self.kind, durable=True, passive=passive)
        return self.kind


@dataclass(slots=True, frozen=True)
class _Queue:
    spec: QueueSpec

    def __str__(self) -> str:
        return f"queue {self.spec.name}"

    @property
    def wanted(self) -> str:
        return f"declare a durable queue {self.spec.name} with the arguments {json.dumps(self.spec.arguments)}"

    async def declare(self, channel: AbstractChannel, *, passive: bool) -> str:
        found = await channel.declare_queue(
            self.spec.name, durable=True, passive=passive, arguments=self.spec.arguments
        )
        counts = found.declaration_result
        return f"messages ready: {counts.message_count or 0:,}, consumers: {counts.consumer_count or 0:,}"

    async def is_led(self, channel: AbstractChannel) -> bool:
        """Whether a leader answers: a queue without one is declared and counted as an empty one is (3.10, tried).

        Only a queue that seems to be empty and unused is asked for a message. One that comes just then goes back.
        """
        queue = await channel.declare_queue(self.spec.name, durable=True, passive=True)
        counts = queue.declaration_result
        if counts.message_count or counts.consumer_count:
            return True
        try:
            message = await queue.get(fail=False, timeout=LEADER_SECONDS_MAX)
        except TimeoutError:
            return False
        except ChannelAccessRefused:
            return True  # not known: this user may not read it
        if message is not None:
            await message.nack(requeue=True)
        return True


_Look = Callable[[AbstractConnection, Settings], Awaitable[Finding]]


async def inspect_rabbitmq(settings: Settings, report: Callable[[Finding], None]) -> None:
    """Looks at everything, whatever fails, and reports each finding at once."""
    try:
        connection = await connect(settings, PROBE_APP_ID)
    except SystemUnavailableError as error:
        report(wrong(_TOPIC, str(error).removeprefix("RabbitMQ at "), _remedy(error.__cause__, settings)))
        return
    report(_server(connection, settings))
    pieces: list[_Exchange | _Queue] = [
        _Exchange(settings.exchange, "topic"),
        _Queue(main_queue(settings)),
        _Exchange(settings.dead_exchange, "direct"),
        _Queue(dead_queue(settings)),
    ]
    looks: list[_Look] = [*(partial(_piece, piece) for piece in pieces), _binding, _dead_letters_arrive, _clock]
    for look in looks:
        try:
            async with asyncio.timeout(LOOK_SECONDS_MAX):
                report(await look(connection, settings))
        except _LOST as error:
            report(wrong(_TOPIC, str(unavailable(settings, error)).removeprefix("RabbitMQ at ")))
    try:
        async with asyncio.timeout(CLOSE_SECONDS_MAX):
            await connection.close()
    except _LOST as error:
        report(wrong(_TOPIC, f"the connection did not close: {error!r}", "look at the server's log"))


def _remedy(cause: BaseException | None, settings: Settings) -> str:
    if isinstance(cause, _BAD_LOGIN):
        return "set user and password in USAGE_AMQP_URL"
    if isinstance(cause, _BAD_VIRTUAL_HOST):
        return "create the virtual host and let the user in, or name another in USAGE_AMQP_URL"
    is_encrypted = URL(settings.amqp_url.get_secret_value()).scheme == "amqps"
    if is_encrypted and cause is not None and advice(cause, AMQP):
        return ""  # the error has it already
    return "start RabbitMQ, or set USAGE_AMQP_URL"


def _server(connection: AbstractConnection, settings: Settings) -> Finding:
    url = URL(settings.amqp_url.get_secret_value())
    transport = connection.transport
    properties = transport.connection.server_properties if transport is not None else {}
    product, version = (str(properties.get(key, "unknown")) for key in ("product", "version"))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    security = "with TLS" if url.scheme == "amqps" else "without TLS"
    where = f"connected to {address(url)} as {url.user or 'guest'} {security}"
    if numbers < VERSION_MIN:
        wanted = ".".join(map(str, VERSION_MIN))
        return wrong(_TOPIC, f"{where}, version {version}; the oldest that works is {wanted}", "upgrade RabbitMQ")
    return ok(_TOPIC, f"{where}, {product} {version}")


async def _piece(piece: _Exchange | _Queue, connection: AbstractConnection, settings: Settings) -> Finding:
    """Is it there, and as this version declares it?"""
    try:
        async with connection.channel() as channel:
            found = await piece.declare(channel, passive=True)
            if isinstance(piece, _Queue) and not await piece.is_led(channel):
                return wrong(_TOPIC, f"{piece} has no leader: nobody can publish to it or consume", _NO_LEADER)
    except ChannelNotFoundEntity:
        if settings.topology is Topology.DECLARE:
            return ok(_TOPIC, f"{piece} is not there yet; the worker declares it at its start")
        return wrong(_TOPIC, f"{piece} is missing", f"{piece.wanted}, or set USAGE_TOPOLOGY=declare")
    except ChannelAccessRefused as error:
        return wrong(_TOPIC, f"{piece} cannot be looked at: {error}", "rabbitmqctl set_permissions gives the right")
    return await _arguments(piece, found, connection, settings)


async def _arguments(
    piece: _Exchange | _Queue, found: str, connection: AbstractConnection, settings: Settings
) -> Finding:
    """Declaring what is there changes nothing, and is refused where it is there with other arguments."""
    try:
        async with connection.channel() as channel:
            await piece.declare(channel, passive=False)
    except ChannelPreconditionFailed as error:
        remedy = f"delete it once it is empty and unused, and {piece.wanted}"
        return wrong(_TOPIC, f"{piece} is not as this version declares it: {error}", remedy)
    except ChannelAccessRefused as error:
        if settings.topology is Topology.DECLARE:
            return wrong(_TOPIC, f"{piece} cannot be declared by the worker: {error}", _PERMIT)
        return ok(_TOPIC, f"{piece}: {found}; arguments not checked: this user may not declare it")
    return ok(_TOPIC, f"{piece}: {found}")


async def _binding(connection: AbstractConnection, settings: Settings) -> Finding:
    """AMQP tells no bindings; where the worker is the one to bind, binding again changes nothing."""
    what = f"the binding of queue {settings.queue} to exchange {settings.exchange} with {settings.binding_key}"
    if settings.topology is Topology.PASSIVE:
        return not_checked(_TOPIC, f"{what}: USAGE_TOPOLOGY=passive leaves it to others")
    try:
        async with connection.channel() as channel:
            queue: AbstractQueue = await channel.get_queue(settings.queue, ensure=False)
            await queue.bind(settings.exchange, settings.binding_key)
    except ChannelNotFoundEntity:
        return ok(_TOPIC, f"{what} is not there yet; the worker makes it at its start")
    except ChannelAccessRefused as error:
        return wrong(_TOPIC, f"{what} cannot be made by the worker: {error}", _PERMIT)
    return ok(_TOPIC, f"{what} is there")


async def _dead_letters_arrive(connection: AbstractConnection, settings: Settings) -> Finding:
    """A probe goes the way of a dead letter: where the exchange routes it nowhere, it comes back."""
    way = f"exchange {settings.dead_exchange} with routing key {settings.queue}"
    probe = aio_pika.Message(b"", app_id=PROBE_APP_ID, expiration=PROBE_SECONDS_MAX)
    try:
        async with connection.channel(on_return_raises=True) as channel:
            exchange = await channel.get_exchange(settings.dead_exchange, ensure=False)
            await exchange.publish(probe, routing_key=settings.queue, mandatory=True)
    except PublishError:
        bind = f"bind queue {settings.dead_queue} to {way}"
        remedy = bind if settings.topology is Topology.PASSIVE else f"start a worker, which binds it, or {bind}"
        return wrong(_TOPIC, f"{way} routes nowhere: dead messages would wait unseen", remedy)
    except ChannelNotFoundEntity:
        return not_checked(_TOPIC, f"whether dead letters arrive: there is no exchange {settings.dead_exchange} yet")
    except ChannelAccessRefused:
        return not_checked(
            _TOPIC, f"whether dead letters arrive: this user may not publish to {settings.dead_exchange}"
        )
    return ok(_TOPIC, f"{way} routes to a queue")


async def _clock(connection: AbstractConnection, _: Settings) -> Finding:
    """AMQP tells no time, but a dead letter bears the second in which it died: one is let die at once."""
    died: asyncio.Future[datetime] = asyncio.get_running_loop().create_future()

    async def receive(message: AbstractIncomingMessage) -> None:
        if not died.done():
            deaths = cast("list[dict[str, datetime]]", message.headers["x-death"])
            died.set_result(deaths[0]["time"])

    begun_at = datetime.now(UTC)
    try:
        async with connection.channel() as channel:
            target = await channel.declare_queue(exclusive=True, auto_delete=True)
            await target.consume(receive, no_ack=True)
            arguments: dict[str, FieldValue] = {
                "x-message-ttl": 0,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": target.name,
            }
            grave = await channel.declare_queue(exclusive=True, auto_delete=True, arguments=arguments)
            begun_at = datetime.now(UTC)
            await channel.default_exchange.publish(aio_pika.Message(b"", app_id=PROBE_APP_ID), routing_key=grave.name)
            second = await died
            ended_at = datetime.now(UTC)
    except ChannelAccessRefused:
        return not_checked(_TOPIC, "the server's clock: this user may not declare queues of its own")
    ahead_seconds_min = (second - ended_at).total_seconds()
    return judge_clock(_TOPIC, "the server's", ahead_seconds_min, (second - begun_at).total_seconds() + 1)
