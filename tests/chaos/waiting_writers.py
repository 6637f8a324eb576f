"""Writers that wait: a lock on the users of the run's events, which no transaction of a worker's gets past."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from harness import until

from chaos.faults.postgres import A_WORKER_WAITS
from chaos.load import USERS
from chaos.stage import Stage

# Others than those of the run's events, and found before them by a worker that asks whether the database takes rows: it
# consumes although a batch of its, or of another's, waits.
_OTHERS = """
INSERT INTO users VALUES ('00000000-0000-4000-8000-000000000001') ON CONFLICT DO NOTHING;
INSERT INTO organizations VALUES ('00000000-0000-4000-8000-000000000001') ON CONFLICT DO NOTHING
"""
_LOCK = f"SELECT FROM users WHERE id = ANY ('{{{','.join(map(str, USERS))}}}') FOR UPDATE"


@asynccontextmanager
async def writers_wait(stage: Stage) -> AsyncIterator[None]:
    """Every writer waits as long as the block lasts; a first one does when it begins."""
    blocker = await asyncpg.connect(stage.dsn)
    try:
        await blocker.execute(_OTHERS)
        await blocker.execute(f"BEGIN; {_LOCK}")
        await until(lambda: stage.value(A_WORKER_WAITS), "a writer waits", details=stage.details)
        yield
    finally:
        blocker.terminate()
