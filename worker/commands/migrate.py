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
@click.option("--roles", "with_roles", is_flag=True, help="Then make the roles, and give each its rights.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def command(*, dry_run: bool, with_roles: bool, as_json: bool) -> None:
    """Create or upgrade the tables in USAGE_POSTGRES_SCHEMA.

    Needs only Postgres. Can be run again, and from several hosts at once. What is there already (users, organizations,
    ai_usage_logs with its view and function) is left as it is.

    With --roles it makes usage_owner, usage_worker, usage_reader and usage_operator where they are missing, without
    passwords, gives what this user owns of the usage tables to usage_owner, and grants each role what it needs.
    """
    if dry_run and with_roles:
        raise click.UsageError("--dry-run does not go with --roles: read schema/roles.sql, which it runs")
    asyncio.run(_migrate(dry_run=dry_run, with_roles=with_roles, as_json=as_json))


async def _migrate(*, dry_run: bool, with_roles: bool, as_json: bool) -> None:
    from worker.postgres.migrations import Applied, migrate, schema_version
    from worker.postgres.roles import ROLES, grant_roles
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
        if with_roles:
            await grant_roles(connection, schema)
            say(f"roles have their rights: {', '.join(ROLES)}", {"outcome": "granted", "roles": ROLES})
    finally:
        await connection.close(timeout=CLOSE_SECONDS_MAX)
