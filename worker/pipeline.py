"""The pipeline: delivery → decode → batcher → writer → settle. It decides by the pure stages and does their waiting.

    source ──receive──▶ inbox ──decode──▶ batcher ──▶ ready ──writer──▶ store
       ▲                                                                  │
       └───────────────── acknowledge ◀── held (ledger) ◀─── committed ───┘

Everything runs on one event loop. A delivery is acknowledged only after the transaction with its outcome has
committed, on the channel that it came from: what belongs to an older generation is dropped, the broker hands it out
again.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

import structlog

from worker.batch import Batch, Batcher, Entry, Trigger
from worker.clock import Clock
from worker.consumption import Consumption, State
from worker.delivery import Delivery
from worker.errors import SystemUnavailableError
from worker.held import Held, Hold
from worker.metrics import Metrics
from worker.outage import Outage
from worker.prefetch import Prefetch, PrefetchLimits
from worker.retries import insist
from worker.settle import Ack
from worker.source import Source
from worker.store import Store, Written
from worker.times import Decoder, Times

DECODED_AT_ONCE_MAX = 500  # events; then others may run
DECODED_BYTES_AT_ONCE_MAX = 256 * 1024
HOLD_SECONDS_MAX = 600.0  # well before the broker's consumer time-out of 30 minutes

log = structlog.get_logger(__name__)


@dataclass(slots=True, frozen=True)
class PipelineOptions:
    """The sizes of a pipeline. Ages are in seconds, and those of the window as in the contract."""

    batch_events_max: int
    batch_bytes_max: int
    batch_age_seconds_max: float
    held_bytes_max: int
    prefetch_max: int
    max_age_seconds: int
    max_ahead_seconds: int
    hold_seconds_max: float = HOLD_SECONDS_MAX


class Pipeline:
    """Moves messages from a source into stores until it is stopped.

    Args:
        source: where deliveries come from.
        stores: one a writer; they write at once.
        probe: asks whether the database answers, while the others may be busy.
        decoder: what is made of a delivery.
        clock: what events are judged by; it is set here.
        options: sizes.
        metrics: where everything is counted.
    """

    def __init__(  # noqa: PLR0913 - one argument a seam
        self,
        *,
        source: Source,
        stores: Sequence[Store],
        probe: Store,
        decoder: Decoder,
        clock: Clock,
        options: PipelineOptions,
        metrics: Metrics,
    ) -> None:
        self._source = source
        self._stores = stores
        self._probe = probe
        self._decoder = decoder
        self._options = options
        self._clock = clock
        self._times = Times(
            clock, decoder, max_age_seconds=options.max_age_seconds, max_ahead_seconds=options.max_ahead_seconds
        )
        self._metrics = metrics
        self._batcher = Batcher(
            events_max=options.batch_events_max,
            body_bytes_max=options.batch_bytes_max,
            age_seconds_max=options.batch_age_seconds_max,
        )
        self._prefetch = Prefetch(
            PrefetchLimits(
                messages_max=options.prefetch_max,
                events_wanted=(len(stores) + 1) * options.batch_events_max,
                body_bytes_max=options.held_bytes_max,
            )
        )
        self._held = Held(source, acknowledge=self._acknowledge, body_bytes_max=options.held_bytes_max, metrics=metrics)
        self._outage = Outage(hold_seconds_max=options.hold_seconds_max, metrics=metrics)
        self._inbox: deque[Delivery] = deque()
        self._ready: asyncio.Queue[Batch] = asyncio.Queue()
        self._idle_writers = 0
        self._wake = asyncio.Event()  # the assembler may have something to do
        self._progress = asyncio.Event()  # less is held than before
        self._stop = asyncio.Event()
        self._consumption = Consumption(
            source=source,
            probe=probe,
            receiver=self,
            held=self._held,
            prefetch=self._prefetch,
            clock=clock,
            outage=self._outage,
            on_generation=self._begin,
            metrics=metrics,
        )

    # What the source calls.

    def receive(self, deliveries: Sequence[Delivery]) -> None:
        """Deliveries have arrived; called from within the broker's reader, so nothing is done with them here."""
        if deliveries[0].generation != self._held.generation:
            return  # they were still on their way when their channel was lost: they come again
        self._held.take(deliveries)
        self._inbox.extend(deliveries)
        self._wake.set()

    def held(self) -> int:
        """Deliveries that are neither acknowledged nor given back."""
        return len(self._held)

    # What the composition root calls.

    def stop(self) -> None:
        """Stop consuming, write and acknowledge what is held; `run` returns when that is done."""
        self._consumption.stopping()
        self._stop.set()

    @property
    def state(self) -> State:
        """What it is doing."""
        return self._consumption.state

    @property
    def is_consuming(self) -> bool:
        """Whether messages move."""
        return self.state is State.CONSUMING

    @property
    def outage(self) -> Outage:
        """Whether its database is away."""
        return self._outage

    async def run(self) -> None:
        """Run until `stop`, through every outage of both sides. Cancelled, it gives back what is held.

        Raises:
            UsageWorkerError: what no waiting mends, such as a queue with other properties.
        """
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._assemble())]
                tasks += [group.create_task(self._write_batches(store)) for store in self._stores]
                supervisor = group.create_task(self._consumption.supervise())
                await self._stop.wait()
                await self._drain(supervisor)
                for task in (*tasks, supervisor):
                    task.cancel()
        finally:
            await self._held.give_back()
            await self._source.close()
            await asyncio.gather(*(store.close() for store in (*self._stores, self._probe)))

    # Decode and batch.

    def _begin(self, generation: int) -> None:
        """A new channel, or none: what came from the old one comes again."""
        self._held.begin(generation)
        self._inbox.clear()
        self._progress.set()

    async def _assemble(self) -> None:
        while True:
            await self._until_there_is_work()
            self._decode_some()
            self._close_due()
            await self._held.acknowledge_overdue()
            await asyncio.sleep(0)

    async def _until_there_is_work(self) -> None:
        if self._inbox:
            return
        due_at = self._batcher.due_at() if self._may_close else None  # a writer that becomes free wakes us
        times = [at for at in (due_at, self._held.overdue_at()) if at is not None]
        try:
            async with asyncio.timeout(max(0.0, min(times) - monotonic()) if times else None):
                await self._wake.wait()
        except TimeoutError:
            pass  # something is due
        self._wake.clear()

    def _decode_some(self) -> None:
        window = self._times.window()
        now = monotonic()
        messages = events = body_bytes = delivery_count_max = 0
        inbox, decoder, batcher = self._inbox, self._decoder, self._batcher
        while inbox and events < DECODED_AT_ONCE_MAX and body_bytes < DECODED_BYTES_AT_ONCE_MAX:
            delivery = inbox.popleft()
            entry = Entry(delivery, decoder(delivery, window))
            messages += 1
            events += entry.events
            body_bytes += entry.body_bytes
            if delivery.delivery_count:
                self._metrics.redeliveries.inc()
                delivery_count_max = max(delivery_count_max, delivery.delivery_count)
            closed = batcher.add(entry, now)
            if closed:
                self._hand_on(closed)
        self._prefetch.seen(messages, events, body_bytes, delivery_count_max)
        self._held.count_events(events)

    def _close_due(self) -> None:
        """Hand on what should not wait: only to a writer that is free, else it may as well grow."""
        if self._inbox or not self._may_close:
            return
        if self._stop.is_set():
            self._hand_on(self._batcher.flush(Trigger.STOP))
        elif self.held() >= self._prefetch.current:
            self._hand_on(self._batcher.flush(Trigger.PREFETCH))
        else:
            self._hand_on(self._batcher.poll(monotonic()))

    def _hand_on(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            self._ready.put_nowait(batch)

    @property
    def _may_close(self) -> bool:
        return self._idle_writers > 0 and self._ready.empty()

    # Write and settle.

    async def _write_batches(self, store: Store) -> None:
        while True:
            self._idle_writers += 1
            self._wake.set()
            try:
                batch = await self._ready.get()
            finally:
                self._idle_writers -= 1
            generation = self._held.generation
            batch = batch.only_generation(generation)
            if not batch.entries:
                continue
            begun_at = monotonic()
            written = await self._write(store, batch, generation)
            if written is None:
                continue
            self._metrics.count(batch, written, commit_seconds=monotonic() - begun_at, now=self._clock.now())
            if await self._held.settle(batch, generation):
                self._progress.set()

    async def _acknowledge(self, acks: Sequence[Ack], settled: int, before: Hold) -> None:
        await self._consumption.acknowledge(acks, settled, before)

    async def _write(self, store: Store, batch: Batch, generation: int) -> Written | None:
        """Write, whatever it takes; `None` where the deliveries have gone back to the broker meanwhile."""
        return await insist(lambda: self._try_to_write(store, batch, generation))

    async def _try_to_write(self, store: Store, batch: Batch, generation: int) -> Written | None:
        if self._held.generation != generation:
            return None
        try:
            await self._times.confirm(batch, store)
            written = await store.write(batch)
        except SystemUnavailableError as error:
            self._outage.failed(error)
            raise
        self._outage.answered()
        return written

    # The end.

    async def _drain(self, supervisor: asyncio.Task[None]) -> None:
        """Stop consuming; return when nothing is held any more."""
        log.info("stopping", queue=self._source.queue, held=self.held())
        if not await self._consumption.stop():
            supervisor.cancel()
            return
        while self.held():
            self._progress.clear()
            self._wake.set()
            await self._progress.wait()
        await self._held.until_sent()
