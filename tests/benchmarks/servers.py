"""The servers of a run: throw-away ones, or those that the environment gives."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from worker.demo import postgres_server, rabbitmq_server
from worker.demo.servers import Servers, own_kind, start_postgres, start_rabbitmq
from worker.errors import ConfigurationError

# Beside the first, what any guide to Postgres raises first; with the defaults every contender waits for checkpoints.
POSTGRES_SETTINGS = {
    "track_commit_timestamp": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "fsync": "on",
}
REPORTED_SETTINGS = (*POSTGRES_SETTINGS, "synchronous_commit")


@contextmanager
def bench_servers() -> Iterator[Servers]:
    """Both servers for as long as the block runs; a database of our own has `POSTGRES_SETTINGS`."""
    with start_postgres(settings=POSTGRES_SETTINGS) as postgres, start_rabbitmq() as rabbitmq:
        yield Servers(postgres, rabbitmq)


@contextmanager
def own_bench_servers() -> Iterator[Servers]:
    """The same, but never given ones: what is measured with these freezes them."""
    with (
        start_postgres(own_kind(postgres_server.IMAGE), settings=POSTGRES_SETTINGS) as postgres,
        start_rabbitmq(own_kind(rabbitmq_server.IMAGE)) as rabbitmq,
    ):
        yield Servers(postgres, rabbitmq)


async def settings_of(connection: asyncpg.Connection) -> dict[str, str]:
    """The settings of the database that figures depend on.

    Raises:
        ConfigurationError: it does not note when it commits, so nothing can be measured on it.
    """
    settings = {name: str(await connection.fetchval(f"SHOW {name}")) for name in REPORTED_SETTINGS}
    if settings["track_commit_timestamp"] != "on":
        raise ConfigurationError(
            "the database that USAGE_POSTGRES_DSN names does not note when rows are committed: set "
            "track_commit_timestamp = on and restart it, or unset USAGE_POSTGRES_DSN to have one started"
        )
    return settings
