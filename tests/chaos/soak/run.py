"""The run of a soak: load, faults that the seed draws with quiet between them, samples all the time, and the books."""

import asyncio
import random
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

from harness.waiting import until

from chaos.arrangement import Arrangement
from chaos.fleet import Fleet
from chaos.load import Load
from chaos.registry import Fault, NotHereError
from chaos.run import FAILED
from chaos.soak.report import Played, Soaked
from chaos.soak.samples import EVERY_SECONDS, Sample, Sampler
from chaos.soak.verdict import judge_all
from chaos.stage import SETTLE_SECONDS_MAX, Servers, Stage

GONE_SECONDS_MAX = 60.0
END_SAMPLES = 3
BAD_SHARE = 0.01
ERROR_CHARACTERS_MAX = 2000
_NOT_SETTLED = (AssertionError, TimeoutError)


@dataclass(slots=True, frozen=True)
class Options:
    """How long, and how much. `rate` is in events a second of each of the two producers."""

    minutes: float
    seed: int
    rate: int = 300
    quiet_seconds: float = 30.0
    folder: Path | None = None  # for ledgers and logs; a throw-away one

    @property
    def run_seconds(self) -> float:
        """How long there is load."""
        return self.minutes * 60


@dataclass(slots=True)
class _Soak:
    """What is under way."""

    stage: Stage
    options: Options
    chance: random.Random
    begun_at: float = field(default_factory=monotonic)
    played: list[Played] = field(default_factory=list)

    def seconds(self) -> float:
        """Since the begin."""
        return round(monotonic() - self.begun_at, 1)

    @property
    def is_over(self) -> bool:
        """Whether the load has lasted long enough."""
        return self.seconds() >= self.options.run_seconds


def drawn(faults: Mapping[str, Fault], chance: random.Random) -> list[Fault]:
    """The faults that can be played beside a load of one's own and on workers that are there, in an order of chance."""
    plain = Load()
    fitting = [
        fault
        for fault in faults.values()
        if fault.mixes
        and fault.soaks
        and fault.arrangement is Arrangement.SINGLE
        and not (fault.environment or fault.may_end_with or fault.load != plain)
    ]
    return chance.sample(fitting, len(fitting))


async def soak(servers: Servers, faults: Mapping[str, Fault], options: Options) -> Soaked:
    """Run it to its end.

    One worker is the steady one: no fault of the kind `workers` knows of it, so that it lives from the begin to the
    end. The other one is killed, frozen and stopped like any. Where something is wrong, ledgers and logs are kept.
    """
    with tempfile.TemporaryDirectory(prefix="usage-soak-", dir=options.folder) as folder:
        is_right = False
        try:
            async with Stage(servers, Path(folder), seed=options.seed, environment={}) as stage:
                (Path(folder) / "steady").mkdir()
                steady = Fleet(stage.worker_environment(), Path(folder) / "steady")
                try:
                    soaked = await _soak(stage, steady, faults, options)
                finally:
                    await steady.kill_all()
            is_right = not soaked.problems()
        finally:
            if not is_right:
                kept = FAILED / f"soak-{options.seed}"
                shutil.copytree(folder, kept, dirs_exist_ok=True)
                sys.stderr.write(f"its ledgers and logs are kept in {kept}\n")
    return soaked


async def _soak(stage: Stage, steady: Fleet, faults: Mapping[str, Fault], options: Options) -> Soaked:
    await asyncio.gather(steady.scale(1), stage.fleet.scale(1))
    await asyncio.gather(steady.until_up(), stage.fleet.until_up())
    await stage.start_producers(Load(rate=options.rate, bad_share=BAD_SHARE))
    under_way = _Soak(stage, options, random.Random(options.seed))
    pid = steady.running[0].pid
    sampler = Sampler(stage, steady, under_way.begun_at)
    sampling = asyncio.ensure_future(sampler.run())
    try:
        await _play_on(under_way, faults)
        run_seconds = under_way.seconds()
        errors = await _wind_up(stage)
        has_lived = [worker.pid for worker in steady.running] == [pid]
    finally:
        sampler.stop()
        await sampling
    await steady.scale(0)
    played = [faults[one.name] for one in under_way.played]
    try:
        if await stage.settle() > 1 and not any(fault.broker_forgets for fault in played):
            errors.append("messages came back though all was stored")
    except _NOT_SETTLED as failure:
        errors.append(f"it does not settle: {failure}"[:ERROR_CHARACTERS_MAX])
    errors += unexpected(steady.exits, frozenset({0}))
    errors += unexpected(stage.fleet.exits, frozenset[int]().union(*(fault.exits for fault in played)))
    soaked = await _result(under_way, steady, sampler.samples, run_seconds)
    soaked.has_lived = has_lived
    soaked.errors = [*sampler.errors, *errors]
    return soaked


def unexpected(exits: Mapping[int, int], allowed: frozenset[int]) -> list[str]:
    """How often workers ended with a status that they may not have had."""
    return [
        f"{times} workers ended with status {status}"
        for status, times in sorted(exits.items())
        if status not in allowed
    ]


async def _wind_up(stage: Stage) -> list[str]:
    """No load any more, and some samples of what is held then; what went wrong in it: an hour is worth its books."""
    errors = []
    try:
        await stage.stop_producers()
        await until(stage.is_drained, "the queues are empty", seconds_max=SETTLE_SECONDS_MAX, details=stage.details)
    except _NOT_SETTLED as failure:
        errors.append(f"the load does not end: {failure}"[:ERROR_CHARACTERS_MAX])
    await asyncio.sleep(END_SAMPLES * EVERY_SECONDS)
    return errors


async def _play_on(under_way: _Soak, faults: Mapping[str, Fault]) -> None:
    """One fault after the other until the time is over; each once before any comes again."""
    rest: list[Fault] = []
    await asyncio.sleep(under_way.options.quiet_seconds)
    while not under_way.is_over:
        rest = rest or drawn(faults, under_way.chance)
        played = await _play(under_way, rest.pop())
        if played is not None:
            under_way.played.append(played)
            # The last one, too, is followed by quiet: what it has left behind counts.
            await asyncio.sleep(under_way.options.quiet_seconds)


async def _play(under_way: _Soak, fault: Fault) -> Played | None:
    """Play one, to its end and until events flow again; `None` where it cannot be had here."""
    begin_seconds = under_way.seconds()
    error = ""
    recovery_seconds: float | None = None
    try:
        await fault.act(under_way.stage, random.Random(under_way.chance.getrandbits(32)))
    except NotHereError:
        return None
    except Exception as failure:  # noqa: BLE001 - it is told at the end: an hour's other results are worth something
        error = f"{type(failure).__name__}: {failure}"[:ERROR_CHARACTERS_MAX]
        await asyncio.to_thread(under_way.stage.servers.mend)
    mended_seconds = under_way.seconds()
    try:
        recovery_seconds = round(await under_way.stage.until_flowing(fault.recovery_seconds_max), 1)
    except Exception as failure:  # noqa: BLE001 - the same
        error = error or f"{type(failure).__name__}: {failure}"[:ERROR_CHARACTERS_MAX]
        await asyncio.to_thread(under_way.stage.servers.mend)
    played = Played(
        fault.name, fault.kind, begin_seconds, mended_seconds, under_way.seconds(), recovery_seconds, error,
        fault.recovery_seconds_max,
    )  # fmt: skip
    sys.stderr.write(f"{played.line()}\n")
    return played


async def _result(under_way: _Soak, steady: Fleet, samples: Sequence[Sample], run_seconds: float) -> Soaked:
    stage = under_way.stage
    books = await stage.books()
    return Soaked(
        seed=under_way.options.seed,
        rate=under_way.options.rate,
        run_seconds=run_seconds,
        events=books.events,
        confirmations=books.confirmations,
        counts=books.counts,
        wrong=books.wrong,
        reasons=dict(books.reasons),
        astray=steady.astray() + stage.fleet.astray(),
        tracebacks=steady.tracebacks() + stage.fleet.tracebacks(),
        left=await _left(stage),
        played=under_way.played,
        flatness=judge_all(samples, [played.span for played in under_way.played], run_seconds),
        samples=list(samples),
        seen_on=datetime.now(UTC).date().isoformat(),
    )


async def _left(stage: Stage) -> int:
    """Sessions that workers have left in Postgres though they have ended, once the server has had its time.

    Those whose peer has vanished in a half-open connection end first: they would wait for TCP's keepalive, for hours.
    """
    await stage.workers_to_postgres.cut()
    query = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name LIKE 'usage-worker%'
    """
    give_up_at = monotonic() + GONE_SECONDS_MAX
    while True:
        left = int(await stage.value(query))
        if not left or monotonic() > give_up_at:
            return left
        await asyncio.sleep(0.5)
