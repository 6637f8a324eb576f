"""Workers as processes, each started again when it ends, as a container's restart policy does."""

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from harness import WorkerProcess, until

from chaos.home import TESTS

RESTART_SECONDS = 0.2
UP_SECONDS_MAX = 180.0  # several at once begin slowly on a busy machine
RUNS_SECONDS_MAX = 7 * 86_400.0

# What the broker says to an acknowledgement of what is not outstanding on its channel.
ASTRAY = "unknown delivery tag"
TRACEBACK = "Traceback (most recent call last)"


class NotFeltError(Exception):
    """A fault was played and nobody felt it: alone it has shown nothing; beside another, that one was in its way."""


class Fleet:
    """So many workers as were asked for.

    Args:
        environment: what every worker is told.
        folder: where their logs go.
        module: is run in the command's place, where no other is asked for.
    """

    def __init__(self, environment: Mapping[str, str], folder: Path, module: str | None = None) -> None:
        self.exits: Counter[int] = Counter()
        self._environment = dict(environment)
        self._folder = folder
        self._usual_module = self._module = module
        self.uses = 0  # calls of `use`
        self._logs: list[Path] = []
        self._slots: list[_Slot] = []

    @property
    def running(self) -> list[WorkerProcess]:
        """Those that have not ended."""
        return [slot.worker for slot in self._slots if slot.worker is not None and slot.worker.status is None]

    async def pick(self, chance: random.Random) -> WorkerProcess:
        """One that runs; waits until one does."""
        await until(lambda: bool(self.running), "a worker runs", seconds_max=60)
        return chance.choice(self.running)

    def use(self, module: str | None = None, **environment: str) -> None:
        """Workers that are started from now on run this module or the usual one, with this on top."""
        self._module = module or self._usual_module
        self._environment |= environment
        self.uses += 1

    async def scale(self, workers: int) -> None:
        """Start some, or stop some by SIGTERM; those that are stopped have ended when this returns."""
        surplus = self._slots[workers:]
        del self._slots[workers:]
        await asyncio.gather(*(slot.stop() for slot in surplus))
        while len(self._slots) < workers:
            self._slots.append(_Slot(self))

    async def kill_all(self) -> None:
        """SIGKILL to each; none is started again."""
        slots, self._slots = self._slots, []
        await asyncio.gather(*(slot.kill() for slot in slots))

    async def replace(self) -> None:
        """SIGKILL to each; others are started in their place, by what `use` has said last."""
        await asyncio.gather(*(worker.kill() for worker in self.running))

    async def until_up(self, seconds_max: float = UP_SECONDS_MAX) -> None:
        """Until each place has a worker that has begun to consume."""
        await until(lambda: all(slot.is_up for slot in self._slots), "the workers are up", seconds_max=seconds_max)

    def astray(self) -> int:
        """How many acknowledgements of theirs the broker has refused."""
        return self.times_said(ASTRAY)

    def logs(self) -> list[str]:
        """What each has written, those that have ended too."""
        return [log.read_text(errors="replace") for log in self._logs]

    async def until_said(self, words: str, since: int, seconds_max: float = 30.0) -> None:
        """Until one of them has logged this once more than `since` times: so a fault knows that it was felt.

        Raises:
            NotFeltError: none has.
        """
        try:
            await until(
                lambda: self.times_said(words) > since,
                f"a worker says {words!r}",
                seconds_max=seconds_max,
                details=lambda: "\n".join(worker.log_tail() for worker in self.running),
            )
        except TimeoutError as error:
            raise NotFeltError(str(error)) from error

    def times_said(self, words: str) -> int:
        """How often they have logged this, from their start on."""
        return sum(log.count(words) for log in self.logs())

    def tracebacks(self, but: Collection[str] = ()) -> list[str]:
        """The ends of the logs of those that ended with an error that is nobody's, `but` the errors of these names."""
        ends = [text[text.index(TRACEBACK) :] for text in self.logs() if TRACEBACK in text]
        return [end[:3000] for end in ends if not any(name in end for name in but)]

    async def start_one(self) -> WorkerProcess:
        """For a slot: start one more."""
        log = self._folder / f"worker-{len(self._logs)}.log"
        self._logs.append(log)
        environment = self._environment | {"CHAOS_WORKER": str(len(self._logs))}
        command = None
        if self._module:
            command = [sys.executable, "-m", self._module, "run"]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [TESTS, os.environ.get("PYTHONPATH", "")]))
        return await WorkerProcess.start(environment, log, command=command)


class _Slot:
    """A worker's place: when one ends, another is started."""

    def __init__(self, fleet: Fleet) -> None:
        self.worker: WorkerProcess | None = None
        self._fleet = fleet
        self._unwanted = asyncio.Event()
        self._keeping = asyncio.ensure_future(self._keep())

    @property
    def is_up(self) -> bool:
        """Whether its worker consumes, or has."""
        worker = self.worker
        if worker is None or worker.status is not None:
            return False
        lines = worker.log_lines()
        return any(line["event"] == "consuming" and not line["queue"].endswith(".dead") for line in lines)

    async def stop(self) -> None:
        """SIGTERM, and no other after it."""
        self._unwanted.set()
        if self.worker is not None and self.worker.status is None:
            self.worker.send_signal(signal.SIGTERM)
        await self._keeping

    async def kill(self) -> None:
        """The same by SIGKILL."""
        self._unwanted.set()
        if self.worker is not None:
            await self.worker.kill()
        await self._keeping

    async def _keep(self) -> None:
        while not self._unwanted.is_set():
            uses = self._fleet.uses
            self.worker = await self._fleet.start_one()
            if uses != self._fleet.uses:
                await self.worker.kill()  # it was on its way, as what it replaces, when all others were replaced
            if self._unwanted.is_set():
                await self.worker.kill()
            status = await self.worker.wait(RUNS_SECONDS_MAX)
            self._fleet.exits[status] += 1
            if not self._unwanted.is_set():
                await asyncio.sleep(RESTART_SECONDS)
