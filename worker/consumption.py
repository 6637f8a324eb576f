"""Consumption: the source is open while the database answers, with the prefetch that fits, until it is stopped.

It connects, notices losses and connects again. It never consumes before the database has answered, and gives what is
held back once where an outage outlasts what may be held.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from time import monotonic

import structlog

from worker.cancellation import is_own_cancellation
from worker.clock import Clock
from worker.errors import SystemUnavailableError
from worker.held import NO_GENERATION, Held, Hold
from worker.metrics import Metrics
from worker.outage import Outage
from worker.prefetch import Prefetch
from worker.retries import retries
from worker.settle import Ack
from worker.source import Receiver, Source
from worker.store import Store

PAUSED_LOOK_SECONDS = 0.05
SHORT_LIFE_SECONDS = 0.5  # a channel that is lost so soon is no success: the next is not opened at once
SHORT_LIFE_PAUSE_SECONDS_MAX = 1.0

log = structlog.get_logger(__name__)


class State(Enum):
    """What a pipeline is doing; its value says so to an operator."""

    WAITING = "waiting for the database"
    CONNECTING = "connecting to the broker"
    CONSUMING = "consuming"
    HOLDING = "the database is away: holding what is held"
    STOPPING = "stopping"


class Consumption:
    """Whether, and how much, is consumed.

    Args:
        source: what is kept open.
        probe: asks whether the database answers, while the writers may be busy.
        receiver: where deliveries go.
        held: what is given back.
        prefetch: how much may be handed out.
        outage: whether the database is away.
        clock: is set whenever the database has answered.
        on_generation: called when a channel begins, and with `NO_GENERATION` when it has ended.
        metrics: where losses are counted.
    """

    def __init__(  # noqa: PLR0913 - the parts of one pipeline
        self,
        *,
        source: Source,
        probe: Store,
        receiver: Receiver,
        held: Held,
        prefetch: Prefetch,
        outage: Outage,
        clock: Clock,
        on_generation: Callable[[int], None],
        metrics: Metrics,
    ) -> None:
        self._source = source
        self._probe = probe
        self._receiver = receiver
        self._held = held
        self._prefetch = prefetch
        self._outage = outage
        self._clock = clock
        self._on_generation = on_generation
        self._metrics = metrics
        self._lock = asyncio.Lock()  # one at a time changes whether and how much is consumed
        self._other_consumers_tag = 0  # up to here, what is held came to a consumer with another prefetch
        self._phase = State.WAITING
        self._generation = NO_GENERATION
        self._stop = asyncio.Event()

    @property
    def state(self) -> State:
        """What it is doing."""
        if self._stop.is_set():
            return State.STOPPING
        return State.HOLDING if self._phase is State.CONSUMING and self._outage else self._phase

    def stopping(self) -> None:
        """From now on nothing is opened again and no prefetch changes."""
        self._stop.set()

    async def stop(self) -> bool:
        """Consume no more; `False` where nothing was open, so that nothing is held."""
        self.stopping()
        if self._phase is not State.CONSUMING:
            return False
        try:
            await self._stop_consuming()
        except SystemUnavailableError as error:
            log.debug("the channel was lost while stopping", why=str(error))
        return True

    async def supervise(self) -> None:
        """Connect, notice losses, connect again, until it is stopped.

        Raises:
            RuntimeError: something has cancelled what it waits for, and not it: without it nobody would connect again.
        """
        try:
            await self._supervise()
        except asyncio.CancelledError as error:
            if is_own_cancellation():
                raise
            raise RuntimeError("what watches the broker was cancelled from within") from error

    async def _supervise(self) -> None:
        while not self._stop.is_set():
            await self._until_database_answers()
            self._phase = State.CONNECTING
            await self._open()
            if self._stop.is_set():
                return
            self._phase = State.CONSUMING
            log.info("consuming", queue=self._source.queue, generation=self._generation)
            opened_at = monotonic()
            why = await self._until_lost()
            lived_seconds = monotonic() - opened_at
            self._phase = State.WAITING
            log.warning("lost the broker", queue=self._source.queue, why=why, held=len(self._held))
            self._on_generation(NO_GENERATION)
            await self._source.close()
            if lived_seconds < SHORT_LIFE_SECONDS:
                await self._pause(random.uniform(0, SHORT_LIFE_PAUSE_SECONDS_MAX))  # noqa: S311 - jitter, no secret

    async def acknowledge(self, acks: Sequence[Ack], settled: int, before: Hold) -> None:
        """Acknowledge; `settled` messages more have been, out of what was held `before`.

        This is the moment to change the prefetch: while everything that the consumer may hold is held, the broker has
        nothing on its way that could cross the change and come back to it.
        """
        self._prefetch.acknowledged(settled)
        if not acks:
            return
        async with self._lock:
            full = before.messages >= self._prefetch.current and before.first_tag > self._other_consumers_tag
            may_change = self.state is State.CONSUMING and not self._held.is_paused
            prefetch = self._prefetch.proposal(full=full) if may_change else None
            try:
                if prefetch is None:
                    await self._source.acknowledge(acks)
                else:
                    log.debug("prefetch", prefetch=prefetch)
                    self._other_consumers_tag = before.last_tag
                    await self._source.set_prefetch(prefetch, acks)
            except SystemUnavailableError as error:
                log.debug("acknowledgements are lost with their channel", why=str(error))

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    # A library may lose the cancellation that a stop sends (asyncio.wait_for does so before Python 3.12, where its
    # result comes at the same moment), so these look for the stop themselves.

    async def _until_database_answers(self) -> None:
        async for attempt in retries():
            if self._stop.is_set():
                return
            with attempt:
                try:
                    await self._probe.ping()
                    self._clock.set(await self._probe.read_clock())
                except SystemUnavailableError as error:
                    self._outage.failed(error)
                    raise
        await self._probe.close()
        self._outage.answered()

    async def _open(self) -> None:
        told = ""
        async for attempt in retries():
            if self._stop.is_set():
                return
            with attempt:
                self._generation += 1  # of each try: one that failed may have delivered before it did
                self._on_generation(self._generation)
                self._prefetch.restart()
                self._other_consumers_tag = 0
                try:
                    await self._source.open(self._generation, self._prefetch.current, self._receiver)
                except SystemUnavailableError as error:
                    if str(error) != told:  # once a cause, not once a try
                        told = str(error)
                        log.warning("waiting for the broker", queue=self._source.queue, why=told)
                    raise
                return
        raise AssertionError("retries without an end have ended")

    async def _until_lost(self) -> str:
        """Until the source loses its channel, or an outage of the database outlasts what may be held."""
        lost = asyncio.ensure_future(self._source.lost())
        try:
            while True:
                done, _ = await asyncio.wait({lost}, timeout=max(0.0, self._outage.hold_seconds_left()))
                if done:
                    self._metrics.reconnects.labels("rabbitmq").inc()
                    return lost.result()
                if self._outage and self._outage.hold_seconds_left() <= 0:
                    await self._give_back()
                    return f"gave it back: the database is away for {self._outage.hold_seconds_max:.0f} s"
        except SystemUnavailableError as error:
            self._metrics.reconnects.labels("rabbitmq").inc()
            return str(error)
        finally:
            lost.cancel()

    async def _stop_consuming(self) -> None:
        """Nothing is acknowledged meanwhile: what the broker sends for it would cross, and count as one delivery more.

        But where nothing is read its answer comes only once something is.
        """
        async with self._lock:
            stopping = asyncio.ensure_future(self._source.stop_consuming())
            try:
                while not (stopping.done() or self._held.is_paused):
                    await asyncio.wait({stopping}, timeout=PAUSED_LOOK_SECONDS)
            except asyncio.CancelledError:
                stopping.cancel()
                raise
        await stopping

    async def _give_back(self) -> None:
        self._phase = State.WAITING  # so that nobody consumes again
        if len(self._held):
            self._metrics.give_backs.inc()
        if self._held.is_paused:
            return  # the broker's answer would not be read: the channel's end gives everything back as well
        await self._stop_consuming()
        await self._held.give_back()
