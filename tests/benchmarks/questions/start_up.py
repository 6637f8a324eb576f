"""From starting the process to the first commit, with a backlog waiting."""

from benchmarks.bench import Bench

NAME = "start_up"
STARTS_PER_ROUND = 2


async def ask(bench: Bench) -> None:
    """Several starts."""
    for _ in range(bench.sizes.rounds * STARTS_PER_ROUND):
        figures = await bench.drain(bench.make(bench.sizes.start_up))
        bench.note(NAME, "worker", start_to_commit_seconds=figures["start_to_commit_seconds"])
