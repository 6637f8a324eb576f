"""The roles of `schema/roles.sql` on a real server: each may do what docs/security.md says, and nothing else."""

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from harness.events import ORGANIZATION, USER
from hosted import Hosted, execute, let_log_in, make_host

from worker.demo import postgres_server
from worker.demo.postgres_server import PostgresServer
from worker.demo.servers import own_kind, start_postgres
from worker.postgres.roles import ROLES, roles_sql

DOC = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
LETTER = (
    "INSERT INTO ai_usage_dead_letters (fingerprint, reason, body, first_seen, last_seen)"
    " VALUES (sha256(gen_random_uuid()::text::bytea), 'invalid', 'x', now(), now())"
)
EVENT = f"INSERT INTO ai_usage_logs (user_id, organization_id) VALUES ('{USER}', '{ORGANIZATION}')"
ACTIONS = {
    "store an event": EVENT,
    "read stored events": "SELECT * FROM ai_usage_logs",
    "read the daily sums": "SELECT * FROM ai_usage_daily",
    "change a stored event": "UPDATE ai_usage_logs SET estimated_cost_usd = 0",
    "delete a stored event": "DELETE FROM ai_usage_logs",
    "empty the table of events": "TRUNCATE ai_usage_logs",
    "record a refused event": LETTER,
    "read why events were refused, and how many": "SELECT reason, app_id, sum(occurrences)"
    " FROM ai_usage_dead_letters WHERE status = 'open' GROUP BY 1, 2",
    "read the bodies of refused events": "SELECT body, edited_body FROM ai_usage_dead_letters",
    "read the errors of refused events, which quote them": "SELECT errors FROM ai_usage_dead_letters",
    "settle a refused event": "UPDATE ai_usage_dead_letters SET status = 'recovered'",
    "mend a refused event": "UPDATE ai_usage_dead_letters SET edited_body = 'y'",
    "change from whom a refused event came": "UPDATE ai_usage_dead_letters SET app_id = ''",
    "delete a refused event": "DELETE FROM ai_usage_dead_letters",
    "add to the history": "INSERT INTO ai_usage_dead_letter_actions (who, letter_id, action)"
    " VALUES ('x', gen_random_uuid(), 'note')",
    "read the history": "SELECT * FROM ai_usage_dead_letter_actions",
    "change the history": "UPDATE ai_usage_dead_letter_actions SET who = 'somebody else'",
    "delete from the history": "DELETE FROM ai_usage_dead_letter_actions",
    "see which users exist": "SELECT id FROM users",
    "read anything else about users": "SELECT email FROM users",
    "add, change or delete a user": "DELETE FROM users",
    "read the host's other tables": "SELECT * FROM invoices",
    "change a table's columns": "ALTER TABLE ai_usage_logs ADD COLUMN x INTEGER",
    "drop a table": "DROP TABLE ai_usage_dead_letters",
    "create a table in the schema": "CREATE TABLE mine (x INTEGER)",
    "note a migration as applied": "INSERT INTO ai_usage_migrations (version, name, checksum) VALUES (9999, 'x', 'x')",
    "become the owner": "SET LOCAL ROLE usage_owner",
    "make a role": "CREATE ROLE mallory SUPERUSER",
}


def documented() -> dict[tuple[str, str], bool]:
    """What each role may do as the page's table says, by action and role."""
    table = DOC[DOC.index("| what | usage_owner") :].partition("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    roles = cells[0][1:]
    assert set(roles) == set(ROLES)
    assert {cell for row in cells[2:] for cell in row[1:]} == {"yes", "no"}
    return {(row[0], role): cell == "yes" for row in cells[2:] for role, cell in zip(roles, row[1:], strict=True)}


MAY = documented()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of this module's own: roles are shared by all databases of a server."""
    with start_postgres(own_kind(postgres_server.IMAGE)) as started:
        yield started


@pytest.fixture(scope="module")
def hosted(server: PostgresServer) -> Hosted:
    """A host's database after `usage-worker migrate --roles`, with an event, a letter and an action in it."""
    made = make_host(server)
    done = made.run(None, "migrate", "--roles")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"roles have their rights: {', '.join(ROLES)}\n")
    let_log_in(made)
    execute(made.admin, f"{EVENT}; {LETTER}; {ACTIONS['add to the history']}")
    return made


@pytest.fixture
async def session(hosted: Hosted, role: str) -> AsyncIterator[asyncpg.Connection]:
    """A session of the role; what happens in it is rolled back."""
    connection = await asyncpg.connect(hosted.dsn(role))
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


def test_the_page_knows_each_action() -> None:
    """Each row of the page's table is tried below, and each that is tried stands there."""
    assert {action for action, _ in MAY} == set(ACTIONS)
    assert len(MAY) == len(ACTIONS) * len(ROLES)


@pytest.mark.parametrize(("action", "role"), [one for one, may in MAY.items() if not may])
async def test_what_a_role_must_not_do(session: asyncpg.Connection, action: str) -> None:
    """Postgres refuses it with 42501."""
    with pytest.raises(asyncpg.PostgresError) as refused:
        await session.execute(ACTIONS[action])
    assert refused.value.sqlstate == "42501"


@pytest.mark.parametrize(("action", "role"), [one for one, may in MAY.items() if may])
async def test_what_a_role_may_do(session: asyncpg.Connection, action: str) -> None:
    """It works: what the table grants is granted, and the statements above are refused for lack of rights alone."""
    await session.execute(ACTIONS[action])


async def test_no_role_can_log_in_by_itself(server: PostgresServer) -> None:
    """The file gives no passwords, no logins, and no rights on the server."""
    connection = await asyncpg.connect(server.dsn)
    transaction = connection.transaction()
    await transaction.start()
    try:
        # Under other names: the roles themselves may have been let in by now.
        await connection.execute(re.sub(r"\busage_(owner|worker|reader|operator)\b", r"probe_\1", roles_sql()))
        made = await connection.fetch(
            "SELECT rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication,"
            " rolpassword IS NOT NULL FROM pg_authid WHERE rolname LIKE 'probe_%'"
        )
        assert [tuple(role) for role in made] == [(False,) * 7] * 4
    finally:
        await transaction.rollback()
        await connection.close()
