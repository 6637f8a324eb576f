"""Traces: each write of a batch is a span, with links to the spans in which its messages were published.

A store around a store: the pipeline knows nothing of it, and without it no message's headers are looked at.
"""

from time import monotonic, time_ns

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Tracer, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.trace.status import Status, StatusCode

from worker.batch import Batch
from worker.clock import Reading
from worker.delivery import Delivery
from worker.store import Store, Written

LINKS_MAX = 128  # of one batch
_STATE_CHARACTERS_MAX = 512  # what W3C asks for; a producer's longer list is left out
_W3C = TraceContextTextMapPropagator()


class TracedStore:
    """A store whose writes are spans: from a batch's first message, or from the second try on, until the commit.

    Errors show by their type alone: texts of the database may hold what is in an event.
    """

    def __init__(self, store: Store, tracer: Tracer) -> None:
        self._store = store
        self._tracer = tracer
        self._failed: Batch | None = None

    async def ping(self) -> None:
        """As the store does."""
        await self._store.ping()

    async def read_clock(self) -> Reading:
        """As the store does."""
        return await self._store.read_clock()

    async def write(self, batch: Batch) -> Written:
        """As the store does, within a span."""
        is_first = batch is not self._failed
        span = self._begin(batch, is_first=is_first)
        try:
            written = await self._store.write(batch)
        except BaseException as error:
            self._failed = batch
            kind = type(error).__name__
            span.set_attribute("error.type", kind)
            span.set_status(Status(StatusCode.ERROR, kind))
            raise
        else:
            self._failed = None
            _note_outcome(span, written)
            return written
        finally:
            span.end()

    async def close(self) -> None:
        """As the store does."""
        await self._store.close()

    def _begin(self, batch: Batch, *, is_first: bool) -> Span:
        links, dropped = links_of(batch)
        queue = batch.entries[0].delivery.queue if batch.entries else ""
        attributes: dict[str, str | int] = {
            "messaging.system": "rabbitmq",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": queue,
            "messaging.batch.message_count": len(batch.entries),
            "usage.batch.events": batch.events,
            "usage.batch.body_bytes": batch.body_bytes,
            "usage.batch.trigger": batch.trigger.value if batch.trigger else "",
        }
        if dropped:
            attributes["usage.links_dropped"] = dropped
        waited_seconds = monotonic() - batch.opened_at if is_first else 0.0
        return self._tracer.start_span(
            f"process {queue}",
            context=Context(),
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=links,
            start_time=time_ns() - int(waited_seconds * 1e9),
        )


def links_of(batch: Batch) -> tuple[list[Link], int]:
    """Links to the producers' spans, each once; and how many messages were not asked any more, there being enough."""
    found: dict[tuple[int, int], Link] = {}
    for place, entry in enumerate(batch.entries):
        if len(found) == LINKS_MAX:
            return list(found.values()), len(batch.entries) - place
        context = producer_context(entry.delivery)
        if context is not None:
            found.setdefault((context.trace_id, context.span_id), Link(context))
    return list(found.values()), 0


def producer_context(delivery: Delivery) -> SpanContext | None:
    """The span in which a message was published; `None` where its headers do not say, or say nothing readable."""
    headers = delivery.properties.headers
    parent, state = headers.get("traceparent"), headers.get("tracestate")
    if not isinstance(parent, str):
        return None
    carrier = {"traceparent": parent}
    if isinstance(state, str) and len(state) <= _STATE_CHARACTERS_MAX:
        carrier["tracestate"] = state
    try:
        context = get_current_span(_W3C.extract(carrier, Context())).get_span_context()
    except Exception:  # noqa: BLE001 - whatever a producer's bytes make the library raise must not hold up an event
        return None
    return context if context.is_valid else None


def _note_outcome(span: Span, written: Written) -> None:
    span.set_attributes(
        {
            "usage.events.stored": written.stored,
            "usage.events.duplicate": written.duplicates,
            "usage.events.dead": written.refused.total(),
        }
    )
