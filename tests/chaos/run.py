"""One run: load, faults at seeded instants, the seconds until events flow again, and the books."""

import asyncio
import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from chaos.arrangement import Arrangement
from chaos.fleet import NotFeltError
from chaos.home import ROOT
from chaos.registry import Fault
from chaos.stage import Servers, Stage

ROWS_BEFORE = 300  # are stored when the first fault comes
SPREAD_SECONDS_MAX = 2.0  # of the instants at which several faults begin
DELIVERY_PATHS = ("fast", "fast", "library")
EVENT_LOOPS = ("uvloop", "uvloop", "asyncio")
SEED = "CHAOS_SEED"
SEED_BITS = 32
FAILED = ROOT / ".local" / "chaos" / "failed"  # ledgers and logs of runs that were wrong, by their seeds


@dataclass(slots=True)
class Outcome:
    """What a run has shown.

    `recovery_seconds` is from the moment when all was mended until events flowed again; `None` where they did not in
    time. `wrong` names some of the ids of what `counts` counts. `astray` are acknowledgements that the broker refused.
    """

    faults: list[str]
    seed: int
    events: int
    confirmations: int
    counts: dict[str, int]
    recovery_seconds: float | None
    astray: int
    exits: dict[str, int]
    reasons: dict[str, int]
    delivery_path: str = DELIVERY_PATHS[0]
    event_loop: str = EVENT_LOOPS[0]
    rabbitmq: str = ""  # its version
    wrong: dict[str, list[str]] = field(default_factory=dict)
    tracebacks: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        """Whether every promise was kept."""
        kept = not any(self.counts.values()) and not self.astray and not self.tracebacks
        return kept and self.recovery_seconds is not None

    def line(self) -> str:
        """As one line of JSON."""
        return json.dumps(asdict(self))


def seed_of_run() -> int:
    """CHAOS_SEED, to play a run again; else one that no other run has."""
    given = os.environ.get(SEED)
    return int(given) if given else random.SystemRandom().getrandbits(SEED_BITS)


def mix(faults: Mapping[str, Fault], seed: int) -> list[Fault]:
    """Two or three faults that a seed chooses, of different kinds."""
    chance = random.Random(seed)
    by_kind: dict[str, list[Fault]] = {}
    for fault in faults.values():
        if fault.mixes and fault.arrangement is Arrangement.SINGLE:
            by_kind.setdefault(fault.kind, []).append(fault)
    return [chance.choice(by_kind[kind]) for kind in chance.sample(sorted(by_kind), chance.choice([2, 2, 3]))]


async def play(
    servers: Servers,
    faults: Sequence[Fault],
    seed: int,
    *,
    module: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Play these faults at once.

    Args:
        servers: they may be broken, and are whole again at the end.
        faults: at least one; the first one's load and number of workers are taken.
        seed: of all that is left to chance.
        module: is run in the command's place.
        environment: of the workers, beside the faults'.

    Raises:
        NotHereError: a fault cannot be had here.
    """
    chance = random.Random(seed)
    told = {"USAGE_DELIVERY_PATH": chance.choice(DELIVERY_PATHS)}
    event_loop = chance.choice(EVENT_LOOPS) if module is None else EVENT_LOOPS[0]
    if event_loop == "asyncio":
        module = "chaos.asyncio_worker"
    for fault in faults:
        told |= fault.environment
    told |= environment or {}
    with _kept_where_wrong(seed) as kept:
        async with Stage(servers, kept.folder, seed=seed, environment=told, module=module) as stage:
            await stage.fleet.scale(faults[0].workers)
            await stage.start_producers(faults[0].load)
            await stage.fleet.until_up()  # or a fault would find only some of them
            await stage.until_more_are_stored(ROWS_BEFORE)
            await _do(stage, faults, chance)
            recovery_seconds = await _recovery(stage, sum(fault.recovery_seconds_max for fault in faults))
            await stage.settle()
            outcome = await _outcome(stage, faults, seed, recovery_seconds)
        outcome.delivery_path, outcome.event_loop = told["USAGE_DELIVERY_PATH"], event_loop
        outcome.rabbitmq = servers.rabbitmq.version
        kept.is_wrong = not outcome.is_right
        return outcome


@dataclass(slots=True)
class _Kept:
    folder: Path
    is_wrong: bool = True


@contextmanager
def _kept_where_wrong(seed: int) -> Iterator[_Kept]:
    """A folder for ledgers and logs; what is in it stays where the run fails, or its outcome is wrong."""
    with tempfile.TemporaryDirectory(prefix="usage-chaos-") as folder:
        kept = _Kept(Path(folder))
        try:
            yield kept
        finally:
            if kept.is_wrong:
                shutil.copytree(folder, FAILED / str(seed), dirs_exist_ok=True)


async def _do(stage: Stage, faults: Sequence[Fault], chance: random.Random) -> None:
    async def begin(fault: Fault, delay_seconds: float, own_chance: random.Random) -> None:
        await asyncio.sleep(delay_seconds)
        await fault.act(stage, own_chance)

    if len(faults) == 1:
        await faults[0].act(stage, chance)
        return
    tasks = [
        begin(fault, chance.uniform(0, SPREAD_SECONDS_MAX), random.Random(chance.getrandbits(SEED_BITS)))
        for fault in faults
    ]
    for result in await asyncio.gather(*tasks, return_exceptions=True):  # all are mended before one is told
        if isinstance(result, BaseException) and not isinstance(result, NotFeltError):
            raise result


async def _recovery(stage: Stage, seconds_max: float) -> float | None:
    try:
        return round(await stage.seconds_until_flowing(seconds_max), 1)
    except TimeoutError as error:
        (stage.folder / "too-late.txt").write_text(str(error), encoding="utf-8")
        return None


async def _outcome(stage: Stage, faults: Sequence[Fault], seed: int, recovery_seconds: float | None) -> Outcome:
    books = await stage.books()
    may_end = any(fault.may_end_workers for fault in faults)
    return Outcome(
        faults=[fault.name for fault in faults],
        seed=seed,
        events=books.events,
        confirmations=books.confirmations,
        counts=books.counts,
        recovery_seconds=recovery_seconds,
        astray=stage.fleet.astray(),
        exits={str(status): times for status, times in sorted(stage.fleet.exits.items())},
        reasons=dict(books.reasons),
        wrong=books.wrong,
        tracebacks=[] if may_end else stage.fleet.tracebacks(),
    )
