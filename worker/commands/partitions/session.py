"""A session of the table's owner; one command on partitions, or migration, at a time."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import click

from worker.commands.session import session
from worker.postgres.migrations import alone, explained
from worker.postgres.partitions.catalogue import require_owner


@asynccontextmanager
async def changing(command: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect, and keep others from changing the tables.

    Raises:
        UsageWorkerError: the role is not the owner.
        SchemaError: a statement cannot work in this database.
        SystemUnavailableError: the database is away, or another command is at work.
    """
    async with session(f"partitions {command}") as (connection, settings):
        await require_owner(connection)
        async with alone(connection, settings.postgres_schema):
            with explained(f"partitions {command} failed, and its last step changed nothing"):
                yield connection


def tell(text: str) -> None:
    """Progress, on standard error."""
    click.echo(text, err=True)
