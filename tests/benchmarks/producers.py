"""`make bench-producers`: what accounting for a call costs the service that makes it; how fast events are published.

Each way is a process of its own on one core, beside servers and a worker that use what they find. What was recorded is
stored when a run ends, with the right sums, or it is no run.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import aio_pika
import uvloop
from rich.console import Console

from benchmarks import calls as sums
from benchmarks.backlog import until_ready
from benchmarks.bench import Bench, open_bench
from benchmarks.calls import Call, read_calls
from benchmarks.contenders import WORKER
from benchmarks.machine import describe_machine
from benchmarks.peers.caller import Spec
from benchmarks.processes import TESTS, run_to_end, running
from benchmarks.producer_report import CALLS, FROZEN, OUTAGE, OVER_TIME, PLAIN, PUBLISHING, WAYS, draw, markdown
from benchmarks.producer_sizes import FULL, QUICK, ProducerSizes
from benchmarks.servers import own_bench_servers
from benchmarks.sheet import Sheet
from benchmarks.sizes import FULL as BENCH_FULL
from benchmarks.workload import Totals
from worker.demo.servers import Servers

STEP_SECONDS = 0.25
CALLER_SECONDS_MAX = 300.0


@dataclass(frozen=True, slots=True)
class Case:
    """How calls arrive, and which server is stopped meanwhile. A rate of 0: all at once."""

    name: str
    calls: int
    rate: float
    frozen: str = ""


def cases(sizes: ProducerSizes) -> list[Case]:
    """All cases."""
    steady = round(sizes.rate * sizes.seconds_with_outage)
    return [
        Case("idle", round(sizes.rate * sizes.idle_seconds), sizes.rate),
        Case("burst", sizes.burst, 0.0),
        *(Case(name, steady, sizes.rate, server) for server, name in FROZEN.items()),
    ]


class ProducerBench:
    """One run."""

    def __init__(self, bench: Bench, servers: Servers, sizes: ProducerSizes, sheet: Sheet, folder: Path) -> None:
        self._bench = bench
        self._servers = servers
        self._sizes = sizes
        self._sheet = sheet
        self._folder = folder

    async def measure(self) -> None:
        """Everything."""
        for case in cases(self._sizes):
            for way in WAYS:
                await self._call(case, way)
        for _ in range(self._sizes.rounds):
            for events_per_message, events in self._sizes.published:
                await self._publish(events, events_per_message)

    async def _call(self, case: Case, way: str) -> None:
        """One way in one case; a worker stores what is recorded."""
        await self._bench.database.reset()
        await self._bench.database.settle_down()
        begin = datetime.now(UTC)
        spec = self._spec(case, way)
        place = self._bench.place
        async with running(WORKER.command(place), WORKER.environment(place)):
            report, outage = await self._run(spec, case.frozen)
            totals = Totals.of(*(int(report[name]) for name in ("messages", "input_tokens", "output_tokens")))
            await self._bench.database.require(totals, begin)
        self._note(case, WAYS[way], read_calls(Path(spec.file)), outage)

    async def _run(self, spec: Spec, frozen: str) -> tuple[dict[str, float], tuple[float, float]]:
        """Run a caller, with a server stopped meanwhile; its report, and from when to when the server stood."""
        file = self._folder / "spec.json"
        await asyncio.to_thread(spec.write, file)
        async with _caller(file) as process:
            begun_at = await _line(process)
            outage = (0.0, float("inf"))
            if frozen:
                stopped, went_on = await self._stop_meanwhile(frozen, float(begun_at))
                outage = (stopped - float(begun_at), went_on - float(begun_at))
            report: dict[str, float] = json.loads(await _line(process))
        return report, outage

    async def _stop_meanwhile(self, name: str, begun_at: float) -> tuple[float, float]:
        server = getattr(self._servers, name)
        await asyncio.sleep(begun_at + self._sizes.before_seconds - monotonic())
        await asyncio.to_thread(server.freeze)
        stopped_at = monotonic()
        try:
            await asyncio.sleep(self._sizes.outage_seconds)
        finally:
            went_on_at = monotonic()
            await asyncio.to_thread(server.thaw)
        return stopped_at, went_on_at

    def _note(self, case: Case, contender: str, calls: list[Call], outage: tuple[float, float]) -> None:
        """Figures are of the calls that were due while the server stood; the picture has all."""
        self._bench.note(CALLS, contender, case.name, **sums.figures(sums.due_between(calls, *outage)))
        if not case.frozen:
            return
        self._sheet.note(OUTAGE, contender, case.name, from_seconds=outage[0], to_seconds=outage[1])
        for at, median, most in sums.over_time(calls, STEP_SECONDS):
            self._sheet.note(OVER_TIME[case.name], contender, at, us_p50=median, us_max=most)

    def _spec(self, case: Case, way: str) -> Spec:
        place, people = self._bench.place, self._bench.people
        organizations = len(people.organizations)
        return Spec(
            way=way,  # type: ignore[arg-type]  # one of WAYS
            core=max(os.sched_getaffinity(0)),
            calls=case.calls,
            rate=case.rate,
            warm_up=self._sizes.warm_up,
            amqp_url=place.amqp_url,
            exchange=place.exchange,
            dsn=place.dsn,
            spool_path=str(self._folder / "spool"),
            people=[(str(u), str(people.organizations[n % organizations])) for n, u in enumerate(people.users)],
            file=str(self._folder / "calls"),
        )

    async def _publish(self, events: int, events_per_message: int) -> None:
        """Publish to the queue alone; all of it stands there when it is confirmed."""
        place, people = self._bench.place, self._bench.people
        file = self._folder / "people.json"
        pairs = [[str(user), str(people.organizations[0])] for user in people.users]
        await asyncio.to_thread(file.write_text, json.dumps(pairs))
        arguments = [place.amqp_url, place.exchange, str(file), str(events), str(events_per_message)]
        async with await aio_pika.connect(place.amqp_url) as connection:
            channel = await (await connection.channel()).get_underlay_channel()
            await channel.queue_purge(place.queue)
            report = await run_to_end(["benchmarks.peers.publishing", *arguments])
            await until_ready(channel, place.queue, int(report.pop("messages")))
            await channel.queue_purge(place.queue)
        contender = "UsagePublisher" if events_per_message else PLAIN
        self._bench.note(PUBLISHING, contender, max(1, events_per_message), **report)


@asynccontextmanager
async def _caller(file: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A caller for as long as the block runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.peers.caller", file,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _line(process: asyncio.subprocess.Process) -> str:
    """What the caller says next.

    Raises:
        RuntimeError: it has ended, and said nothing.
    """
    if process.stdout is None:
        raise RuntimeError("the caller was started without a pipe")
    line = await asyncio.wait_for(process.stdout.readline(), CALLER_SECONDS_MAX)
    if not line:
        raise RuntimeError("the caller has ended without a figure: see its text above")
    return line.decode()


async def measure(sheet: Sheet, sizes: ProducerSizes, console: Console) -> None:
    """Start servers, measure."""
    with own_bench_servers() as servers, TemporaryDirectory() as folder:
        async with open_bench(servers, BENCH_FULL, sheet, console) as bench:
            await ProducerBench(bench, servers, sizes, sheet, Path(folder)).measure()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="make bench-producers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that it works, not for figures")
    parser.add_argument("--read", type=Path, help="report what a run has measured, rather than measure")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--pictures", type=Path, help="draw the picture into this folder")
    options = parser.parse_args(arguments)
    if options.read:
        sheet = Sheet.read(options.read)
    else:
        sheet = Sheet(describe_machine() | {"quick": options.quick, "command": "make bench-producers"})
        uvloop.run(measure(sheet, QUICK if options.quick else FULL, Console(stderr=True)))
    if options.json:
        sheet.write(options.json)
    sys.stdout.write(markdown(sheet))
    if options.pictures:
        draw(sheet, options.pictures)


if __name__ == "__main__":
    main()
