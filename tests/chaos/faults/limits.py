"""The workers log in as a role with their rights and no others, and may have fewer connections than they want."""

import asyncio
import random

import asyncpg

from chaos import command
from chaos.registry import fault
from chaos.stage import PASSWORD, Stage

ROLE = "chaos_limited"  # of the whole server: it stays, and is used again
ROWS = 200
REFUSED = "too many connections for role"
_MAKE = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN
        CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}' IN ROLE usage_worker;
    END IF;
END $$;
ALTER ROLE {ROLE} CONNECTION LIMIT -1
"""
_SESSIONS = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{ROLE}'"
_END = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{ROLE}'"


@fault("Postgres role's connection limit reached", mixes=False)
async def limit_of_role(stage: Stage, chance: random.Random) -> None:
    """The workers' role may have one connection for some seconds, thrice: its sessions are ended, a worker started."""
    await command.run(stage, "migrate", "--roles")
    database = await asyncpg.connect(stage.dsn, timeout=30)
    try:
        await database.execute(_MAKE)
        stage.fleet.use(USAGE_POSTGRES_DSN=stage.dsn_of_workers(ROLE))
        await stage.fleet.replace()
        for _ in range(3):
            await stage.fleet.until_up()
            await stage.until_more_are_stored(ROWS)
            said = stage.fleet.times_said(REFUSED)
            await database.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT 1")
            await database.fetchval(_END)
            # What a worker logs of an outage is how it began: one that begins now says why it is not let in.
            await (await stage.fleet.pick(chance)).kill()
            await stage.fleet.until_said(REFUSED, said)
            await asyncio.sleep(chance.uniform(1, 5))
            assert await database.fetchval(_SESSIONS) <= 1
            await database.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")
    finally:
        await database.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")
        database.terminate()
