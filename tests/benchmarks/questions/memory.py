"""Peak memory of the worker by the size of the backlog that it finds."""

from benchmarks.bench import Bench

NAME = "memory"


async def ask(bench: Bench) -> None:
    """Each backlog once: the peak is the kernel's account, and drifts with nothing."""
    for events in bench.sizes.backlogs:
        bench.note(NAME, "worker", events, **await bench.drain(bench.make(events)))
