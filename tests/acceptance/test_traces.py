"""A trace from the request that recorded an event to the worker's commit, through real servers and a collector."""

import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from delivery_paths import both_paths
from harness import System, event, message, raw
from harness.events import ORGANIZATION, USER
from harness.worker import WorkerProcess
from opentelemetry import trace
from producing import new_event
from spans import Collector, Kept, attributes_of, collecting
from usage_events.publisher import UsagePublisher


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Where the worker's spans go."""
    with collecting() as collector:
        yield collector


async def start_tracing(system: System, url: str) -> WorkerProcess:
    """A worker whose spans go there, and soon."""
    return await system.start_worker(USAGE_TRACES="true", OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_BSP_SCHEDULE_DELAY="50")


def batches_of(system: System, collector: Collector) -> list[Any]:
    """The spans of the batches that the collector has by now; the dead queue's are not among them."""
    return [span for span in collector.spans if span.name == f"process {system.queue}"]


def outcome(system: System, collector: Collector, name: str) -> int:
    """How many events had this outcome, by the spans."""
    found = (attributes_of(span) for span in batches_of(system, collector))
    return sum(int(attributes[f"usage.events.{name}"]) for attributes in found)


@both_paths
async def test_a_request_is_linked_to_the_commit(
    system: System, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request's trace id is that of the message's span, and of a link of the batch that stored its events."""
    kept = Kept()
    monkeypatch.setattr(trace, "get_tracer", lambda *_: kept.tracer)
    worker = await start_tracing(system, collector.url)
    async with UsagePublisher(system.amqp_url, exchange=system.exchange, traces=True) as publisher:
        for _ in range(3):
            with kept.tracer.start_as_current_span("request"):
                publisher.record(new_event(user_id=USER, organization_id=ORGANIZATION))
                publisher.record(new_event(user_id=USER, organization_id=ORGANIZATION))
            await publisher.flush()
    await system.until(lambda: outcome(system, collector, "stored") == 6, "the collector knows of 6 events")
    await system.stop_workers()
    assert await system.stored() == 6
    requests, messages = kept.named("request"), kept.named(f"publish {system.exchange}")
    assert [span.context.trace_id for span in messages] == [span.context.trace_id for span in requests]
    links = {(link.trace_id, link.span_id) for span in batches_of(system, collector) for link in span.links}
    assert links == {(span.context.trace_id.to_bytes(16), span.context.span_id.to_bytes(8)) for span in messages}
    assert collector.resource["service.name"] == "usage-worker"
    assert collector.resource["service.instance.id"].endswith(f":{worker.pid}")


@both_paths
async def test_headers_that_are_no_trace_harm_no_event(system: System, collector: Collector) -> None:
    """Malformed contexts of a producer are no links; its events are stored, and what is refused is a letter."""
    await start_tracing(system, collector.url)
    for parent in ("", "00-0-0-01", "\u20ac" * 20, 7, bytearray(b"\xff\x00"), ["00"], {"a": "b"}):
        await system.publish(message(event())._replace(headers={"traceparent": parent, "tracestate": parent}))
    await system.publish(raw(b"no json"))
    await system.until(lambda: outcome(system, collector, "stored") == 7, "the collector knows of 7 events")
    await system.until(lambda: outcome(system, collector, "dead") == 1, "the collector knows of a letter")
    await system.settle()
    books = await system.books()
    books.check()
    assert (len(books.stored), books.letters) == (7, {"bad_json": 1})
    assert [link for span in batches_of(system, collector) for link in span.links] == []


async def test_a_collector_that_is_away_slows_nothing(system: System) -> None:
    """Nobody listens where the spans go: events are stored, and the worker stops cleanly, even if told twice."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        worker = await system.start_worker(
            USAGE_TRACES="true",
            OTEL_EXPORTER_OTLP_ENDPOINT=url,
            OTEL_EXPORTER_OTLP_TIMEOUT="600",  # the first spans are tried again until the end
            OTEL_BSP_SCHEDULE_DELAY="50",
        )
        await system.publish(*(message(event()) for _ in range(500)))
        await system.until_stored(500)
        worker.send_signal(signal.SIGTERM)
        await system.until(lambda: worker.has_logged("stopped"), "everything is settled")
        with suppress(ProcessLookupError):  # where it has ended by now
            worker.send_signal(signal.SIGTERM)
        assert await worker.wait() == 0
    assert worker.has_logged("the last spans are lost")
