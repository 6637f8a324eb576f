"""Backlog to committed rows where a share of the events comes twice, or is refused."""

from benchmarks import contenders as names
from benchmarks.bench import Bench
from benchmarks.workload import make_workload

REPEATED, REFUSED = "repeated", "refused"
SHARES = (0.0, 0.01, 0.1, 0.5)


async def ask_repeated(bench: Bench) -> None:
    """Shares of events that were delivered before, with the same content."""
    await _ask(bench, REPEATED)


async def ask_refused(bench: Bench) -> None:
    """Shares of events that become dead letters: of a wrong type, with tokens that do not add up, of nobody's."""
    await _ask(bench, REFUSED)


async def _ask(bench: Bench, question: str) -> None:
    for _ in range(bench.sizes.rounds):
        for share in SHARES:
            for name, events, size in (
                (names.WORKER_SINGLE, bench.sizes.mixed_single, 1),
                (names.WORKER_ARRAYS, bench.sizes.mixed_arrays, names.ARRAY_EVENTS),
            ):
                repeated, refused = (share, 0.0) if question == REPEATED else (0.0, share)
                workload = make_workload(bench.people, events, size, repeated=repeated, refused=refused)
                bench.note(question, name, share, **await bench.drain(workload))
