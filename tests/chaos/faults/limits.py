"""The workers log in as a role with their rights and no others, and may have fewer connections than they want."""

import asyncio
import random

import asyncpg
from harness import until

from chaos import command
from chaos.registry import fault
from chaos.stage import PASSWORD, Stage

ROLE = "chaos_limited"  # of the whole server: it stays, and is used again
ROWS = 200
REFUSED = f'too many connections for role "{ROLE}"'
_MAKE = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN
        CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}' IN ROLE usage_worker;
    END IF;
END $$;
ALTER ROLE {ROLE} CONNECTION LIMIT -1
"""
_END = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{ROLE}'"


@fault("Postgres role's connection limit reached", mixes=False)
async def limit_of_role(stage: Stage, chance: random.Random) -> None:
    """The workers' role may have one to four connections for some seconds, three times, and its sessions are ended."""
    await command.run(stage, "migrate", "--roles")
    database = await asyncpg.connect(stage.dsn, timeout=30)
    try:
        await database.execute(_MAKE)
        stage.fleet.use(USAGE_POSTGRES_DSN=stage.dsn_of_workers(ROLE))
        await stage.fleet.replace()
        await stage.until_more_are_stored(ROWS)
        for _ in range(3):
            await database.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT {chance.randint(1, 4)}")
            await _until_refused(stage, database)
            await asyncio.sleep(chance.uniform(1, 4))
            await database.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")
            await stage.until_more_are_stored(ROWS)
    finally:
        await database.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")
        database.terminate()


async def _until_refused(stage: Stage, database: asyncpg.Connection) -> None:
    """Its sessions are ended, until one of their successors has not been let in."""
    before = _refused(stage)
    await database.fetchval(_END)
    await until(lambda: _refused(stage) > before, "a worker is refused", details=stage.details)


def _refused(stage: Stage) -> int:
    """How often workers have said that they were."""
    return sum(log.read_text(errors="replace").count(REFUSED) for log in stage.folder.glob("worker-*.log"))
