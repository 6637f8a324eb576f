"""Before a worker consumes, the database has to show that it writes: that it reads says too little."""

import pytest
from batches import host

from worker.errors import SystemUnavailableError
from worker.postgres.store import PostgresStore

FAIL = """
    CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '{state}'; END $$;
    CREATE TRIGGER fail BEFORE INSERT ON ai_usage_logs FOR EACH ROW EXECUTE FUNCTION fail()
"""


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        (FAIL.format(state="53100"), "DROP TRIGGER fail ON ai_usage_logs"),
        (
            "ALTER TABLE ai_usage_logs RENAME request_type TO kind",
            "ALTER TABLE ai_usage_logs RENAME kind TO request_type",
        ),
    ],
    ids=["disk full", "column gone"],
)
async def test_a_database_that_only_reads_does_not_answer(migrated_dsn: str, broken: str, mended: str) -> None:
    """A full disk or a missing column stops consumption before it begins; mended, it goes on; nothing was written."""
    store = PostgresStore(migrated_dsn, "public", worker="test")
    async with host(migrated_dsn) as connection:
        try:
            await store.ping()
            await connection.execute(broken)
            for _ in range(2):
                with pytest.raises(SystemUnavailableError):
                    await store.ping()
            await connection.execute(mended)
            await store.ping()
        finally:
            await store.close()
        assert await connection.fetchval("SELECT count(*) FROM ai_usage_logs") == 0


async def test_a_rule_of_the_host_does_not_stop_the_start(migrated_dsn: str) -> None:
    """Where the host demands a model of every event, a worker starts: the batches will show which rows are bad."""
    store = PostgresStore(migrated_dsn, "public", worker="test")
    async with host(migrated_dsn) as connection:
        await connection.execute("ALTER TABLE ai_usage_logs ALTER model SET NOT NULL")
        try:
            await store.ping()
        finally:
            await store.close()
