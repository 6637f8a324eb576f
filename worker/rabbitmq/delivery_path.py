"""Which way deliveries take, found by a test of the installed AMQP library at the start.

The frame reader stands on aiormq's extension point. Where another version of it does not work together with the reader,
the library's own path is used, and the operator is told.
"""

import asyncio
import inspect
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, version

from pamqp import commands, frame
from pamqp.body import ContentBody
from pamqp.frame import FrameTypes
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat
from usage_events.envelope import MESSAGE_BYTES_MAX

from worker.findings import Finding, ok, wrong
from worker.rabbitmq.frames import OnDeliveries, RawDelivery
from worker.settings import DeliveryPath, Settings

SELF_TEST_SECONDS_MAX = 5.0
_TOPIC = "RabbitMQ"
_BODY = b'{"id": 1}'
_CONTENT_TYPE = "application/json"


class Way(Enum):
    """How deliveries come; its value says so to an operator."""

    FAST = "the frame reader"
    LIBRARY = "the library's own path"
    BARE = "the library's own path, which cannot be paused"  # so the prefetch alone bounds what is held


@dataclass(slots=True, frozen=True)
class Ways:
    """What was found.

    Args:
        events: the way of the queue of events.
        dead: the way of the dead queue. The library cannot read every message, and what it cannot read ends there, so
            that the frame reader takes it wherever it works.
        problem: why the frame reader is not used; `None` where it works.
    """

    events: Way
    dead: Way
    problem: str | None = None


async def find_ways(settings: Settings) -> Ways:
    """Test the library that is installed, and decide."""
    problem = await transport_problem()
    if problem is not None:
        return Ways(Way.BARE, Way.BARE, problem)
    problem = await reader_problem()
    if problem is not None:
        return Ways(Way.LIBRARY, Way.LIBRARY, problem)
    return Ways(Way.FAST if settings.delivery_path is DeliveryPath.FAST else Way.LIBRARY, Way.FAST)


def prefetch_max(settings: Settings, way: Way) -> int:
    """The cap of the prefetch: where reading cannot be paused, only as many as may be held of the largest size."""
    held_messages_max = max(1, settings.held_bytes_max // MESSAGE_BYTES_MAX)
    return min(settings.prefetch, held_messages_max) if way is Way.BARE else settings.prefetch


async def inspect_delivery_path(settings: Settings) -> Finding:
    """For `usage-worker check`: the way that a worker would take, and why not the fast one."""
    ways = await find_ways(settings)
    if ways.problem is None:
        return ok(_TOPIC, f"deliveries come by {ways.events.value}, tested with {library_version()}")
    text = f"the frame reader does not work with {library_version()}: {ways.problem}"
    return wrong(_TOPIC, f"{text}: deliveries come by {ways.events.value}, slower", "install the versions of uv.lock")


def library_version() -> str:
    """The versions of what was tested."""
    return ", ".join(f"{name} {_version(name)}" for name in ("aiormq", "aio-pika", "pamqp"))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "of an unknown version"


async def transport_problem() -> str | None:
    """Is the extension point there, with the signature that is used, and do frames pass through our transport?"""
    try:
        from aiormq.connection import Connection, TransportFactory

        from worker.rabbitmq import transport  # noqa: F401 - it may not import where the library differs
    except (ImportError, AttributeError, TypeError) as error:
        return f"its extension point for transports is not as expected: {error}"
    if "transport_factory" not in inspect.signature(Connection.__init__).parameters:
        return "its connection takes no transport_factory"
    create = TransportFactory.create
    kinds = [parameter.kind for parameter in inspect.signature(create).parameters.values()]
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    if not inspect.iscoroutinefunction(create) or kinds != [positional, positional, inspect.Parameter.VAR_KEYWORD]:
        return f"TransportFactory.create has the signature {inspect.signature(create)}, not (self, url, **kwargs)"
    return await _problem_with(takes_deliveries=False)


async def reader_problem() -> str | None:
    """Does the frame reader take a delivery out of a stream, and leave the rest to the library?"""
    return await _problem_with(takes_deliveries=True)


async def _problem_with(*, takes_deliveries: bool) -> str | None:
    """A made-up stream passes through the transport's reader into the library's own receiver of frames."""
    taken: list[RawDelivery] = []
    try:
        async with asyncio.timeout(SELF_TEST_SECONDS_MAX):
            passed = await _pass(taken.extend if takes_deliveries else None)
    except Exception as error:  # noqa: BLE001 - whatever another version raises is what there is to tell
        return f"a test stream of frames failed: {type(error).__name__}: {error}"
    of_delivery = {"Basic.Deliver", "ContentHeader", "ContentBody"} if takes_deliveries else set()
    expected = [one.name for one, _ in _frames() if one.name not in of_delivery]
    if passed != expected:
        return f"of a test stream of frames the library saw {passed} instead of {expected}"
    properties = frame.marshal(_header(), 1)[19:-1]
    delivery = RawDelivery(1, 7, True, b"usage", b"usage.recorded", properties, _BODY)
    if taken != ([delivery] if takes_deliveries else []):
        return f"of a test stream of frames the frame reader made {taken} instead of {delivery}"
    return None


async def _pass(on_deliveries: OnDeliveries | None) -> list[str]:
    """The names of the frames that the library sees."""
    from aiormq.connection import FrameReceiver

    from worker.rabbitmq.transport import DeliveryReader

    inner = asyncio.StreamReader()
    inner.feed_data(b"".join(frame.marshal(one, channel) for one, channel in _frames()))
    inner.feed_eof()
    reader = DeliveryReader(inner, on_deliveries)
    return [received.name async for _, _, received in FrameReceiver(reader)]  # type: ignore[arg-type] # as in transport


def _header() -> ContentHeader:
    properties = commands.Basic.Properties(content_type=_CONTENT_TYPE, headers={"x-delivery-count": 1})
    return ContentHeader(body_size=len(_BODY), properties=properties)


def _frames() -> list[tuple[FrameTypes, int]]:
    """A delivery whose body comes in two frames, a heartbeat amid it, and a method behind it; each with its channel."""
    return [
        (commands.Basic.Deliver("consumer", 7, True, "usage", "usage.recorded"), 1),
        (_header(), 1),
        (ContentBody(_BODY[:4]), 1),
        (Heartbeat(), 0),
        (ContentBody(_BODY[4:]), 1),
        (commands.Basic.Ack(9), 1),
    ]
