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
from chaos.patching import EVENT_LOOP
from chaos.registry import Fault, NotHereError
from chaos.stage import WHOLE_SECONDS_MAX, Servers, Stage

ROWS_BEFORE = 300  # are stored when the first fault comes
SPREAD_SECONDS_MAX = 2.0  # of the instants at which several faults begin
DELIVERY_PATHS = ("fast", "fast", "library")
EVENT_LOOPS = ("uvloop", "uvloop", "asyncio")
WORKER = "chaos.plain_worker"
RUN_SECONDS_MAX = 900.0
SEED = "CHAOS_SEED"
SEED_BITS = 32
FAILED = ROOT / ".local" / "chaos" / "failed"  # ledgers and logs of runs that were wrong, by their seeds


@dataclass(slots=True)
class Outcome:
    """What a run has shown.

    `unfelt` are faults that had no effect beside the others. `recovery_seconds` is from the moment when something was
    mended until events flowed again, the longest where there were several; `None` where they did not in time. `wrong`
    names some of the ids of what `counts` counts. `astray` are acknowledgements that the broker refused, `exits` how
    often workers ended with which status, and `otherwise` is all else that was not as promised, in words.
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
    otherwise: list[str] = field(default_factory=list)
    unfelt: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        """Whether every promise was kept."""
        kept = not any(self.counts.values()) and not self.astray and not self.otherwise
        return kept and self.recovery_seconds is not None

    @classmethod
    def failed(cls, faults: Sequence[Fault], seed: int, text: str) -> "Outcome":
        """Of a run that has come to no end."""
        return cls([fault.name for fault in faults], seed, 0, 0, {}, None, 0, {}, {}, otherwise=[text])

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
    whole_seconds_max: float = WHOLE_SECONDS_MAX,
) -> Outcome:
    """Play these faults at once.

    Args:
        servers: they may be broken, and are whole again at the end.
        faults: at least one; the first one's load and number of workers are taken.
        seed: of all that is left to chance.
        module: is run in the command's place.
        environment: of the workers, beside the faults'.
        whole_seconds_max: how long to wait at the end until everything is stored.

    Raises:
        NotHereError: a fault cannot be had here.
        TimeoutError: it takes too long.
    """
    chance = random.Random(seed)
    told = {"USAGE_DELIVERY_PATH": chance.choice(DELIVERY_PATHS), EVENT_LOOP: chance.choice(EVENT_LOOPS)}
    for fault in faults:
        told |= fault.environment
    told |= environment or {}
    with _kept_where_wrong(seed) as kept:
        async with (
            asyncio.timeout(RUN_SECONDS_MAX),
            Stage(servers, kept.folder, seed=seed, environment=told, module=module or WORKER) as stage,
        ):
            await stage.fleet.scale(faults[0].workers)
            await stage.start_producers(faults[0].load)
            await stage.fleet.until_up()  # or a fault would find only some of them
            await stage.until_more_are_stored(ROWS_BEFORE)
            await stage.measure_rate(faults[0].load)
            unfelt = await _do(stage, faults, chance)
            late = await _recover(stage, faults)
            stops = await stage.settle(whole_seconds_max)
            outcome = await _outcome(stage, faults, seed)
        outcome.delivery_path, outcome.event_loop = told["USAGE_DELIVERY_PATH"], told[EVENT_LOOP]
        outcome.rabbitmq = servers.rabbitmq.version
        outcome.unfelt = unfelt
        outcome.recovery_seconds = None if late else round(max(stage.recoveries), 1)
        outcome.otherwise += [*late, *_not_as_promised(stage, faults, stops, unfelt)]
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
        except NotHereError:
            kept.is_wrong = False
            raise
        finally:
            if kept.is_wrong:
                shutil.copytree(folder, FAILED / str(seed), dirs_exist_ok=True)


async def _do(stage: Stage, faults: Sequence[Fault], chance: random.Random) -> list[str]:
    """Play them; which of several nobody felt, as another one was in their way."""

    async def begin(fault: Fault, delay_seconds: float, own_chance: random.Random) -> None:
        await asyncio.sleep(delay_seconds)
        await fault.act(stage, own_chance)

    if len(faults) == 1:
        await faults[0].act(stage, chance)
        return []
    tasks = [
        begin(fault, chance.uniform(0, SPREAD_SECONDS_MAX), random.Random(chance.getrandbits(SEED_BITS)))
        for fault in faults
    ]
    results = await asyncio.gather(*tasks, return_exceptions=True)  # all are mended before one is told
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, NotFeltError):
            raise result
    return [fault.name for fault, result in zip(faults, results, strict=True) if result is not None]


async def _recover(stage: Stage, faults: Sequence[Fault]) -> list[str]:
    """Wait until events flow again; what does not."""
    seconds_max = sum(fault.recovery_seconds_max for fault in faults)
    each_worker = not any(fault.broker_forgets for fault in faults)
    try:
        await stage.until_flowing(seconds_max, each_worker=each_worker)
    except TimeoutError as error:
        (stage.folder / "too-late.txt").write_text(str(error), encoding="utf-8")
        return [str(error).partition("\n")[0]]
    return []


def _not_as_promised(stage: Stage, faults: Sequence[Fault], stops: int, unfelt: Sequence[str]) -> list[str]:
    """What neither the books nor the broker say."""
    allowed = frozenset[int]().union(*(fault.exits for fault in faults))
    found = [
        f"{times} workers ended with status {status}"
        for status, times in sorted(stage.fleet.exits.items())
        if status not in allowed
    ]
    if stops > 1 and not any(fault.broker_forgets for fault in faults):
        found.append("messages came back though all was stored")
    if len(unfelt) == len(faults):
        found.append("nobody has felt any of it")
    found += stage.fleet.tracebacks(but={fault.may_end_with for fault in faults} - {""})
    return found


async def _outcome(stage: Stage, faults: Sequence[Fault], seed: int) -> Outcome:
    books = await stage.books()
    return Outcome(
        faults=[fault.name for fault in faults],
        seed=seed,
        events=books.events,
        confirmations=books.confirmations,
        counts=books.counts,
        recovery_seconds=None,
        astray=stage.fleet.astray(),
        exits={str(status): times for status, times in sorted(stage.fleet.exits.items())},
        reasons=dict(books.reasons),
        wrong=books.wrong,
    )
