"""Backlog to committed rows by how many events a message holds."""

from benchmarks.bench import Bench

NAME = "message_sizes"
EVENTS_PER_MESSAGE = (1, 10, 100, 1000)


async def ask(bench: Bench) -> None:
    """Each size in turn, as often as there are rounds."""
    for _ in range(bench.sizes.rounds):
        for size in EVENTS_PER_MESSAGE:
            events = bench.sizes.single if size == 1 else bench.sizes.mixed_arrays
            bench.note(NAME, "worker", size, **await bench.drain(bench.make(events, size)))
