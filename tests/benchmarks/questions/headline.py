"""Backlog to committed rows: the worker beside its ceilings and beside what a user would pick instead."""

from benchmarks import contenders as names
from benchmarks.bench import Bench
from benchmarks.inside import copy_encoding, plain_copy, seed_function
from worker.settings import Settings

NAME = "headline"


async def ask(bench: Bench) -> None:
    """All contenders in turn, as often as there are rounds: what drifts on the machine hits all alike."""
    for _ in range(bench.sizes.rounds):
        await _single_events(bench)
        await _arrays(bench)


async def _single_events(bench: Bench) -> None:
    workload = bench.make(bench.sizes.single)
    bench.note(NAME, names.WORKER_SINGLE, **await bench.drain(workload))
    bench.note(NAME, names.WORKER_LIBRARY, **await bench.drain(workload, names.WORKER_BY_LIBRARY))
    bench.note(NAME, names.IDLE_AIO_PIKA, **await bench.consume_idly("aio_pika", workload))
    bench.note(NAME, names.IDLE_AIORMQ, **await bench.consume_idly("aiormq", workload))
    for peer, events in (
        (names.EXECUTEMANY, bench.sizes.executemany),
        (names.CELERY, bench.sizes.celery),
        (names.FASTSTREAM, bench.sizes.faststream),
    ):
        bench.note(NAME, peer.name, **await bench.drain(bench.make(events), peer))


async def _arrays(bench: Bench) -> None:
    workload = bench.make(bench.sizes.arrays, names.ARRAY_EVENTS)
    bench.note(NAME, names.WORKER_ARRAYS, **await bench.drain(workload))
    for connections in sorted({1, Settings.model_fields["writers"].default}):
        copied = await bench.inside(workload, plain_copy(bench.database.dsn, workload, connections))
        bench.note(NAME, names.copy_name(connections), **copied)
    encoding_seconds = await copy_encoding(bench.database.dsn, workload)
    bench.note(NAME, names.ENCODING, cpu_us_per_event=encoding_seconds / workload.events * 1e6)
    called = bench.make(bench.sizes.seed)
    bench.note(NAME, names.SEED, **await bench.inside(called, seed_function(bench.database.dsn, called)))
