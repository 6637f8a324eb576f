"""`usage-worker migrate`: brings the database to this version's schema."""

import asyncio
import json
from collections.abc import Mapping

import click

CLOSE_SECONDS_MAX = 5.0
EXAMPLE = """
\b
Example:
$ export USAGE_POSTGRES_DSN=postgresql://usage@127.0.0.1:5432/usage
$ usage-worker migrate
applied 0001_usage_logs.sql in 0.12 s
applied 0002_dead_letters.sql in 0.05 s
applied 0003_bodies_given_up.sql in 0.01 s
"""


@click.command("migrate", epilog=EXAMPLE)
@click.option("--dry-run", is_flag=True, help="Show what would be applied; lock and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def command(*, dry_run: bool, as_json: bool) -> None:
    """Create or upgrade the tables in USAGE_POSTGRES_SCHEMA.

    Needs only Postgres. Can be run again, and from several hosts at once. What is there already (users, organizations,
    ai_usage_logs with its view and function) is left as it is.
    """
    asyncio.run(_migrate(dry_run=dry_run, as_json=as_json))


async def _migrate(*, dry_run: bool, as_json: bool) -> None:
    from worker.postgres.migrations import Applied, migrate, schema_version
    from worker.postgres.session import connect
    from worker.settings import load_settings

    def say(text: str, facts: Mapping[str, object]) -> None:
        click.echo(json.dumps(facts) if as_json else text)

    def say_applied(applied: Applied) -> None:
        facts = {"outcome": "applied", "migration": applied.migration.name, "seconds": round(applied.seconds, 3)}
        text = f"applied {applied.migration.name} in {applied.seconds:.2f} s"
        say("\n  ".join([text, *applied.notices]), facts | {"notices": applied.notices})

    settings = load_settings()
    schema = settings.postgres_schema
    connection = await connect(settings.postgres_dsn.get_secret_value(), schema, name="usage-worker migrate")
    try:
        done = await migrate(connection, schema, dry_run=dry_run, on_applied=say_applied)
        if dry_run:
            for migration in done:
                say(f"would apply {migration.name}", {"outcome": "would apply", "migration": migration.name})
        if not done:
            version = await schema_version(connection, schema)
            say(f"nothing to do: the schema is at {version:04}", {"outcome": "nothing to do", "version": version})
    finally:
        await connection.close(timeout=CLOSE_SECONDS_MAX)
