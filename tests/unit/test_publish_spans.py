"""A publisher's spans, and the headers that carry them, beside a broker without a wire."""

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import pytest
from fake_broker import FakeBroker, let_others_run
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from producing import new_event
from spans import Kept
from usage_events.errors import UnroutableError
from usage_events.publisher import UsagePublisher
from usage_events.traces import LINKS_MAX

from worker.delivery import Delivery, PlainProperties
from worker.traces import producer_context

PUBLISH = "publish usage"


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> FakeBroker:
    """In place of RabbitMQ; it confirms at once, and nothing waits before it tries again."""
    broker = FakeBroker(confirms_at_once=True)
    monkeypatch.setattr("usage_events.courier.Link.open", broker.open)
    monkeypatch.setattr("usage_events.backoff.delays", lambda: repeat(0.0))
    return broker


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    """The service's tracer provider."""
    kept = Kept()
    monkeypatch.setattr(trace, "get_tracer", lambda *_: kept.tracer)
    yield kept
    kept.provider.shutdown()


def publisher_of(**arguments: Any) -> UsagePublisher:
    """One with spans, that sends when it is flushed."""
    given: dict[str, Any] = {"linger_seconds": 3600.0, "traces": True, "events_per_message_max": 1000}
    return UsagePublisher("amqp://rabbit:5673/", **(given | arguments))


def carried(broker: FakeBroker) -> list[tuple[int, int]]:
    """What the worker makes of each message's headers: trace and span."""
    found = [
        producer_context(Delivery(1, 1, b"", PlainProperties(headers=published.headers or {})))
        for published in broker.seen
    ]
    return [(context.trace_id, context.span_id) for context in found if context is not None]


def own(spans: Sequence[Any]) -> list[tuple[int, int]]:
    """Trace and span of each."""
    return [(span.context.trace_id, span.context.span_id) for span in spans]


async def test_events_of_one_request_go_on_in_its_trace(broker: FakeBroker, kept: Kept) -> None:
    """The message's span is a child of the span that has recorded all of its events, and its headers say so."""
    async with publisher_of() as publisher:
        with kept.tracer.start_as_current_span("request"):
            publisher.record(new_event(input_tokens=1))
            publisher.record(new_event(input_tokens=2))
        await publisher.flush()
    (request,), (span,) = kept.named("request"), kept.named(PUBLISH)
    assert span.parent.span_id == request.context.span_id
    assert carried(broker) == own([span])
    assert span.context.trace_id == request.context.trace_id
    assert span.kind is SpanKind.PRODUCER
    assert dict(span.attributes) == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "usage:usage.recorded",
        "messaging.rabbitmq.destination.routing_key": "usage.recorded",
        "server.address": "rabbit",
        "server.port": 5673,
        "messaging.message.body.size": len(broker.seen[0].body),
        "usage.events": 2,
    }


async def test_events_of_several_requests_are_linked_to(broker: FakeBroker, kept: Kept) -> None:
    """One message of two requests is a trace of its own, also where the sending task was begun within a request."""
    with kept.tracer.start_as_current_span("begin"):
        publisher = publisher_of()
        await publisher.start()
        await let_others_run()
    for number in range(2):
        with kept.tracer.start_as_current_span("request"):
            publisher.record(new_event(input_tokens=number))
    publisher.record(new_event(input_tokens=2))  # of no request
    await publisher.flush()
    await publisher.close()
    (span,) = kept.named(PUBLISH)
    assert span.parent is None
    assert [(link.context.trace_id, link.context.span_id) for link in span.links] == own(kept.named("request"))
    assert "usage.links_dropped" not in span.attributes
    assert carried(broker) == own([span])


async def test_a_publishers_links_are_bounded(broker: FakeBroker, kept: Kept) -> None:
    """128 a message; how many were left out stands beside them."""
    async with publisher_of() as publisher:
        for number in range(LINKS_MAX + 5):
            with kept.tracer.start_as_current_span("request"):
                publisher.record(new_event(input_tokens=number))
        await publisher.flush()
    (span,) = kept.named(PUBLISH)
    assert (len(span.links), span.attributes["usage.links_dropped"]) == (LINKS_MAX, 5)
    assert len(broker.seen) == 1


async def test_send_goes_on_in_the_callers_trace(broker: FakeBroker, kept: Kept) -> None:
    """Events that are encoded already are sent within the caller's trace, too."""
    async with publisher_of() as publisher:
        with kept.tracer.start_as_current_span("request"):
            confirmation = await publisher.send([new_event(input_tokens=1).to_json()])
        await confirmation
    (request,), (span,) = kept.named("request"), kept.named(PUBLISH)
    assert span.parent.span_id == request.context.span_id
    assert carried(broker) == own([span])


async def test_a_refusal_shows_in_its_span(broker: FakeBroker, kept: Kept) -> None:
    """Each try that RabbitMQ has refused is a span with an error; the one that is confirmed has none."""
    broker.publish_error = UnroutableError("no queue is bound")
    async with publisher_of(on_error=lambda *_: broker.recover()) as publisher:
        publisher.record(new_event(input_tokens=1))
        await publisher.flush()
    *refused, confirmed = kept.named(PUBLISH)
    assert {span.status.status_code for span in refused} == {StatusCode.ERROR}
    assert confirmed.status.status_code is StatusCode.UNSET


async def test_a_process_without_a_tracer_provider_sends_no_header(broker: FakeBroker) -> None:
    """OpenTelemetry's API alone makes no spans: messages go as they do without."""
    async with publisher_of() as publisher:
        publisher.record(new_event(input_tokens=1))
        await publisher.flush()
    assert [published.headers for published in broker.seen] == [{}]


async def test_without_traces_no_header_is_sent(broker: FakeBroker, kept: Kept) -> None:
    """Off by default: no span, no header, also within a request's span."""
    async with publisher_of(traces=False) as publisher:
        with kept.tracer.start_as_current_span("request"):
            publisher.record(new_event(input_tokens=1))
        await publisher.flush()
    assert [published.headers for published in broker.seen] == [None]
    assert kept.named(PUBLISH) == []
