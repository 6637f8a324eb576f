"""`dead-letters discard`, `reopen` and `note` from outside: what they change and say, and that dying harms nothing."""

import asyncio
import json
import signal
from uuid import UUID, uuid4

import asyncpg
import pytest
from desk import Desk
from harness import event, until

from worker.postgres.dead_letters.picked import LOT_LETTERS_MAX

FLOOD = """
INSERT INTO ai_usage_dead_letters (fingerprint, reason, body, app_id, first_seen, last_seen)
SELECT sha256(n::text::bytea), 'invalid', n::text::bytea, 'flood', now(), now() FROM generate_series(1, $1::int) n
"""
# Letters whose status and history do not agree.
TORN = """
SELECT count(*) FROM ai_usage_dead_letters l WHERE (l.status = 'discarded') <> (
    SELECT count(*) = 1 FROM ai_usage_dead_letter_actions a WHERE a.letter_id = l.id AND a.action = 'discard')
"""


async def count(desk: Desk, status: str) -> int:
    """How many letters have this status."""
    found = await desk.database.fetchval("SELECT count(*) FROM ai_usage_dead_letters WHERE status = $1", status)
    return int(found)


async def actions(desk: Desk) -> list[asyncpg.Record]:
    """All that was done, the oldest first."""
    return list(await desk.database.fetch("SELECT * FROM ai_usage_dead_letter_actions ORDER BY at"))


async def test_discard_and_reopen(desk: Desk) -> None:
    """Only what the filter chooses is discarded, and open again after a reopen; the history says who, how and why."""
    await desk.refuse(b"garbage", b"more garbage", producer="probe")
    await desk.refuse(b"precious", producer="chat")
    done = desk.run("discard", "--producer", "probe", "--why", " a test's  ", "--who", "ada", "--yes")
    assert (done.returncode, done.stdout, done.stderr) == (0, "discarded 2 letters\n", "")
    assert (await count(desk, "discarded"), await count(desk, "open")) == (2, 1)
    said = await actions(desk)
    assert [(one["who"], one["action"], one["from_status"], one["to_status"], one["note"]) for one in said] == [
        ("ada", "discard", "open", "discarded", "a test's")
    ] * 2
    assert json.loads(said[0]["filter"]) == {"producer": "probe", "status": "open"}
    [run] = desk.json("history")
    assert (run["who"], run["letters"], run["note"]) == ("ada", 2, "a test's")
    assert desk.json("reopen", "--producer", "probe", "--yes") == [
        {"reopened": 2, "chosen": 2, "busy": 0, "stopped": False}
    ]
    assert await count(desk, "open") == 3
    assert [one["action"] for one in await actions(desk)] == ["discard"] * 2 + ["reopen"] * 2


async def test_a_recovered_letter_is_reopened_only_without_its_event(desk: Desk) -> None:
    """Where the event is stored nothing changes; where its row is gone the letter is open again; others stay."""
    late = event(user_id=str(uuid4()))
    await desk.refuse(late, b"[]")
    await desk.database.execute("INSERT INTO users VALUES ($1)", UUID(late["user_id"]))
    assert desk.run("replay", "--reason", "unknown_user", "--yes").returncode == 0
    await desk.database.execute("UPDATE ai_usage_dead_letters SET status = 'recovered' WHERE reason = 'invalid'")
    assert desk.run("reopen", "--status", "recovered", "--yes").stdout == "reopened 0 letters\n"
    await desk.database.execute("DELETE FROM ai_usage_logs")
    assert desk.run("reopen", "--status", "any", "--yes").stdout == "reopened 1 letter\n"
    opened = await desk.database.fetchval("SELECT event_id FROM ai_usage_dead_letters WHERE status = 'open'")
    assert str(opened) == late["id"]


async def test_nobody_to_ask(desk: Desk) -> None:
    """Without a terminal and without --yes nothing changes: exit 2, and how many letters it would have been."""
    await desk.refuse(b"garbage", b"more")
    before = await desk.contents()
    done = desk.run("discard", "--why", "garbage")
    assert (done.returncode, done.stdout) == (2, "")
    assert "this would discard 2 letters, and there is no terminal to ask on: add --yes" in done.stderr
    assert await desk.contents() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("discard", "--yes"), "Missing option '--why'"),
        (("discard", "--yes", "--why", " "), "is blank: say it in a few words"),
        (("discard", "--yes", "--why", "x" * 2001), "2,001 characters; the limit is 2,000"),
        (("discard", "--yes", "--why", "x", "--status", "recovered"), "only open letters can be discarded"),
        (("reopen", "--yes", "--status", "open"), "these are open already"),
        (("note", "nope", "x"), "'nope' is not a valid UUID"),
    ],
)
async def test_wrong_usage(desk: Desk, arguments: tuple[str, ...], message: str) -> None:
    """Exit 2, and what is wrong; no letter changes."""
    await desk.refuse(b"garbage")
    before = await desk.contents()
    done = desk.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert await desk.contents() == before


async def test_notes(desk: Desk) -> None:
    """A note stands in the history, by the letter's id or the event's; an id of neither is an error."""
    refused = event(input_tokens=-1)
    await desk.refuse(refused)
    letter_id = await desk.database.fetchval("SELECT id FROM ai_usage_dead_letters")
    done = desk.run("note", str(letter_id), "asked chat", "--who", "ada")
    assert (done.returncode, done.stdout) == (0, f"noted on letter {letter_id}\n")
    assert desk.run("note", refused["id"], "they mend it").returncode == 0
    assert [one["note"] for one in desk.json("history", str(letter_id))] == ["asked chat", "they mend it"]
    missing = uuid4()
    done = desk.run("note", str(missing), "x")
    assert done.returncode == 1
    assert f"no letter, and no event of one, has the id {missing}" in done.stderr


async def test_letters_in_other_hands(desk: Desk) -> None:
    """What another session has locked is left to it, without waiting: exit 3, how many, and the next run does them."""
    await desk.refuse(b"one", b"two", b"three")
    async with desk.other() as other, other.transaction():
        await other.fetch("SELECT FROM ai_usage_dead_letters WHERE body = 'two' FOR UPDATE")
        done = desk.run("discard", "--why", "x", "--yes")
    assert done.returncode == 3
    assert done.stdout == "discarded 2 letters of 3\n1 were in other hands all the time; run this again\n"
    assert desk.run("discard", "--why", "x", "--yes").stdout == "discarded 1 letter\n"


async def test_a_limit_takes_the_oldest(desk: Desk) -> None:
    """--limit bounds what is agreed to, the oldest first."""
    for body in (b"first", b"second", b"third"):
        await desk.refuse(body)
    assert desk.run("discard", "--limit", "2", "--why", "x", "--yes").stdout == "discarded 2 letters\n"
    assert await desk.database.fetchval("SELECT body FROM ai_usage_dead_letters WHERE status = 'open'") == b"third"


async def test_a_role_without_rights(desk: Desk) -> None:
    """A role that may only read is told which grants it lacks, and changes nothing."""
    await desk.refuse(b"garbage")
    async with desk.role("SELECT") as dsn:
        done = desk.run("discard", "--why", "x", "--yes", USAGE_POSTGRES_DSN=dsn)
    assert done.returncode == 1
    assert "GRANT UPDATE (status) ON ai_usage_dead_letters TO" in done.stderr
    assert "GRANT INSERT ON ai_usage_dead_letter_actions TO" in done.stderr
    assert await count(desk, "open") == 1


async def test_two_operators_at_once(desk: Desk) -> None:
    """Every letter is discarded by one of them, with one line in the history."""
    await desk.database.execute(FLOOD, 8 * LOT_LETTERS_MAX)
    operators = [await desk.start("discard", "--why", "x", "--yes", "--json", "--who", who) for who in ("ada", "bob")]
    discarded = 0
    for process in operators:
        output, errors = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode in (0, 3), errors  # 3: what the other had locked in the end was left to it
        discarded += json.loads(output)["discarded"]
    assert discarded == await count(desk, "discarded") == 8 * LOT_LETTERS_MAX
    assert await desk.database.fetchval(TORN) == 0


async def test_killed_in_the_middle(desk: Desk) -> None:
    """SIGKILL: every letter is discarded with its action or untouched, and running it again finishes."""
    await desk.database.execute(FLOOD, 6 * LOT_LETTERS_MAX)
    await desk.hold(3 * LOT_LETTERS_MAX)
    process = await desk.start("discard", "--why", "x", "--yes")
    await desk.until_held()
    process.kill()
    await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == -signal.SIGKILL
    await desk.release()

    async def is_gone() -> bool:
        others = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%dead-letters discard'"
        return not await desk.database.fetchval(others)

    await until(is_gone, "the server has noticed")
    assert await count(desk, "discarded") == 3 * LOT_LETTERS_MAX
    assert await desk.database.fetchval(TORN) == 0
    done = desk.run("discard", "--why", "x", "--yes")
    assert (done.returncode, done.stdout) == (0, "discarded 3,000 letters\n")
    assert await count(desk, "discarded") == 6 * LOT_LETTERS_MAX
    assert await desk.database.fetchval(TORN) == 0


async def test_interrupted_it_ends_in_order(desk: Desk) -> None:
    """Ctrl-C ends it after the transaction under way: exit 3, the sum is told, the next run does the rest."""
    await desk.database.execute(FLOOD, 6 * LOT_LETTERS_MAX)
    await desk.hold(3 * LOT_LETTERS_MAX)
    process = await desk.start("discard", "--why", "x", "--yes", "--json")
    await desk.until_held()
    process.send_signal(signal.SIGINT)
    await desk.release()
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, errors) == (3, b"")
    told = json.loads(output)
    assert told["stopped"]
    assert told["discarded"] == await count(desk, "discarded") < told["chosen"] == 6 * LOT_LETTERS_MAX
    assert desk.run("discard", "--why", "x", "--yes").returncode == 0
    assert await count(desk, "open") == 0


async def test_the_history_is_only_added_to(desk: Desk) -> None:
    """A role that may only add actions can do all of this: no code path changes or deletes one."""
    await desk.refuse(b"garbage")
    grants = ("SELECT", "INSERT", "UPDATE (status)")
    async with desk.role(*grants) as dsn:
        for arguments in (("discard", "--why", "x", "--yes"), ("reopen", "--yes")):
            done = desk.run(*arguments, USAGE_POSTGRES_DSN=dsn)
            assert done.returncode == 0, done.stderr
        other = await asyncpg.connect(dsn)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await other.execute("UPDATE ai_usage_dead_letter_actions SET note = ''")
        await other.close()
    assert len(await actions(desk)) == 2
