"""The link to RabbitMQ: one connection with one confirming channel. aio-pika ends here, its errors too.

A link that is lost stays lost: `courier.py` opens another.
"""

import asyncio
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast
from urllib.parse import urlsplit

from usage_events.envelope import CONTENT_TYPE_JSON
from usage_events.errors import (
    AccessRefusedError,
    BrokerUnavailableError,
    ExchangeMissingError,
    MessageTooLargeError,
    RefusedError,
    UnroutableError,
    UsageEventsError,
)
from usage_events.ids import uuid7
from usage_events.silence import SILENCE_SECONDS_MAX, SilenceWatch
from usage_events.tls import AMQP, advice

if TYPE_CHECKING:
    from aio_pika.abc import AbstractConnection
    from aiormq import Channel

HEARTBEAT_SECONDS = 15
OPEN_TIMEOUT_SECONDS = 10
CLOSE_TIMEOUT_SECONDS = 5
SHORT_STRING_BYTES_MAX = 255  # AMQP writes a name's length in one byte

_ORGANIZATION_BYTES = len(".01234567-89ab-cdef-0123-456789abcdef")
# RabbitMQ's words, from 3.10 to 4.3.
_SIZE_LIMIT = re.compile(r"message size \d+ is larger than configured max size (\d+)")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """Where messages go, and who says so.

    Raises:
        ValueError: a part that no broker can take.
    """

    amqp_url: str
    exchange: str
    routing_key: str
    app_id: str | None
    by_organization: bool = False  # then routing keys go on with a dot and a UUID

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.amqp_url)
            usable = parts.scheme.lower() in {"amqp", "amqps"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:  # the URL may hold a password: it is not shown
            raise ValueError("amqp_url must look like amqp://user:password@host:5672/vhost, or begin with amqps://")
        if not self.exchange:
            raise ValueError("exchange is empty; name one, such as 'usage'")
        for name in ("exchange", "routing_key", "app_id"):
            size = len((getattr(self, name) or "").encode())
            if name == "routing_key" and self.by_organization:
                size += _ORGANIZATION_BYTES
            if size > SHORT_STRING_BYTES_MAX:
                raise ValueError(f"{name} is {size} bytes long; the limit is {SHORT_STRING_BYTES_MAX}")

    @property
    def broker(self) -> str:
        """The broker's address without the credentials."""
        parts = urlsplit(self.amqp_url)
        host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
        port = parts.port or (5671 if parts.scheme.lower() == "amqps" else 5672)
        return f"{parts.scheme}://{host}:{port}{parts.path}"


class Link:
    """A connection with a channel that confirms what it has taken."""

    def __init__(self, target: Target, connection: "AbstractConnection", channel: "Channel") -> None:
        self._target = target
        self._connection = connection
        self._channel = channel
        self._waiting: set[asyncio.Timeout] = set()
        self._loss: BaseException | None = None
        self._silence = SilenceWatch(channel.connection.ready, self._give_up)
        channel.closing.add_done_callback(self._release_waiting)

    @classmethod
    async def open(cls, target: Target) -> "Link":
        """A new link, tried once; the exchange must exist.

        Raises:
            BrokerUnavailableError: RabbitMQ does not answer.
            RefusedError: it answers, and refuses the user or does not know the exchange.
        """
        from aio_pika.connection import Connection, make_url

        # Made here, so that it is closed here, too, where it does not come about: aio-pika would begin to close it
        # whenever its memory is freed, which may be when the loop ends, and too late.
        connection = Connection(
            make_url(target.amqp_url, heartbeat=HEARTBEAT_SECONDS),
            client_properties={"connection_name": f"usage_events {target.app_id or ''}".rstrip()},
        )
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_SECONDS):
                await connection.connect()
                channel = connection.channel(publisher_confirms=True, on_return_raises=True)
                await channel.initialize()
                underlay = cast("Channel", await channel.get_underlay_channel())
                await underlay.exchange_declare(target.exchange, passive=True)
        except BaseException as error:
            await _close(connection)
            translated = _translate(error, target, lost=True)
            if translated is None:
                raise
            raise translated from error
        return cls(target, connection, underlay)

    @property
    def is_lost(self) -> bool:
        """Nothing can be published any more."""
        return self._loss is not None or self._channel.is_closed

    async def publish(self, body: bytes, routing_key: str, headers: Mapping[str, str] | None = None) -> None:
        """Returns when a queue holds the message for good.

        Raises:
            BrokerUnavailableError: it is not known to be held; publish it again.
            MessageTooLargeError: the broker is set to take smaller messages only.
            RefusedError: it came back, or the exchange is not there or may not be written to.
        """
        import aio_pika
        from aio_pika.exceptions import ChannelInvalidStateError

        message = aio_pika.Message(
            body,
            headers=dict(headers) if headers else None,
            content_type=CONTENT_TYPE_JSON,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            app_id=self._target.app_id,
            message_id=str(uuid7()),  # the channel tells by it which message came back
        )
        until_lost = asyncio.timeout(None)
        self._waiting.add(until_lost)
        self._silence.expect()
        try:
            async with until_lost:
                await self._channel.basic_publish(
                    body,
                    exchange=self._target.exchange,
                    routing_key=routing_key,
                    properties=message.properties,
                    mandatory=True,
                    wait=False,  # the confirmation is waited for, not the socket: many are under way at once
                )
        except BaseException as error:
            was_woken = isinstance(error, (TimeoutError, ChannelInvalidStateError))
            cause = self._loss if was_woken and self._loss is not None else error
            translated = _translate(cause, self._target, lost=self.is_lost, sent=_Sent(len(body), routing_key))
            if translated is None:
                raise
            raise translated from error
        finally:
            self._silence.hear()
            self._waiting.discard(until_lost)

    async def close(self, timeout_seconds: float = CLOSE_TIMEOUT_SECONDS) -> None:
        """Ends the connection; what is not confirmed by now is not known to be held."""
        self._silence.stop()
        await _close(self._connection, timeout_seconds)

    def _give_up(self) -> None:
        """The connection lives, and no confirmation comes: the messages go again on another."""
        _logger.warning(
            "RabbitMQ at %s has confirmed nothing for %d s; the messages that wait for it, %d now, go again on a new"
            " connection",
            self._target.broker, SILENCE_SECONDS_MAX, len(self._waiting),
        )  # fmt: skip
        self._end(TimeoutError(f"it has confirmed nothing for {SILENCE_SECONDS_MAX} s"))

    def _release_waiting(self, closing: "asyncio.Future[None]") -> None:
        """Wakes what waits to be written: aiormq rejects only what waits for its confirmation."""
        self._silence.stop()
        cause = None if closing.cancelled() else closing.exception()
        self._end(cause or ConnectionError("the connection was lost"))

    def _end(self, cause: BaseException) -> None:
        if self._loss is not None:
            return
        self._loss = cause
        now = asyncio.get_running_loop().time()
        for waiting in self._waiting:
            waiting.reschedule(now)


async def _close(connection: "AbstractConnection", timeout_seconds: float = CLOSE_TIMEOUT_SECONDS) -> None:
    try:
        async with asyncio.timeout(timeout_seconds):
            await connection.close()
    except TimeoutError:
        _logger.warning("RabbitMQ did not answer the end of the connection within %s s", timeout_seconds)
    finally:
        await connection.close()  # of one that was interrupted only the mark is left to be set, which waits for nothing


class _Sent(NamedTuple):
    """What an error says of the message that it is about."""

    size_bytes: int
    routing_key: str


def _translate(
    error: BaseException, target: Target, *, lost: bool, sent: _Sent | None = None
) -> UsageEventsError | None:
    """The project's error for what aio-pika raised; `None` for what is not the broker's doing."""
    from aio_pika.exceptions import DeliveryError

    if isinstance(error, asyncio.CancelledError) and _is_own_cancellation():
        return None
    refused = _too_large(error, target, sent) or _refusal(error, target, sent)
    if refused is not None:
        return refused
    if isinstance(error, DeliveryError):
        return BrokerUnavailableError(
            f"exchange {target.exchange!r} at {target.broker}: no room for the message now (nack); is the queue full?"
        )
    # What waits when a channel ends gets the cause, whatever that is: a bare `Exception`, even a cancellation.
    if lost and isinstance(error, (Exception, asyncio.CancelledError)):
        return BrokerUnavailableError(f"RabbitMQ at {target.broker} cannot be reached: {_cause(error, target)}")
    return None


def _too_large(error: BaseException, target: Target, sent: _Sent | None) -> UsageEventsError | None:
    """The broker closes the channel for one message that is too large; the others on it have only to go again."""
    from aio_pika.exceptions import ChannelPreconditionFailed

    found = _SIZE_LIMIT.search(str(error)) if isinstance(error, ChannelPreconditionFailed) else None
    if found is None or sent is None:
        return None
    limit = int(found[1])
    if sent.size_bytes <= limit:
        return BrokerUnavailableError(f"RabbitMQ at {target.broker} closed the channel for another message: {error}")
    return MessageTooLargeError(
        f"RabbitMQ at {target.broker} takes messages of at most {limit:,} bytes, and this one has"
        f" {sent.size_bytes:,}; raise its max_message_size",
        limit,
    )


def _refusal(error: BaseException, target: Target, sent: _Sent | None) -> RefusedError | None:
    from aio_pika import exceptions
    from aiormq.exceptions import ChannelAccessRefused

    where = f"exchange {target.exchange!r} at {target.broker}"
    match error:
        case exceptions.PublishError() if sent is not None:
            return UnroutableError(
                f"{where}: no queue is bound that takes {sent.routing_key!r}, so the message came back;"
                " start a worker or run `usage-worker check`"
            )
        case exceptions.ChannelNotFoundEntity():
            return ExchangeMissingError(f"{where} does not exist; start a worker or run `usage-worker check`")
        case ChannelAccessRefused():
            return AccessRefusedError(
                f"{where}: this user may not write to it ({error}); grant it, or run `usage-worker check`"
            )
        case exceptions.ProbableAuthenticationError() | exceptions.AuthenticationError():
            return AccessRefusedError(
                f"RabbitMQ at {target.broker} refuses the connection ({error}); check user and password"
            )
        case exceptions.ChannelPreconditionFailed():
            return RefusedError(f"{where} refuses the message ({error}); run `usage-worker check`")
    return None


def _is_own_cancellation() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _cause(error: BaseException, target: Target) -> str:
    from aio_pika.exceptions import InvalidFrameError

    told = advice(error, AMQP) if target.amqp_url.lower().startswith("amqps") else None
    if told is not None:
        return f"{error}: {told}"
    if isinstance(error, InvalidFrameError):  # aiormq's words for a connection that is closed before it is open
        return "it closed the new connection; does the vhost exist, and may this user enter it?"
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else "the connection was lost")
