"""The opt-in ceiling: above it bodies are given up, never without a word, and every command says so."""

import json
import os
import subprocess
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from desk import Desk
from harness import System, event, message
from harness.worker import COMMAND
from usage_events.rules import Window

from worker.batch import Batch, Entry
from worker.dead_letters.ceiling import Ceiling
from worker.dead_letters.text import BODY_GIVEN_UP
from worker.decode import decode
from worker.delivery import Delivery
from worker.postgres.store import PostgresStore, Shared
from worker.store import Written

ANY_TIME = Window(-(2**62), 2**62)


async def write(desk: Desk, ceiling: Ceiling, *bodies: bytes) -> Written:
    """A worker with this ceiling gets these, a message each."""
    batch = Batch(0.0)
    for tag, body in enumerate(bodies):
        batch.add(Entry(Delivery(tag, 1, body), decode(body, None, None, ANY_TIME)))
    store = PostgresStore(desk.dsn, "public", worker="flooded", shared=Shared(ceiling))
    try:
        return await store.write(batch)
    finally:
        await store.close()


async def the_letter(desk: Desk) -> asyncpg.Record:
    """The only one."""
    (letter,) = await desk.database.fetch("SELECT * FROM ai_usage_dead_letters")
    return letter


def late_event() -> dict[str, Any]:
    """Of a user that does not exist yet."""
    return event(user_id=str(uuid4()))


def find(desk: Desk, event_id: UUID) -> subprocess.CompletedProcess[str]:
    """What `usage-worker find` says of an event."""
    environment = os.environ | {"USAGE_POSTGRES_DSN": desk.dsn}
    command = [str(COMMAND), "find", str(event_id)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


async def test_a_body_is_given_up_and_put_back(desk: Desk) -> None:
    """Above the ceiling a letter keeps all but its body, also when it comes again; below it the body is put back."""
    body = json.dumps(late_event()).encode()
    above, below = Ceiling(0), Ceiling(2**40)
    assert (await write(desk, above, body)).bodies_given_up == 1
    assert (await write(desk, above, body)).bodies_given_up == 1
    letter = await the_letter(desk)
    assert (letter["body"], letter["reason"], letter["occurrences"]) == (None, "unknown_user", 2)
    assert letter["event_id"] is not None
    assert json.loads(letter["errors"])[0]["field"] == "user_id"
    assert (await write(desk, below, body)).bodies_given_up == 0
    letter = await the_letter(desk)
    assert (letter["body"], letter["occurrences"]) == (body, 3)
    assert (await write(desk, above, body)).bodies_given_up == 0
    assert (await the_letter(desk))["body"] == body, "what is kept is not given up afterwards"


async def test_the_ceiling_is_the_tables_own_size(desk: Desk) -> None:
    """At its bytes, TOAST and indexes included, bodies are given up; one byte more, and they are kept."""
    first, second = (json.dumps(late_event()).encode() for _ in range(2))
    size = await desk.database.fetchval("SELECT pg_total_relation_size('ai_usage_dead_letters')")
    assert (await write(desk, Ceiling(size + 1), first)).bodies_given_up == 0
    size = await desk.database.fetchval("SELECT pg_total_relation_size('ai_usage_dead_letters')")
    assert (await write(desk, Ceiling(size), second)).bodies_given_up == 1


async def test_replay_and_try_leave_it_open_and_say_so(desk: Desk) -> None:
    """What has its body is replayed; of the other the reason is told, by filter and by name, and the exit is 3."""
    kept, given_up = late_event(), late_event()
    await write(desk, Ceiling(), json.dumps(kept).encode())
    await write(desk, Ceiling(0), json.dumps(given_up).encode())
    for one in (kept, given_up):
        await desk.database.execute("INSERT INTO users VALUES ($1)", one["user_id"])
    tried = desk.run("try")
    assert "1 would be recovered" in tried.stdout
    assert f"1 cannot be replayed; of each, {BODY_GIVEN_UP}" in tried.stdout
    done = desk.run("replay", "--yes")
    assert (done.returncode, done.stderr) == (3, "")
    assert "carried 1 letter: 1 recovered, 0 refused" in done.stdout
    assert f"1 cannot be replayed; of each, {BODY_GIVEN_UP}" in done.stdout
    left = await desk.database.fetchval("SELECT id FROM ai_usage_dead_letters WHERE status = 'open'")
    named = desk.run("replay", "--yes", "--json", "--id", str(left))
    totals = json.loads(named.stdout.splitlines()[-1])
    assert (named.returncode, totals["carried"], totals["bodies_given_up"]) == (3, 0, 1)
    actions = await desk.database.fetch("SELECT letter_id FROM ai_usage_dead_letter_actions")
    assert [action["letter_id"] for action in actions] != [left]
    assert await desk.database.fetchval("SELECT status FROM ai_usage_dead_letters WHERE id = $1", left) == "open"


async def test_every_command_that_reads_bodies_says_so(desk: Desk, tmp_path: Any) -> None:
    """Summary, list, show, export, edit and find work on it; discard settles it."""
    whole = b"[" + json.dumps(late_event()).encode()  # a whole message: find would search its body
    await write(desk, Ceiling(0), whole)
    letter_id = str((await the_letter(desk))["id"])
    for arguments in (["summary"], ["list"], ["show", letter_id], ["show", "--redact", letter_id]):
        done = desk.run(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert BODY_GIVEN_UP in " ".join(done.stdout.split()), arguments
    assert [row.get("is_body_given_up") for row in desk.json("list")] == [True]
    assert desk.json("show", letter_id)[0]["body_base64"] is None
    *_, totals = desk.json("summary")
    assert totals["bodies_given_up"] == 1
    path = tmp_path / "letters.ndjson"
    done = desk.run("export", str(path))
    assert (done.returncode, json.loads(path.read_text())["body_base64"]) == (0, None)
    assert BODY_GIVEN_UP in done.stderr
    done = desk.run("export", "--bodies", str(path))
    assert (done.returncode, path.read_text()) == (3, "")
    assert BODY_GIVEN_UP in done.stderr
    for arguments in (["--set", "0.model=x"], ["--set", "0.model=x", "--dry-run"]):
        done = desk.run("edit", "--reason", "bad_json", "--yes", *arguments)
        assert (done.returncode, done.stderr) == (3, "")
        assert f"1 cannot be edited; of each, {BODY_GIVEN_UP}" in done.stdout
    done = desk.run("edit", letter_id, "--set", "model=x")
    assert (done.returncode, done.stdout) == (1, "")
    assert BODY_GIVEN_UP in done.stderr
    found = find(desk, uuid4())
    assert (found.returncode, found.stderr) == (3, "")
    assert "never seen" in found.stdout
    assert desk.run("discard", "--yes", "--why", "given up").returncode == 0
    assert (await the_letter(desk))["status"] == "discarded"


async def test_a_worker_above_its_ceiling(system: System) -> None:
    """It stores what is good, counts what it gives up, and warns once; without the setting nothing is given up."""
    worker = await system.start_worker(USAGE_DEAD_LETTER_BYTES_MAX="1", USAGE_BATCH_MAX_EVENTS="1")
    await system.publish(*(message(late_event()) for _ in range(5)), message(event()))
    await system.until_stored(1)

    async def all_given_up() -> bool:
        return await worker.metric("dead_letter_bodies_given_up_total") == 5

    await system.until(all_given_up, "five bodies are given up")
    warnings = [line for line in worker.log_lines() if "USAGE_DEAD_LETTER_BYTES_MAX" in str(line["event"])]
    assert [line["level"] for line in warnings] == ["warning"]
    assert await system.value("SELECT count(*) FROM ai_usage_dead_letters WHERE body IS NULL") == 5
    await system.stop_workers()
    worker = await system.start_worker()
    await system.publish(message(late_event()))
    await system.until(lambda: _with_body(system), "its body is kept")
    assert await worker.metric("dead_letter_bodies_given_up_total") == 0
    assert await worker.metric("dead_letters_bytes") > 0


async def _with_body(system: System) -> bool:
    return bool(await system.value("SELECT count(*) FROM ai_usage_dead_letters WHERE body IS NOT NULL") == 1)
