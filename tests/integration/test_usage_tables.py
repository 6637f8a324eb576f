"""The tables, the view and the function that migrations make or find, on a real server."""

from collections.abc import AsyncIterator
from decimal import Decimal

import asyncpg
import pytest
from usage_events.contract import Reason

from worker.postgres.differences import differences
from worker.postgres.migrations import migrate
from worker.postgres.session import connect

# What a host application that logged usage in its own requests holds, with days of the session's time zone.
SEED = """
    CREATE TABLE users (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), email TEXT NOT NULL UNIQUE);
    CREATE TABLE organizations (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), name TEXT NOT NULL);
    CREATE TABLE ai_usage_logs (
        id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
        user_id UUID NOT NULL REFERENCES users(id) ON DELETE CASCADE,
        organization_id UUID NOT NULL REFERENCES organizations(id) ON DELETE CASCADE,
        tokens_used INTEGER NOT NULL DEFAULT 0,
        input_tokens INTEGER NOT NULL DEFAULT 0,
        output_tokens INTEGER NOT NULL DEFAULT 0,
        endpoint VARCHAR(255),
        model VARCHAR(100),
        request_type VARCHAR(50),
        request_metadata JSONB,
        estimated_cost_usd NUMERIC(10,6),
        created_at TIMESTAMPTZ NOT NULL DEFAULT NOW()
    );
    CREATE INDEX idx_ai_usage_user ON ai_usage_logs(user_id);
    CREATE INDEX idx_ai_usage_org ON ai_usage_logs(organization_id);
    CREATE INDEX idx_ai_usage_created ON ai_usage_logs(created_at);
    CREATE INDEX idx_ai_usage_endpoint ON ai_usage_logs(endpoint);
    CREATE INDEX idx_ai_usage_type ON ai_usage_logs(request_type);
    COMMENT ON TABLE ai_usage_logs IS 'Tracks AI token usage for billing and analytics';
    CREATE FUNCTION log_ai_usage(
        p_user_id UUID, p_org_id UUID, p_tokens INTEGER, p_input_tokens INTEGER, p_output_tokens INTEGER,
        p_endpoint VARCHAR, p_model VARCHAR, p_request_type VARCHAR, p_metadata JSONB
    ) RETURNS UUID AS $$
    DECLARE v_id UUID;
    BEGIN
        INSERT INTO ai_usage_logs (user_id, organization_id, tokens_used, input_tokens, output_tokens, endpoint, model,
            request_type, request_metadata, estimated_cost_usd)
        VALUES (p_user_id, p_org_id, p_tokens, p_input_tokens, p_output_tokens, p_endpoint, p_model,
            p_request_type, p_metadata, p_input_tokens * 0.000001 + p_output_tokens * 0.000003)
        RETURNING id INTO v_id;
        RETURN v_id;
    END $$ LANGUAGE plpgsql;
    CREATE VIEW ai_usage_daily AS
    SELECT DATE(created_at) AS usage_date, user_id, organization_id, request_type, SUM(tokens_used) AS total_tokens,
        SUM(input_tokens) AS total_input, SUM(output_tokens) AS total_output, COUNT(*) AS request_count,
        SUM(estimated_cost_usd) AS total_cost
    FROM ai_usage_logs GROUP BY DATE(created_at), user_id, organization_id, request_type;
    INSERT INTO users (email) VALUES ('ada@example.com'), ('bob@example.com');
    INSERT INTO organizations (name) VALUES ('Example');
    SELECT log_ai_usage(users.id, organizations.id, 30, 10, 20, '/chat', 'm', 'chat', '{}') FROM users, organizations;
    GRANT SELECT ON ai_usage_daily TO PUBLIC;
    GRANT SELECT, INSERT ON ai_usage_logs TO pg_monitor;
"""
# Everything that a migration could change about an object without leaving another one.
SEED_STATE = """
    SELECT relname AS name, pg_class.oid, xmin::TEXT, relacl::TEXT, relfilenode, obj_description(pg_class.oid)
    FROM pg_class WHERE relname ~ '^(users|organizations|ai_usage_logs|ai_usage_daily|idx_ai_usage)'
    UNION ALL SELECT proname, oid, xmin::TEXT, proacl::TEXT, 0, prosrc FROM pg_proc WHERE proname = 'log_ai_usage'
    UNION ALL SELECT id::TEXT, 0, xmin::TEXT, '', tokens_used, ctid::TEXT FROM ai_usage_logs
    UNION ALL SELECT email, 0, xmin::TEXT, '', 0, id::TEXT FROM users
    ORDER BY name
"""


@pytest.fixture
async def connection(database_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A session as the migrate command has it, in a fresh database."""
    connection = await connect(database_dsn, "public", name="test")
    yield connection
    await connection.close()


@pytest.fixture
async def other(database_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A second session in the same database: the host application's."""
    connection = await asyncpg.connect(database_dsn)
    yield connection
    await connection.close()


async def add_user(connection: asyncpg.Connection) -> tuple[str, str]:
    """A user and an organization to log usage for."""
    return (
        await connection.fetchval("INSERT INTO users DEFAULT VALUES RETURNING id"),
        await connection.fetchval("INSERT INTO organizations DEFAULT VALUES RETURNING id"),
    )


async def test_a_database_that_holds_it_already(connection: asyncpg.Connection, other: asyncpg.Connection) -> None:
    """All of it stays, grants and rows included, no writer is waited for, and what is skipped is said."""
    await connection.execute(SEED)
    before = await connection.fetch(SEED_STATE)
    said: list[str] = []
    async with other.transaction():
        await other.execute(
            "INSERT INTO ai_usage_logs (user_id, organization_id) SELECT user_id, organization_id"
            " FROM ai_usage_logs LIMIT 1; DELETE FROM ai_usage_logs WHERE tokens_used = 0"
        )
        await migrate(connection, "public", on_applied=lambda applied: said.extend(applied.notices))
    assert await connection.fetch(SEED_STATE) == before
    assert [line.split('"')[1] for line in said] == [
        "users",
        "organizations",
        "ai_usage_logs",
        "log_ai_usage",
        "ai_usage_daily",
    ]
    assert await differences(connection, "public") == [
        "public.ai_usage_daily: its days follow the session's TimeZone, not UTC: set TimeZone where it is read"
    ]


async def test_days_are_utc_days(connection: asyncpg.Connection) -> None:
    """One instant before and one at midnight UTC are two days for a session in Auckland and for one in Honolulu."""
    await migrate(connection, "public")
    user, organization = await add_user(connection)
    await connection.execute(
        "INSERT INTO ai_usage_logs (user_id, organization_id, created_at)"
        " SELECT $1, $2, unnest('{2026-03-01T23:59:59.999999Z, 2026-03-02T00:00:00Z}'::TIMESTAMPTZ[])",
        user,
        organization,
    )
    for zone in ("Pacific/Auckland", "Pacific/Honolulu"):
        await connection.execute(f"SET TimeZone = '{zone}'")
        rows = await connection.fetch("SELECT usage_date::TEXT, request_count FROM ai_usage_daily ORDER BY 1")
        assert [tuple(row) for row in rows] == [("2026-03-01", 1), ("2026-03-02", 1)]


@pytest.mark.parametrize(
    ("tokens", "cost"),
    [("100, 60, 40", Decimal("0.000180")), ("0, 0, 0", Decimal(0)), ("100", None), ("1, 1", Decimal("0.000001"))],
)
async def test_log_ai_usage_prices_what_it_can(
    connection: asyncpg.Connection, tokens: str, cost: Decimal | None
) -> None:
    """The parts have a price, a total alone has none; the id is that of the row."""
    await migrate(connection, "public")
    user, organization = await add_user(connection)
    logged = await connection.fetchval(f"SELECT log_ai_usage($1, $2, {tokens})", user, organization)
    row = await connection.fetchrow("SELECT id, estimated_cost_usd AS cost, model FROM ai_usage_logs")
    assert row is not None
    assert (row["id"], row["cost"], row["model"]) == (logged, cost, None)


LETTER = (
    "INSERT INTO ai_usage_dead_letters (fingerprint, reason, status, body, first_seen, last_seen)"
    " VALUES (sha256($1::TEXT::BYTEA), $2, $3, '', now(), now())"
)


async def test_letters_take_every_reason(connection: asyncpg.Connection) -> None:
    """The table knows each reason of the contract and each status, and no other; a body has one letter."""
    await migrate(connection, "public")
    for number, reason in enumerate(Reason):
        await connection.execute(LETTER, str(number), reason, ("open", "recovered", "discarded")[number % 3])
    for wrong in (("a", "oops", "open"), ("b", "invalid", "closed")):
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(LETTER, *wrong)
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute(LETTER, "0", "invalid", "open")


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("DROP VIEW ai_usage_daily", "ai_usage_daily is missing: run usage-worker migrate"),
        ("DROP TABLE ai_usage_logs CASCADE", "ai_usage_logs is missing: run usage-worker migrate"),
        ("DROP FUNCTION log_ai_usage", "log_ai_usage is missing: run usage-worker migrate"),
        (
            "ALTER TABLE ai_usage_logs DROP COLUMN endpoint CASCADE",
            "ai_usage_logs.endpoint is missing: add it as character varying(255)",
        ),
        (
            "ALTER TABLE ai_usage_logs ALTER COLUMN model TYPE TEXT",
            "ai_usage_logs.model is text, not character varying(100)",
        ),
        (
            "ALTER TABLE ai_usage_logs ALTER COLUMN created_at DROP NOT NULL",
            (
                "ai_usage_logs.created_at is timestamp with time zone DEFAULT now(), "
                "not timestamp with time zone NOT NULL DEFAULT now()"
            ),
        ),
        (
            "ALTER TABLE ai_usage_logs ADD region TEXT NOT NULL",
            "ai_usage_logs.region is NOT NULL without a default: no event can be stored until it has one",
        ),
        (
            "DROP INDEX idx_ai_usage_created; CREATE INDEX ON ai_usage_logs (created_at) WHERE tokens_used > 0",
            (
                "ai_usage_logs: no index begins with created_at, as idx_ai_usage_created does: "
                "searches by it read the whole table"
            ),
        ),
        (
            "ALTER TABLE ai_usage_logs DROP CONSTRAINT ai_usage_logs_pkey",
            "ai_usage_logs: there is no PRIMARY KEY (id): ids are not kept unique",
        ),
        (
            (
                "ALTER TABLE ai_usage_logs DROP CONSTRAINT ai_usage_logs_user_id_fkey,"
                " ADD FOREIGN KEY (user_id) REFERENCES users (id)"
            ),
            (
                "ai_usage_logs: there is no FOREIGN KEY (user_id) REFERENCES users(id) ON DELETE CASCADE: "
                "rows of deleted users stay or stop the deletion"
            ),
        ),
        (
            "ALTER VIEW ai_usage_daily RENAME COLUMN total_cost TO cost",
            (
                "ai_usage_daily has the columns usage_date, user_id, organization_id, request_type, total_tokens, "
                "total_input, total_output, request_count, cost, not usage_date, user_id, organization_id, "
                "request_type, total_tokens, total_input, total_output, request_count, total_cost"
            ),
        ),
        (
            "DROP FUNCTION log_ai_usage; CREATE FUNCTION log_ai_usage(INTEGER) RETURNS TEXT RETURN 'x'",
            (
                "log_ai_usage takes (integer) returns text; not (uuid, uuid, integer, integer, integer, "
                "character varying, character varying, character varying, jsonb) returns uuid"
            ),
        ),
    ],
)
async def test_each_difference_is_said(connection: asyncpg.Connection, change: str, difference: str) -> None:
    """One change, one line: what is there, what should be, or what follows from it."""
    await migrate(connection, "public")
    await connection.execute(change)
    assert f"public.{difference}" in await differences(connection, "public")


async def test_what_does_no_harm_is_no_difference(connection: asyncpg.Connection) -> None:
    """More columns that fill themselves, more indexes, other names of indexes, and overloads are the host's own."""
    await migrate(connection, "public")
    await connection.execute("""
        ALTER TABLE ai_usage_logs ADD note TEXT, ADD region TEXT NOT NULL DEFAULT 'eu',
            ADD number BIGINT GENERATED ALWAYS AS IDENTITY;
        ALTER INDEX idx_ai_usage_user RENAME TO by_user;
        CREATE INDEX ON ai_usage_logs (region);
        CREATE FUNCTION log_ai_usage(INTEGER) RETURNS TEXT RETURN 'x';
    """)
    assert await differences(connection, "public") == []
