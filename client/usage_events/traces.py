"""Spans of published messages, for who wants them: `traces=True`, with `usage-events[otel]`.

OpenTelemetry is imported when a publisher wants it, and not before.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

    from usage_events.link import Target

LINKS_MAX = 128  # of one message, to the spans that have recorded its events


class PublishSpans:
    """A span for each message, whose context travels in the message's headers `traceparent` and `tracestate`.

    Events that were all recorded within one span make a child of it; those of several make a trace of their own, which
    links to each.
    """

    def __init__(self, target: "Target") -> None:
        """Takes the process's own tracer provider.

        Raises:
            ValueError: OpenTelemetry's API is not installed.
        """
        try:
            from opentelemetry import trace
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ModuleNotFoundError as error:
            raise ValueError(
                f"traces is True, and there is no module {error.name!r}; install usage-events[otel], or leave it out"
            ) from error
        self._trace = trace
        self._tracer = trace.get_tracer("usage_events")
        self._w3c = TraceContextTextMapPropagator()
        self._target = target

    def origin(self) -> "SpanContext | None":
        """The span that the caller is in."""
        context = self._trace.get_current_span().get_span_context()
        return context if context.is_valid else None

    @contextmanager
    def around(
        self, origins: Sequence["SpanContext"], routing_key: str, *, events: int, body_bytes: int
    ) -> Iterator[dict[str, str]]:
        """The span of one message, from here until it is confirmed; gives the headers that carry its context."""
        from opentelemetry.context import Context

        distinct = list({(origin.trace_id, origin.span_id): origin for origin in origins}.values())
        parent = Context()  # not the caller's: the task that sends belongs to no request
        if len(distinct) == 1:
            parent = self._trace.set_span_in_context(self._trace.NonRecordingSpan(distinct.pop()), parent)
        attributes = self._attributes(routing_key) | {"messaging.message.body.size": body_bytes, "usage.events": events}
        if len(distinct) > LINKS_MAX:
            attributes["usage.links_dropped"] = len(distinct) - LINKS_MAX
        with self._tracer.start_as_current_span(
            f"publish {self._target.exchange}",
            context=parent,
            kind=self._trace.SpanKind.PRODUCER,
            attributes=attributes,
            links=[self._trace.Link(origin) for origin in distinct[:LINKS_MAX]],
        ):
            headers: dict[str, str] = {}
            self._w3c.inject(headers)
            yield headers

    def _attributes(self, routing_key: str) -> dict[str, str | int]:
        broker = urlsplit(self._target.amqp_url)
        return {
            "messaging.system": "rabbitmq",
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
            "messaging.destination.name": f"{self._target.exchange}:{routing_key}",
            "messaging.rabbitmq.destination.routing_key": routing_key,
            "server.address": broker.hostname or "",
            "server.port": broker.port or (5671 if broker.scheme.lower() == "amqps" else 5672),
        }
