"""Where the microseconds of one event go: each stage of the worker alone, in this process, on the same messages.

CPU time, best of several turns; the stages are the worker's own code. What the whole worker spends beyond them (event
loop, sockets, metrics, memory) is the difference to a run of it. Waiting for Postgres is no CPU time of the worker: it
is given beside it, and is what the writers overlap.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter, process_time, time
from typing import Any

from pamqp import commands, frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from usage_events.contract import MAX_AGE_SECONDS, MAX_AHEAD_SECONDS
from usage_events.rules import Window

from benchmarks import contenders as names
from benchmarks.backlog import plain_properties
from benchmarks.bench import Bench
from benchmarks.workload import Workload
from worker.app import decode_delivery
from worker.batch import Batch, Batcher, Entry, Trigger
from worker.commands.run import GARBAGE_OBJECTS_MIN
from worker.delivery import Delivery
from worker.postgres.copy_format import encode
from worker.postgres.store import PostgresStore
from worker.rabbitmq.deliveries import from_frames
from worker.rabbitmq.frames import FrameSplitter, RawDelivery
from worker.rabbitmq.source import RabbitSource
from worker.settings import Settings
from worker.settle import Ledger

NAME = "profile"
FRAMES, DELIVERY, DECODE, BATCH, ENCODE, WRITE, SETTLE, REST = CPU_PARTS = (
    "read frames",
    "make the delivery",
    "decode and validate",
    "batch",
    "COPY encoding",
    "send and merge (asyncpg)",
    "settle",
    "event loop, sockets, the rest",
)
WHOLE, WAIT = "the whole worker, as it ran", "waiting for Postgres (no CPU)"
PARTS = (*CPU_PARTS, WHOLE, WAIT)
TURNS = 3
READ_BYTES = 64 * 1024
_CHANNEL, _GENERATION = 1, 1


class _Collected:
    """Takes what the source hands over."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    def receive(self, deliveries: Sequence[Delivery]) -> None:
        """See `worker.source.Receiver`."""
        self.deliveries.extend(deliveries)

    def held(self) -> int:
        """See `worker.source.Receiver`."""
        return len(self.deliveries)


async def ask(bench: Bench) -> None:
    """Both forms of message."""
    for size, events in ((1, bench.sizes.single), (names.ARRAY_EVENTS, bench.sizes.arrays)):
        workload = bench.make(bench.sizes.profile, size)
        with _collecting_as_the_worker_does():
            parts = await _parts(bench, workload)
        parts[WHOLE] = (await bench.drain(bench.make(events, size)))["cpu_us_per_event"]
        parts[REST] = max(0.0, parts[WHOLE] - sum(parts.get(part, 0.0) for part in CPU_PARTS))
        for part in PARTS:
            bench.note(NAME, part, size, us_per_event=parts[part])


@contextmanager
def _collecting_as_the_worker_does() -> Iterator[None]:
    """Garbage collection as `run` sets it; the backlog's own objects are none that a worker would walk."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS_MIN, 10, 10)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def _parts(bench: Bench, workload: Workload) -> dict[str, float]:
    """Microseconds an event of each stage."""
    stream = _frames(workload.bodies)
    reads: list[list[RawDelivery]] = []
    seconds = {FRAMES: _best(lambda: _split(stream, reads))}
    source = RabbitSource(Settings(), queue="bench", name="bench")
    collected = _Collected()
    source._receiver = collected
    seconds[DELIVERY] = _best(lambda: _deliver(source, reads, collected))
    entries: list[Entry] = []
    seconds[DECODE] = _best(lambda: _decode(collected.deliveries, entries))
    batches: list[Batch] = []
    seconds[BATCH] = _best(lambda: _batch(entries, batches))
    seconds[ENCODE] = _best(lambda: [encode(list(enumerate(batch.accepted()))) for batch in batches])
    seconds[SETTLE] = _best(lambda: _settle(batches))
    cpu, wall = await _write(bench, batches)
    seconds[WRITE], seconds[WAIT] = max(0.0, cpu - seconds[ENCODE]), wall - cpu
    return {part: spent / workload.events * 1e6 for part, spent in seconds.items()}


def _best(work: Callable[[], Any]) -> float:
    """CPU seconds of the fastest turn: what disturbs only ever adds."""
    spent = []
    for _ in range(TURNS):
        begun = process_time()
        work()
        spent.append(process_time() - begun)
    return min(spent)


def _frames(bodies: list[bytes]) -> bytes:
    pieces = []
    for tag, body in enumerate(bodies, start=1):
        deliver = commands.Basic.Deliver("ctag1.0", tag, False, "usage", "usage.recorded")
        parts = (deliver, ContentHeader(0, len(body), plain_properties(0)), ContentBody(body))
        pieces += [frame.marshal(part, _CHANNEL) for part in parts]
    return b"".join(pieces)


def _split(stream: bytes, reads: list[list[RawDelivery]]) -> None:
    reads.clear()
    splitter = FrameSplitter(reads.append)
    for start in range(0, len(stream), READ_BYTES):
        splitter.feed(stream[start : start + READ_BYTES])


def _deliver(source: RabbitSource, reads: list[list[RawDelivery]], collected: _Collected) -> None:
    collected.deliveries.clear()
    for read in reads:
        source._receive([from_frames(raw, _GENERATION, source.queue) for raw in read])


def _decode(deliveries: list[Delivery], entries: list[Entry]) -> None:
    window = Window.around(int(time() * 1e6), max_age_seconds=MAX_AGE_SECONDS, max_ahead_seconds=MAX_AHEAD_SECONDS)
    entries[:] = [Entry(delivery, decode_delivery(delivery, window)) for delivery in deliveries]


def _batch(entries: list[Entry], batches: list[Batch]) -> None:
    batches.clear()
    settings = Settings()
    batcher = Batcher(
        events_max=settings.batch_max_events, body_bytes_max=settings.held_bytes_max, age_seconds_max=3600.0
    )
    for entry in entries:
        batches += batcher.add(entry, 0.0)
    batches += batcher.flush(Trigger.STOP)


def _settle(batches: list[Batch]) -> None:
    ledger = Ledger(_GENERATION)
    for batch in batches:
        ledger.delivered([entry.delivery.tag for entry in batch.entries])
    for batch in batches:
        ledger.committed((entry.delivery.tag for entry in batch.entries), 0.0)


async def _write(bench: Bench, batches: list[Batch]) -> tuple[float, float]:
    """CPU and clock seconds of writing the batches one after another; the fastest turn."""
    spent = []
    store = PostgresStore(bench.database.dsn, Settings().postgres_schema, worker="bench")
    try:
        await store.ping()
        for _ in range(TURNS):
            await bench.database.reset()
            cpu_begun, begun = process_time(), perf_counter()
            for batch in batches:
                await store.write(batch)
            spent.append((process_time() - cpu_begun, perf_counter() - begun))
    finally:
        await store.close()
    return min(spent)
