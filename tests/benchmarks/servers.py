"""The servers of a run: throw-away ones, or those that the environment gives."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from worker.demo.postgres_server import PostgresServer
from worker.demo.servers import Servers, start_postgres, start_rabbitmq
from worker.errors import ConfigurationError

# Beside the first, what any guide to Postgres raises first; with the defaults every contender waits for checkpoints.
POSTGRES_SETTINGS = {
    "track_commit_timestamp": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
}
REPORTED_SETTINGS = (*POSTGRES_SETTINGS, "fsync", "synchronous_commit")


@contextmanager
def bench_servers() -> Iterator[Servers]:
    """Both servers for as long as the block runs; a database of our own has `POSTGRES_SETTINGS`."""
    with start_postgres() as postgres, start_rabbitmq() as rabbitmq:
        if not _is_given(postgres):
            for name, value in POSTGRES_SETTINGS.items():
                postgres.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            postgres.restart()
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


def _is_given(postgres: PostgresServer) -> bool:
    try:
        return postgres.pid < 0
    except ConfigurationError:  # it is somebody else's
        return True
