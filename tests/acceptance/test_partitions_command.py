"""`usage-worker partitions` from outside: under load, killed, as a role, and what it says."""

import asyncio
import json
import os
import subprocess
from typing import Any
from uuid import UUID

import pytest
from desk import Desk, run_command
from dividing import NEXT, WIDE, divide, id_of, owner_session
from harness import System, event, message
from harness.worker import COMMAND
from hosted import execute, let_log_in, make_host

from worker.demo.postgres_server import PostgresServer

FILL = """
INSERT INTO ai_usage_logs (user_id, organization_id, created_at)
SELECT u.id, o.id, now() FROM generate_series(1, $1::int), users u, organizations o
"""


def partitions(desk: Desk, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, run to its end."""
    return run_command(desk.dsn, "partitions", *arguments, **environment)


async def start(system: System, *arguments: str) -> asyncio.subprocess.Process:
    """The command as a process."""
    return await asyncio.create_subprocess_exec(
        COMMAND,
        "partitions",
        *arguments,
        env=os.environ | system.environment(),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )


def new_event(number: int) -> dict[str, Any]:
    """With a random id, or one of a month to come."""
    return event() if number % 2 else event(id=str(id_of(NEXT.plus(number % 3), number)))


async def test_under_load(system: System) -> None:
    """Killed twice on its way while workers store events, then finished: the books hold, in every partition."""
    await system.database.execute(FILL, 20_000)
    await system.start_worker()
    await system.start_worker()
    published = 0

    async def publish() -> None:
        nonlocal published
        bodies = [new_event(published + number) for number in range(100)]
        published += len(bodies)
        await system.publish(*map(message, bodies), message(*bodies[:10]))

    for seconds in (0.7, 1.0, None):
        process = await start(system, "enable")
        ended = asyncio.ensure_future(process.wait())
        while seconds is None and not ended.done():
            await publish()
        if seconds is not None:
            await asyncio.wait({ended}, timeout=seconds)
            await publish()
            if not ended.done():
                process.kill()
        await ended
    assert process.returncode == 0, (await process.communicate())[1]
    process = await start(system, "ensure", "--ahead", "6")
    await publish()
    assert await process.wait() == 0
    await system.settle()
    await system.database.execute("DELETE FROM ai_usage_logs WHERE endpoint IS NULL")  # those that filled it
    books = await system.books()
    books.check()
    assert not books.dead
    assert len(books.stored) == published
    used = await system.database.fetchval("SELECT count(DISTINCT tableoid) FROM ai_usage_logs")
    assert used >= 3


async def test_what_it_says(desk: Desk) -> None:
    """From a plain table to one that is divided, for people and for programs."""
    assert partitions(desk).stdout == "ai_usage_logs has no partitions: `usage-worker partitions enable` divides it\n"
    done = partitions(desk, "ensure")
    assert (done.returncode, done.stderr) == (
        1,
        "usage-worker: ai_usage_logs has no partitions: run `usage-worker partitions enable`\n",
    )
    done = partitions(desk, "drop", "--older-than", "3")
    assert done.stderr == "usage-worker: ai_usage_logs has no partitions: run `usage-worker retain` instead\n"
    done = partitions(desk, "enable", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "nothing stands in the way\n")
    done = partitions(desk, "enable", "--ahead", "2")
    assert done.returncode == 0
    assert "0 rows whose ids fall there by chance were moved to it\n" in done.stderr
    assert "ai_usage_logs is divided\n" in done.stderr
    assert "ai_usage_logs is divided already\n" in partitions(desk, "enable").stderr
    made = [json.loads(line) for line in partitions(desk, "ensure", "--ahead", "5", "--json").stdout.splitlines()]
    assert made[-1]["low"] == str(NEXT.plus(4).first_id)
    lines = partitions(desk).stdout.splitlines()
    assert lines[0].startswith("ai_usage_logs_default  all other ids")
    assert lines[-1] == "partitions are ready for 5 months after this one"
    listed = [json.loads(line) for line in partitions(desk, "list", "--json").stdout.splitlines()]
    ends = [None, *(str(NEXT.plus(number)) for number in range(5)), None]
    assert [one["months"] for one in listed] in (ends, [None, *ends[2:]])  # at a month's end they begin later
    done = partitions(desk, "drop", "--older-than", "3")
    assert (done.returncode, done.stdout) == (0, f"nothing to do: no partition lies before {NEXT.plus(-4)}\n")


async def test_dropping(desk: Desk) -> None:
    """Months that are old: the dry run counts, nothing goes unasked, and then they are gone, younger rows left."""
    first = NEXT.plus(-8)
    owner = await owner_session(desk.dsn)
    await divide(owner, WIDE._replace(low=first.first_id), first.start)
    await owner.close()
    old, young = event(id=str(id_of(first.plus(1)))), event(id=str(id_of(first.plus(1), 9, version=4)))
    await desk.refuse(old, young, event(id=str(id_of(NEXT))))
    await desk.database.execute("UPDATE ai_usage_logs SET created_at = $1 WHERE id = $2", first.start, UUID(old["id"]))
    names = [f"ai_usage_logs_{month.year}_{month.month:02}" for month in (first, first.plus(1), first.plus(2))]
    before = await desk.contents()
    done = partitions(desk, "drop", "--older-than", "5", "--dry-run")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"would drop {names[0]}: 0 rows, ")
    assert lines[1].startswith(f"would drop {names[1]}: 2 rows, ")
    assert lines[1].endswith("; 1 younger row stays")
    done = partitions(desk, "drop", "--older-than", "5")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"this would drop {names[0]}, {names[1]}, and there is no terminal to ask on: add --yes" in done.stderr
    assert await desk.contents() == before
    done = partitions(desk, "drop", "--older-than", "5", "--yes", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["dropped"], one["rows"], one["kept"]) for one in found] == [(names[0], 0, 0), (names[1], 1, 1)]
    left = await desk.database.fetch("SELECT id, tableoid::regclass::text AS name FROM ai_usage_logs")
    assert {str(row["id"]): row["name"] for row in left}.get(young["id"]) == "ai_usage_logs_past"
    assert old["id"] not in {str(row["id"]) for row in left}
    assert len(left) == 2
    assert [json.loads(line)["name"] for line in partitions(desk, "list", "--json").stdout.splitlines()][:3] == [
        "ai_usage_logs_default",
        "ai_usage_logs_past",
        names[2],
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("drop",), "Missing option '--older-than'"),
        (("drop", "--older-than", "1"), "USAGE_MAX_AGE=3024000 and one day"),
        (("ensure", "--ahead", "0"), "0 is not in the range"),
    ],
)
async def test_wrong_usage(desk: Desk, arguments: tuple[str, ...], said: str) -> None:
    """Exit 2, and what is wrong."""
    done = partitions(desk, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


async def test_what_is_somebody_elses(postgres_server: PostgresServer) -> None:
    """Views and publications that the owner may not change are named before anything is; a superuser may."""
    hosted = make_host(postgres_server)
    assert hosted.run(None, "migrate", "--roles").returncode == 0
    let_log_in(hosted)
    execute(
        hosted.admin,
        "GRANT SELECT ON ai_usage_logs TO shop; SET ROLE shop; CREATE VIEW models AS SELECT model FROM ai_usage_logs;"
        " RESET ROLE; CREATE PUBLICATION feed FOR TABLE ai_usage_logs WITH (publish_via_partition_root = true)",
    )
    for arguments in (("--dry-run",), ()):
        done = hosted.run("usage_owner", "partitions", "enable", *arguments)
        assert done.returncode == 1
        assert "ai_usage_logs cannot be divided, and nothing was changed: " in done.stderr
        assert "the view models belongs to shop, and usage_owner may not change it: run this as a super" in done.stderr
        assert "publication feed belongs to " in done.stderr
    done = hosted.run(None, "partitions", "enable")
    assert done.returncode == 0, done.stderr
    assert "without a gap" in hosted.run("usage_worker", "check").stdout


async def test_roles(postgres_server: PostgresServer) -> None:
    """The owner of least privilege divides it; the worker may not; and the worker's rights suffice afterwards."""
    hosted = make_host(postgres_server)
    assert hosted.run(None, "migrate", "--roles").returncode == 0
    let_log_in(hosted)
    done = hosted.run("usage_worker", "partitions", "enable")
    assert (done.returncode, done.stderr) == (
        1,
        "usage-worker: usage_worker does not own ai_usage_logs, and nothing was changed: run it as usage_owner\n",
    )
    for command in (("enable",), ("ensure", "--ahead", "5"), ("list",)):
        done = hosted.run("usage_owner", "partitions", *command)
        assert done.returncode == 0, done.stderr
    assert hosted.run("usage_worker", "partitions").returncode == 0
    done = hosted.run("usage_worker", "check")
    assert " of months, without a gap, ready for 5 months after this one\n" in done.stdout
    assert "ok  Postgres: usage_worker has the rights that the worker needs, and not many more\n" in done.stdout
    assert "ok  Postgres: public.ai_usage_logs, ai_usage_daily and log_ai_usage are as this version" in done.stdout
