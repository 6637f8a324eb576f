"""`usage-worker retain` from outside: what is old goes, nothing else, whatever happens meanwhile."""

import asyncio
import json
import os
import signal
import subprocess
from datetime import UTC, datetime, timedelta, tzinfo

import pytest
from desk import Desk, run_command
from harness import ORGANIZATION, USER, System, event, message, until
from harness.worker import COMMAND

from worker.commands.retain import _retain
from worker.postgres.retain import ROWS_AT_ONCE
from worker.retention.months import Month

FILL = """
INSERT INTO ai_usage_logs (user_id, organization_id, created_at)
SELECT $1, $2, $3::timestamptz + (n - $4::int / 2) * interval '1 second' FROM generate_series(0, $4::int - 1) n
"""
BEFORE = Month.of(datetime.now(UTC)).plus(-3)
OLD = "UPDATE ai_usage_dead_letters SET first_seen = now() - interval '2 years' WHERE body = 'old'"


async def fill(desk: Desk, rows: int) -> None:
    """Half of them from before the horizon of three months, to the second."""
    await desk.database.execute(FILL, USER, ORGANIZATION, BEFORE.start, rows)


async def rows(desk: Desk) -> tuple[int, int]:
    """How many there are from before the horizon, and since then."""
    count = (
        "SELECT count(*) FILTER (WHERE created_at < $1), count(*) FILTER (WHERE created_at >= $1) FROM ai_usage_logs"
    )
    old, new = (await desk.database.fetch(count, BEFORE.start))[0]
    return old, new


def retain(desk: Desk, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, run to its end."""
    return run_command(desk.dsn, "retain", *arguments, **environment)


async def start(desk: Desk) -> asyncio.subprocess.Process:
    """The command as a process."""
    arguments = ("retain", "--older-than", "3", "--yes")
    environment = os.environ | {"USAGE_POSTGRES_DSN": desk.dsn}
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(COMMAND, *arguments, env=environment, stdout=pipe, stderr=pipe)


async def test_what_is_old_goes(desk: Desk) -> None:
    """The dry run counts and changes nothing; then rows before the horizon go, to the second, and old letters close."""
    await fill(desk, 3 * ROWS_AT_ONCE)
    await desk.refuse(b"old", b"new")
    await desk.database.execute(OLD)
    before = await desk.contents()
    done = retain(desk, "--older-than", "3", "--dry-run")
    half = 3 * ROWS_AT_ONCE // 2
    said = f"{half:,} rows from before {BEFORE.start:%Y-%m-%d}"
    assert (done.returncode, done.stdout) == (0, f"would delete {said}; would discard 1 letter\n")
    assert await desk.contents() == before
    done = retain(desk, "--older-than", "3", "--yes", "--who", "ada")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"deleted {said}; discarded 1 letter\n", "")
    assert await rows(desk) == (0, half)
    statuses = await desk.database.fetch("SELECT body, status FROM ai_usage_dead_letters ORDER BY 1")
    assert [tuple(row) for row in statuses] == [(b"new", "open"), (b"old", "discarded")]
    [discarded] = [one for one in desk.json("history") if one["action"] == "discard"]
    assert (discarded["who"], discarded["note"]) == ("ada", "older than 3 months, as rows are kept")
    again = retain(desk, "--older-than", "3", "--yes", "--json")
    facts = json.loads(again.stdout)
    assert facts.pop("seconds") >= 0
    assert facts == {"deleted_rows": 0, "discarded_letters": 0, "before": BEFORE.start.isoformat()}


class AYearAhead(datetime):
    """A machine's clock that is wrong."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override] # retain asks for nothing else
        """What it shows."""
        return datetime.now(tz) + timedelta(days=366)


async def test_a_clock_that_is_ahead_deletes_nothing_more(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that the database's clock calls young stay, whatever this machine's says: they would not come back."""
    await fill(desk, 6)
    monkeypatch.setenv("USAGE_POSTGRES_DSN", desk.dsn)
    monkeypatch.setattr("worker.commands.retain.datetime", AYearAhead)
    assert await _retain(3, dry_run=False, who="ada", yes=True, as_json=True) == 0
    assert await rows(desk) == (0, 3)


async def test_rows_in_other_hands(desk: Desk) -> None:
    """What another session has locked stays, without waiting: exit 3, and the next run deletes it."""
    await fill(desk, 6)
    async with desk.other() as other, other.transaction():
        await other.fetch("SELECT FROM ai_usage_logs ORDER BY created_at LIMIT 1 FOR UPDATE")
        done = retain(desk, "--older-than", "3", "--yes")
    assert (done.returncode, done.stdout.partition(" from")[0]) == (3, "deleted 2 rows")
    assert done.stderr == "1 rows are left (in other hands all the time): run this again to go on\n"
    assert retain(desk, "--older-than", "3", "--yes").returncode == 0
    assert await rows(desk) == (0, 3)


async def test_letters_in_other_hands(desk: Desk) -> None:
    """A letter that somebody works on stays open, and the command says so; the next run discards it."""
    await desk.refuse(b"old")
    await desk.database.execute(OLD)
    async with desk.other() as other, other.transaction():
        await other.fetch("SELECT FROM ai_usage_dead_letters FOR UPDATE")
        done = retain(desk, "--older-than", "3", "--yes")
    assert (done.returncode, done.stdout[-22:]) == (3, "; discarded 0 letters\n"), done.stderr
    assert done.stderr == "1 letters were in other hands and are open: run this again\n"
    assert retain(desk, "--older-than", "3", "--yes").stdout.endswith("; discarded 1 letter\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_ended_in_the_middle(desk: Desk, number: signal.Signals) -> None:
    """Killed, or asked to end, nothing is half done: whole lots are gone, and the next run goes on."""
    await fill(desk, 4 * ROWS_AT_ONCE)
    await desk.database.execute(
        "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF (SELECT count(*) FROM ai_usage_logs) <= {3 * ROWS_AT_ONCE} THEN"
        " PERFORM pg_advisory_xact_lock_shared(4711); END IF; RETURN NULL; END $$"
    )
    await desk.database.execute(
        "CREATE TRIGGER hold BEFORE DELETE ON ai_usage_logs FOR EACH STATEMENT EXECUTE FUNCTION hold()"
    )
    await desk.database.execute("SELECT pg_advisory_lock(4711)")
    process = await start(desk)
    await desk.until_held()
    process.send_signal(number)
    if number is signal.SIGKILL:
        await process.wait()
        await desk.release()
    else:
        await desk.release()
        output, errors = await process.communicate()
        assert (process.returncode, b"stopped" in errors) == (0, False) or process.returncode == 3, output
    await desk.database.execute("DROP TRIGGER hold ON ai_usage_logs")
    old, new = await rows(desk)
    assert (old % ROWS_AT_ONCE, new) == (0, 2 * ROWS_AT_ONCE)
    assert old < 2 * ROWS_AT_ONCE
    assert retain(desk, "--older-than", "3", "--yes").returncode == 0
    assert await rows(desk) == (0, 2 * ROWS_AT_ONCE)


async def test_beside_a_worker(system: System) -> None:
    """While a worker stores events nothing but old rows goes: the books of what is published hold."""
    await system.database.execute(FILL, USER, ORGANIZATION, BEFORE.start, 20 * ROWS_AT_ONCE)
    kept = await system.stored() // 2
    await system.start_worker()
    process = await asyncio.create_subprocess_exec(
        COMMAND, "retain", "--older-than", "3", "--yes", env=os.environ | system.environment(),
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip

    async def has_begun() -> bool:
        return process.returncode is not None or await system.stored() < 2 * kept

    while process.returncode is None:
        await system.publish(*(message(event(), event()) for _ in range(100)))
        await until(has_begun, "rows are deleted")
    assert await process.wait() == 0
    await system.settle()
    await system.database.execute("DELETE FROM ai_usage_logs WHERE endpoint IS NULL")  # those that filled it
    books = await system.books()
    books.check()
    assert not books.dead


async def test_a_role_without_delete(desk: Desk) -> None:
    """The worker's rights do not suffice: which grant is missing; nothing is changed."""
    await fill(desk, 2)
    async with desk.role("SELECT", "INSERT", "UPDATE") as dsn:
        done = retain(desk, "--older-than", "3", "--yes", USAGE_POSTGRES_DSN=dsn)
    assert (done.returncode, done.stdout) == (1, "")
    assert "let the owner say: GRANT UPDATE ON ai_usage_logs TO role_" in done.stderr
    assert "GRANT DELETE ON ai_usage_logs TO role_" in done.stderr
    assert await rows(desk) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "message_part"),
    [
        ((), "Missing option '--older-than'"),
        (("--older-than", "0", "--yes"), "0 is not in the range"),
        (("--older-than", "1", "--yes"), "USAGE_MAX_AGE=3024000 and one day"),
        (("--older-than", "3"), "this would delete 1 row from before"),
    ],
)
async def test_wrong_usage(desk: Desk, arguments: tuple[str, ...], message_part: str) -> None:
    """Exit 2, what is wrong, and nothing goes."""
    await fill(desk, 2)
    done = retain(desk, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message_part in done.stderr
    assert await rows(desk) == (1, 1)
