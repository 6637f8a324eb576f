"""The worker's spans: a batch links to its producers, whatever they send; and without them nothing is loaded."""

import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from fakes import MemoryDatabase, MemoryStore
from hypothesis import given
from hypothesis import strategies as st
from makers import batch_of, body_of
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode
from pamqp.commands import Basic
from spans import Kept
from structlog.testing import capture_logs

from worker.batch import Batch, Trigger
from worker.delivery import Delivery, PlainProperties, Properties
from worker.errors import ConfigurationError, SystemUnavailableError
from worker.rabbitmq.properties import RawProperties
from worker.trace_export import TraceExport
from worker.traces import LINKS_MAX, TracedStore, links_of, producer_context

TRACE = 0x0AF7651916CD43DD8448EB211C80319C
SPAN = 0xB7AD6B7169203331
PROCESS = "process usage.events"


def parent(span_id: int = SPAN) -> str:
    """A `traceparent` of W3C's."""
    return f"00-{TRACE:032x}-{span_id:016x}-01"


def raw(headers: dict[str, Any]) -> Properties:
    """The properties as the frame reader has them."""
    return RawProperties(Basic.Properties(headers=headers).marshal())


def plain(headers: dict[str, Any]) -> Properties:
    """The properties as the library has them."""
    return PlainProperties(headers=headers)


def traced(count: int) -> Batch:
    """A batch of so many messages, each published in a span of its own."""
    batch = batch_of(*(body_of() for _ in range(count)), queue="usage.events")
    batch.trigger = Trigger.AGE
    for span_id, entry in enumerate(batch.entries, 1):
        entry.delivery.properties = plain({"traceparent": parent(span_id)})
    return batch


@pytest.mark.parametrize("properties", [raw, plain])
def test_a_message_tells_its_producers_span(properties: Any) -> None:
    """On both delivery paths `traceparent` and `tracestate` are read from the headers."""
    headers = {"traceparent": parent(), "tracestate": "shop=1"}
    context = producer_context(Delivery(1, 1, b"", properties(headers)))
    assert context is not None
    assert (context.trace_id, context.span_id, context.trace_flags) == (TRACE, SPAN, 1)
    assert dict(context.trace_state) == {"shop": "1"}


NO_PARENTS = st.text(max_size=60) | st.binary(max_size=60).map(bytearray) | st.integers(-9, 9) | st.none()


@pytest.mark.parametrize("properties", [raw, plain])
@given(
    given_parent=NO_PARENTS | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.*"),
    state=NO_PARENTS | st.from_regex(r"([a-z]{0,4}=?,?){0,20}") | st.just("a=1," * 5000),
)
def test_a_malformed_parent_harms_nothing(properties: Any, given_parent: Any, state: Any) -> None:
    """Whatever the two headers hold, there is a valid context or none, and never an error."""
    headers = {"traceparent": given_parent, "tracestate": state}
    context = producer_context(Delivery(1, 1, b"", properties(headers)))
    assert context is None or context.is_valid


@given(st.binary(max_size=80))
def test_headers_that_are_no_table_harm_nothing(table: bytes) -> None:
    """A table of headers that cannot be read says nothing."""
    raw_bytes = (1 << 13).to_bytes(2, "big") + len(table).to_bytes(4, "big") + table
    assert producer_context(Delivery(1, 1, b"", RawProperties(raw_bytes))) is None


async def test_a_library_that_fails_over_a_header_stores_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever OpenTelemetry raises over a producer's header, the batch is written, without that link."""

    def fail(*_: object) -> None:
        raise IndexError("no such thing")

    monkeypatch.setattr("worker.traces._W3C.extract", fail)
    kept, database = Kept(), MemoryDatabase()
    await TracedStore(MemoryStore(database), kept.tracer).write(traced(2))
    (span,) = kept.named(PROCESS)
    assert (len(database.rows), len(span.links)) == (2, 0)


def test_a_long_state_is_left_out() -> None:
    """What goes past W3C's 512 characters is no part of a link; the link stays."""
    headers = {"traceparent": parent(), "tracestate": ",".join(f"{name}={'v' * 250}" for name in "abc")}
    context = producer_context(Delivery(1, 1, b"", plain(headers)))
    assert context is not None
    assert not context.trace_state


async def test_a_batch_is_one_span() -> None:
    """It links to each producer's span once, is of no trace of theirs, and says what became of the events."""
    kept, database = Kept(), MemoryDatabase()
    batch = traced(3)
    batch.entries[2].delivery.properties = batch.entries[1].delivery.properties
    await TracedStore(MemoryStore(database), kept.tracer).write(batch)
    (span,) = kept.named(PROCESS)
    assert span.kind is SpanKind.CONSUMER
    assert span.parent is None
    assert span.context.trace_id != TRACE
    assert [(link.context.trace_id, link.context.span_id) for link in span.links] == [(TRACE, 1), (TRACE, 2)]
    assert dict(span.attributes) == {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "usage.events",
        "messaging.batch.message_count": 3,
        "usage.batch.events": 3,
        "usage.batch.body_bytes": batch.body_bytes,
        "usage.batch.trigger": "age",
        "usage.events.stored": 3,
        "usage.events.duplicate": 0,
        "usage.events.dead": 0,
    }
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(("messages", "links", "dropped"), [(LINKS_MAX, LINKS_MAX, 0), (LINKS_MAX + 9, LINKS_MAX, 9)])
async def test_links_are_bounded(messages: int, links: int, dropped: int) -> None:
    """128 a batch; how many messages were left out stands beside them."""
    kept = Kept()
    batch = traced(messages)
    await TracedStore(MemoryStore(MemoryDatabase()), kept.tracer).write(batch)
    (span,) = kept.named(PROCESS)
    assert (len(span.links), span.attributes.get("usage.links_dropped", 0)) == (links, dropped)


def test_a_message_without_a_span_costs_no_link() -> None:
    """Messages of producers without traces take no place among the links."""
    batch = traced(4)
    for entry in batch.entries[:3]:
        entry.delivery.properties = PlainProperties()
    links, dropped = links_of(batch)
    assert ([link.context.span_id for link in links], dropped) == ([4], 0)


async def test_a_failed_try_is_a_span_with_an_error() -> None:
    """An outage shows by the error's type alone, without its text; the try after it begins when it begins."""
    kept, database = Kept(), MemoryDatabase(is_down=True)
    store = TracedStore(MemoryStore(database), kept.tracer)
    batch = traced(1)
    with pytest.raises(SystemUnavailableError):
        await store.write(batch)
    database.is_down = False
    await store.write(batch)
    failed, written = kept.named(PROCESS)
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "SystemUnavailableError")
    assert failed.attributes["error.type"] == "SystemUnavailableError"
    assert failed.events == ()
    assert written.status.status_code is StatusCode.UNSET
    assert failed.start_time < failed.end_time <= written.start_time


class StuckExporter(SpanExporter):
    """A collector that takes a request and never answers it."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.released = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002 - the library's name
        """Waits until the test ends."""
        self.asked.set()
        self.released.wait()
        return SpanExportResult.FAILURE


async def test_a_collector_that_hangs_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """More batches are written than spans may wait, while it hangs; and the end does not wait for it either."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    exporter, database = StuckExporter(), MemoryDatabase()
    export = TraceExport(exporter, "worker:1")
    try:
        store = export.around(MemoryStore(database))
        await store.write(traced(1))
        assert exporter.asked.wait(60)
        for _ in range(50):
            await store.write(traced(1))
        with capture_logs() as logs:
            await export.close(0.01)
        assert len(database.batches) == 51
        assert [line["event"] for line in logs] == ["the last spans are lost: the collector has not taken them in time"]
    finally:
        exporter.released.set()


class TakingExporter(StuckExporter):
    """One that takes everything."""

    def __init__(self) -> None:
        super().__init__()
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Keeps them."""
        self.spans += spans
        return SpanExportResult.SUCCESS


async def test_the_last_spans_are_sent_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for the next interval goes when the worker stops, and says whose it is."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    exporter = TakingExporter()
    export = TraceExport(exporter, "worker:1")
    await export.around(MemoryStore(MemoryDatabase())).write(traced(1))
    assert exporter.spans == []
    await export.close(60)
    (span,) = exporter.spans
    of = span.resource.attributes
    assert (of["service.name"], of["service.instance.id"], of["deployment.environment.name"]) == (
        "usage-worker", "worker:1", "test",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL='grpc': only http/protobuf is spoken"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "1", "an OTEL_… variable cannot be used"),
    ],
)
def test_an_environment_that_cannot_be_used(name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused at the start, by its name or its value."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=said):
        TraceExport.start("worker:1")


def run(code: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own."""
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)


def test_without_traces_nothing_of_opentelemetry_is_loaded() -> None:
    """Neither by the worker with all its parts, nor by a publisher."""
    code = """
import sys, worker.app, worker.cli, worker.commands.run, usage_events.blocking
from usage_events import UsagePublisher
UsagePublisher("amqp://rabbit/")
print([name for name in sys.modules if name.partition(".")[0] == "opentelemetry"])
"""
    done = run(code)
    assert (done.stdout, done.stderr) == ("[]\n", "")


WORKER_WITH_TRACES = """
import asyncio
from worker.app import run
from worker.settings import load_settings
asyncio.run(run(load_settings(traces=True)))
"""
PUBLISHER_WITH_TRACES = """
from usage_events import UsagePublisher
UsagePublisher("amqp://rabbit/", traces=True)
"""
ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (WORKER_WITH_TRACES, "USAGE_TRACES is on, and there is no module 'opentelemetry': install usage-worker[otel]"),
        (PUBLISHER_WITH_TRACES, "traces is True, and there is no module 'opentelemetry'; install usage-events[otel]"),
    ],
)
def test_traces_without_the_extra_are_refused(call: str, said: str) -> None:
    """The error names what to install, before anything is connected."""
    assert said in run(ABSENT + call).stderr
