"""Backlog to committed rows by how many worker processes share it."""

from benchmarks import contenders as names
from benchmarks.bench import Bench

NAME = "worker_processes"
PROCESSES = (1, 2, 4)


async def ask(bench: Bench) -> None:
    """Each number in turn, for both forms of message, as often as there are rounds."""
    single = bench.make(bench.sizes.single)
    arrays = bench.make(bench.sizes.arrays, names.ARRAY_EVENTS)
    for _ in range(bench.sizes.rounds):
        for processes in PROCESSES:
            bench.note(NAME, names.WORKER_SINGLE, processes, **await bench.drain(single, processes=processes))
            bench.note(NAME, names.WORKER_ARRAYS, processes, **await bench.drain(arrays, processes=processes))
