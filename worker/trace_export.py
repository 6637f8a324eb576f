"""Where the spans go: to a collector, by OTLP over HTTP, from a thread that no event waits for.

`OTEL_EXPORTER_OTLP_…` say where that is, `OTEL_TRACES_SAMPLER` how many, `OTEL_SERVICE_NAME` and
`OTEL_RESOURCE_ATTRIBUTES` whose. While the collector is away spans wait in a queue of a bounded length, and the oldest
are lost.
"""

import asyncio
import os
from concurrent.futures import Future
from threading import Thread
from typing import Self

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from worker.errors import ConfigurationError
from worker.store import Store
from worker.traces import TracedStore

PROTOCOL = "http/protobuf"

log = structlog.get_logger(__name__)


class TraceExport:
    """The worker's own tracer provider.

    Args:
        exporter: takes finished spans, in a thread of its own.
        instance: the worker's name.
    """

    def __init__(self, exporter: SpanExporter, instance: str) -> None:
        # Not at the interpreter's exit: that waits for a collector as long as it likes.
        self._provider = TracerProvider(resource=_resource(instance), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("usage-worker")

    @classmethod
    def start(cls, instance: str) -> Self:
        """As OpenTelemetry's environment says.

        Raises:
            ConfigurationError: it says what cannot be done.
        """
        for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
            protocol = os.environ.get(name) or PROTOCOL
            if protocol != PROTOCOL:
                raise ConfigurationError(f"{name}={protocol!r}: only {PROTOCOL} is spoken; set that, or unset it")
        try:
            return cls(OTLPSpanExporter(), instance)
        except (ValueError, OSError) as error:  # a time-out that is no number, a certificate that is not there
            raise ConfigurationError(f"USAGE_TRACES: an OTEL_… variable cannot be used: {error}") from error

    def around(self, store: Store) -> Store:
        """The store, with a span for each of its writes."""
        return TracedStore(store, self._tracer)

    async def close(self, seconds_max: float) -> None:
        """Sends the last spans; those that a collector has not taken by then are lost."""
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # who gives up waiting cancels nothing
        Thread(target=self._shut_down, args=(done,), name="last spans", daemon=True).start()
        finished, _ = await asyncio.wait({asyncio.wrap_future(done)}, timeout=seconds_max)
        if not finished:
            log.warning("the last spans are lost: the collector has not taken them in time", seconds=seconds_max)

    def _shut_down(self, done: "Future[None]") -> None:
        try:
            self._provider.shutdown()
        finally:
            done.set_result(None)


def _resource(instance: str) -> Resource:
    resource = Resource.create({"service.instance.id": instance})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        return resource.merge(Resource({"service.name": "usage-worker"}))
    return resource
