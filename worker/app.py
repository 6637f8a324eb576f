"""The composition root: the only place that knows both the pipeline and the adapters."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from prometheus_client import disable_created_metrics
from usage_events.contract import FieldError, Reason, Refusal
from usage_events.rules import Window

from worker.clock import Clock
from worker.dead_letters.ceiling import Ceiling
from worker.decode import WHOLE_MESSAGE, Decoded, Reject, decode
from worker.delivery import Delivery
from worker.errors import ConfigurationError, UsageWorkerError
from worker.heal import Healer
from worker.http import serve
from worker.metrics import Metrics
from worker.pipeline import Pipeline, PipelineOptions
from worker.postgres.dead_letters.carry import CarryOptions
from worker.postgres.dead_letters.census import PostgresCensus
from worker.postgres.dead_letters.heal import PostgresHealing
from worker.postgres.store import PostgresStore, Shared
from worker.pulse import Pulse
from worker.rabbitmq.delivery_path import Ways, find_ways, library_version, prefetch_max
from worker.rabbitmq.inspect import PROBE_APP_ID
from worker.rabbitmq.source import RabbitSource
from worker.rabbitmq.topology import DELIVERY_LIMIT
from worker.settings import Settings
from worker.store import Store
from worker.watch import Watch

if TYPE_CHECKING:
    from worker.trace_export import TraceExport

log = structlog.get_logger(__name__)

# A process that is told twice, or that takes longer than it may, leaves what it holds to others.
EXIT_CLEAN = 0
EXIT_GAVE_BACK = 1
FLUSH_SECONDS_MAX = 1.0  # of USAGE_SHUTDOWN_TIMEOUT, for the last spans
LEAVE_SECONDS_MAX = 1.5  # beside the 8 s of USAGE_SHUTDOWN_TIMEOUT less than the 10 s after which Docker kills


class Part(Protocol):
    """What runs until it is stopped."""

    async def run(self) -> None:
        """Run until `stop`."""

    def stop(self) -> None:
        """Let `run` end."""


def worker_name() -> str:
    """How this worker shows in logs, connections and dead letters."""
    return f"{socket.gethostname()}:{os.getpid()}"


def decode_delivery(delivery: Delivery, window: Window) -> Decoded:
    """The decoder of the queue of events."""
    properties = delivery.properties
    return decode(delivery.body, properties.content_type, properties.content_encoding, window)


def keep_undecoded(delivery: Delivery, _: Window) -> Decoded:
    """The decoder of the dead queue: what crashed the decoder there would crash it again, so nothing is decoded.

    A probe of `usage-worker check` holds no event, and is no letter.
    """
    if not delivery.body and delivery.properties.app_id == PROBE_APP_ID:
        return Decoded([], range(0), [])
    message = f"was handed out more than {DELIVERY_LIMIT} times without being acknowledged"
    refusal = Refusal(Reason.DELIVERY_LIMIT, [FieldError(field="", message=message, input=None)])
    return Decoded([], range(0), [Reject(WHOLE_MESSAGE, delivery.body, refusal)])


def build_pipelines(
    settings: Settings, metrics: Metrics, clock: Clock, ways: Ways, traces: "TraceExport | None" = None
) -> list[Pipeline]:
    """The pipeline of events, and the one that drains the dead queue into the dead letters."""
    name = worker_name()
    shared = Shared(Ceiling(settings.dead_letter_bytes_max))

    def store() -> PostgresStore:
        dsn = settings.postgres_dsn.get_secret_value()
        return PostgresStore(dsn, settings.postgres_schema, worker=name, shared=shared, utcnow=clock.utcnow)

    def writer() -> Store:
        return store() if traces is None else traces.around(store())

    options = PipelineOptions(
        batch_events_max=settings.batch_max_events,
        batch_bytes_max=settings.held_bytes_max // (settings.writers + 2),
        batch_age_seconds_max=settings.batch_max_age,
        held_bytes_max=settings.held_bytes_max,
        prefetch_max=prefetch_max(settings, ways.events),
        max_age_seconds=settings.max_age,
        max_ahead_seconds=settings.max_ahead,
    )
    events = Pipeline(
        source=RabbitSource(settings, queue=settings.queue, name=f"usage-worker {name}", way=ways.events),
        stores=[writer() for _ in range(settings.writers)],
        probe=store(),
        decoder=decode_delivery,
        clock=clock,
        options=options,
        metrics=metrics,
    )
    drain = Pipeline(
        source=RabbitSource(settings, queue=settings.dead_queue, name=f"usage-worker {name} dead queue", way=ways.dead),
        stores=[writer()],
        probe=store(),
        decoder=keep_undecoded,
        clock=clock,
        options=PipelineOptions(
            batch_events_max=1,
            batch_bytes_max=options.batch_bytes_max,
            batch_age_seconds_max=options.batch_age_seconds_max,
            held_bytes_max=options.held_bytes_max,
            prefetch_max=1,
            max_age_seconds=options.max_age_seconds,
            max_ahead_seconds=options.max_ahead_seconds,
        ),
        metrics=metrics,
    )
    return [events, drain]


def build_healer(settings: Settings) -> Healer:
    """What replays the letters of users and organizations that came late."""
    options = CarryOptions(
        worker_name(), max_age_seconds=settings.max_age, max_ahead_seconds=settings.max_ahead, action="healed"
    )
    return Healer(PostgresHealing(settings.postgres_dsn.get_secret_value(), settings.postgres_schema, options))


def build_watch(settings: Settings, metrics: Metrics, clock: Clock) -> Watch:
    """What counts the open letters, and looks at the clock."""
    dsn = settings.postgres_dsn.get_secret_value()
    name = f"usage-worker {worker_name()} watch"
    return Watch(PostgresCensus(dsn, settings.postgres_schema, name=name), metrics, clock)


def build_pulse(settings: Settings, events: Pipeline) -> Pulse:
    """What asks for the database while there are no events."""
    dsn = settings.postgres_dsn.get_secret_value()
    store = PostgresStore(dsn, settings.postgres_schema, worker=f"{worker_name()} pulse")
    return Pulse(store, events.outage, held=events.held)


async def run(settings: Settings) -> int:
    """Run the worker until a signal; the exit status.

    Raises:
        UsageWorkerError: what no waiting mends.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for each counter, which nobody asked for
    metrics = Metrics()
    clock = Clock()
    ways = await find_ways(settings)
    if ways.problem is not None:
        log.warning(
            "the frame reader does not work with the AMQP library that is installed: deliveries come slower",
            found=library_version(),
            why=ways.problem,
            way=ways.events.value,
        )
    async with _traces(settings) as traces:
        return await _run(settings, metrics, clock, build_pipelines(settings, metrics, clock, ways, traces))


async def _run(settings: Settings, metrics: Metrics, clock: Clock, pipelines: Sequence[Pipeline]) -> int:
    events = pipelines[0]

    def why_not_ready() -> str | None:
        return None if events.is_consuming else events.state.value

    metrics.writers.set(settings.writers)
    metrics.ready.set_function(lambda: float(events.is_consuming))
    metrics.tasks.set_function(lambda: float(len(asyncio.all_tasks())))
    metrics.database_clock_ahead_seconds.set_function(lambda: clock.ahead_seconds)

    async with serve(
        settings.http_host, settings.http_port, registry=metrics.registry, why_not_ready=why_not_ready
    ) as port:
        log.info("listening", host=settings.http_host, port=port)
        healers = [build_healer(settings)] if settings.self_heal else []
        parts: list[Part] = [*pipelines, *healers, build_watch(settings, metrics, clock), build_pulse(settings, events)]
        return await _until_stopped(parts, settings.shutdown_timeout - _flush_seconds_max(settings))


@asynccontextmanager
async def _traces(settings: Settings) -> AsyncIterator["TraceExport | None"]:
    """Where spans go, if they are wanted; without, nothing of OpenTelemetry is loaded.

    Raises:
        ConfigurationError: they are wanted, and cannot be had.
    """
    if not settings.traces:
        yield None
        return
    try:
        from worker.trace_export import TraceExport
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"USAGE_TRACES is on, and there is no module {error.name!r}: install usage-worker[otel], or unset it"
        ) from error
    traces = TraceExport.start(worker_name())
    try:
        yield traces
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):  # everything is settled: it takes a second, and ends as it was
            asyncio.get_running_loop().add_signal_handler(number, log.info, "already stopping")
        await traces.close(_flush_seconds_max(settings))


def _flush_seconds_max(settings: Settings) -> float:
    """The part of the time for stopping that is kept for the last spans."""
    return min(FLUSH_SECONDS_MAX, settings.shutdown_timeout / 4) if settings.traces else 0.0


async def _until_stopped(parts: Sequence[Part], shutdown_seconds_max: float) -> int:
    told = asyncio.Event()
    told_twice = asyncio.Event()

    def on_signal(number: int) -> None:
        log.info("signal", signal=signal.Signals(number).name)
        (told_twice if told.is_set() else told).set()
        for part in parts:
            part.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    running = asyncio.ensure_future(_all(part.run() for part in parts))
    try:
        await asyncio.wait({running, _task(told.wait())}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            await asyncio.wait(
                {running, _task(told_twice.wait())},
                timeout=shutdown_seconds_max,
                return_when=asyncio.FIRST_COMPLETED,
            )
        if running.done():
            running.result()
            log.info("stopped: everything that was held is stored and acknowledged")
            return EXIT_CLEAN
        why = "a second signal" if told_twice.is_set() else f"{shutdown_seconds_max:g} s have passed"
        log.warning("stopping at once: what is held goes back to the broker", why=why)
        running.cancel()
        _, late = await asyncio.wait({running}, timeout=LEAVE_SECONDS_MAX)
        if late:
            log.warning("leaving without waiting for a server that does not answer")
        return EXIT_GAVE_BACK
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _task(waiting: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(waiting)


async def _all(coroutines: Any) -> None:
    """Run all; the first of the project's own errors ends them and comes out as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for coroutine in coroutines:
                group.create_task(coroutine)
    except* UsageWorkerError as errors:
        raise _first(errors) from None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
