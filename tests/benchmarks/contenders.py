"""Who is measured, under which name, and how each is started. What runs in this process is in `inside.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.backlog import PropertiesOf, plain_properties
from benchmarks.peers import celery_protocol
from worker.settings import DeliveryPath

WORKER_SINGLE = "worker, one event a message"
WORKER_LIBRARY = "worker, one event a message, the AMQP library's delivery path"
WORKER_ARRAYS = "worker, 100 events a message"
COPY_ONE = "plain COPY, 1 connection"
ENCODING = "asyncpg's COPY encoding alone"
IDLE_AIO_PIKA = "do-nothing aio-pika consumer"
IDLE_AIORMQ = "do-nothing aiormq consumer"
SEED = "log_ai_usage() per event, 10 connections"
ARRAY_EVENTS = 100


def copy_name(connections: int) -> str:
    """Plain COPY by so many connections."""
    return COPY_ONE if connections == 1 else f"plain COPY, {connections} connections"


class Place(NamedTuple):
    """Where a contender works."""

    amqp_url: str
    exchange: str
    queue: str
    dsn: str


def unchanged(body: bytes) -> bytes:
    """The message as services publish it."""
    return body


@dataclass(slots=True, frozen=True)
class Peer:
    """Something that consumes a queue and writes the table, as processes of its own.

    Args:
        name: in tables and pictures.
        command: module and arguments.
        environment: beside what the process inherits.
        wrap: what the peer's own protocol makes of a body.
        properties_of: the properties that it wants.
        has_own_queue: whether messages in the peer's own protocol go to a queue of its own.
    """

    name: str
    command: Callable[[Place], list[str]]
    environment: Callable[[Place], Mapping[str, str]] = field(default=lambda _: {})
    wrap: Callable[[bytes], bytes] = unchanged
    properties_of: PropertiesOf = plain_properties
    has_own_queue: bool = False


def _peer_command(module: str) -> Callable[[Place], list[str]]:
    return lambda place: [f"benchmarks.peers.{module}", place.amqp_url, place.queue, place.dsn]


def _worker_environment(place: Place) -> dict[str, str]:
    return {
        "USAGE_AMQP_URL": place.amqp_url,
        "USAGE_POSTGRES_DSN": place.dsn,
        "USAGE_EXCHANGE": place.exchange,
        "USAGE_QUEUE": place.queue,
        "USAGE_HTTP_PORT": "0",
        "USAGE_LOG_FORMAT": "json",
    }


WORKER = Peer("worker", lambda _: ["worker", "run"], _worker_environment)
WORKER_BY_LIBRARY = Peer(
    WORKER_LIBRARY,
    WORKER.command,
    lambda place: _worker_environment(place) | {"USAGE_DELIVERY_PATH": DeliveryPath.LIBRARY},
)
FASTSTREAM = Peer("FastStream, one asyncpg INSERT a message", _peer_command("faststream_insert"))
EXECUTEMANY = Peer("aio-pika, executemany batches", _peer_command("executemany_batches"))
CELERY = Peer(
    "Celery with celery-batches, psycopg COPY",
    _peer_command("celery_copy"),
    wrap=celery_protocol.wrap,
    properties_of=celery_protocol.task_properties,
    has_own_queue=True,
)
