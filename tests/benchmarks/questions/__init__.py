"""What is asked, a file a question; each notes its figures under its own name."""

from collections.abc import Awaitable, Callable

from benchmarks.bench import Bench
from benchmarks.questions import (
    headline,
    latency,
    memory,
    message_sizes,
    mixtures,
    profile,
    start_up,
    table_sizes,
    worker_processes,
)

Ask = Callable[[Bench], Awaitable[None]]

HEADLINE = "headline"
QUESTIONS: dict[str, Ask] = {
    HEADLINE: headline.ask,
    "message_sizes": message_sizes.ask,
    "worker_processes": worker_processes.ask,
    "latency": latency.ask,
    "repeated": mixtures.ask_repeated,
    "refused": mixtures.ask_refused,
    "memory": memory.ask,
    "start_up": start_up.ask,
    "profile": profile.ask,
    "table_sizes": table_sizes.ask,
}
