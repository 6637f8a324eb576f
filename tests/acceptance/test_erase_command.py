"""`dead-letters erase` from outside: nothing of them is left, and nothing of others is lost."""

import asyncio
import hashlib
import json
import signal
from typing import Any
from uuid import UUID, uuid4

import pytest
from desk import Desk
from harness import event, until

from worker.dead_letters.erasing import Field, Subject
from worker.postgres.dead_letters.picked import LOT_LETTERS_MAX

TABLES = ("ai_usage_logs", "ai_usage_dead_letters", "ai_usage_dead_letter_actions", "ai_usage_migrations")
ADD_LETTER = """
INSERT INTO ai_usage_dead_letters (fingerprint, reason, body, content_type, routing_key, headers, first_seen, last_seen)
VALUES (sha256($1), 'delivery_limit', $1, 'application/json', $2, '{}', now(), now()) RETURNING id
"""
FLOOD = """
INSERT INTO ai_usage_dead_letters (fingerprint, reason, body, user_id, first_seen, last_seen)
SELECT sha256(n::text::bytea), 'invalid', n::text::bytea, $1, now(), now() FROM generate_series(1, $2::int) n
"""


@pytest.fixture
async def ada(desk: Desk) -> UUID:
    """A user of the host's."""
    return UUID(bytes=(await desk.database.fetchval("INSERT INTO users VALUES ($1) RETURNING id", uuid4())).bytes)


async def traces(desk: Desk, subject: Subject) -> list[str]:
    """Where the id stands: every column of every table of the project's."""
    return [
        f"{table}.{column}: {value!r}"
        for table in TABLES
        for row in await desk.database.fetch(f"SELECT * FROM {table}")
        for column, value in row.items()
        if subject.is_named(value if isinstance(value, bytes) else str(value).encode())
    ]


async def add_letter(desk: Desk, body: bytes, routing_key: str = "usage.recorded") -> UUID:
    """A whole message that killed its workers."""
    return UUID(bytes=(await desk.database.fetchval(ADD_LETTER, body, routing_key)).bytes)


def text_of(*events: dict[str, Any]) -> bytes:
    """An array of events."""
    return json.dumps(events).encode()


def of_user(field: Field, identifier: UUID, **changes: Any) -> dict[str, Any]:
    """An event of this user or organization."""
    return event(**{field.value: str(identifier)}, **changes)


async def fill(desk: Desk, field: Field, who: UUID) -> list[dict[str, Any]]:
    """Rows, letters and history of theirs and of others; the others' events, of which the first is a mentioned one."""
    upper = str(who).upper()
    mine, other = of_user(field, who, endpoint="/mine"), event(endpoint="/other")
    naming = event(request_metadata={"manager": upper, "n": 7}, endpoint=f"/users/{who}")
    await desk.refuse(mine, other, naming)
    await desk.refuse(of_user(field, who, input_tokens=-1), of_user(field, who, id="no"), event(input_tokens=-2))
    await desk.refuse(json.dumps(of_user(field, who)).encode()[:-1], b"\xff\x80" + upper.encode(), b"garbage")
    await desk.refuse(json.dumps(of_user(field, who)).encode("utf-16"), producer=f"app-{who}")
    await desk.refuse(event(input_tokens=-3, model=upper), producer=f"app-{who}")
    await add_letter(desk, text_of(of_user(field, who), other, naming), f"usage.recorded.{who}")
    await desk.database.execute("UPDATE ai_usage_dead_letters SET edited_body = body WHERE reason = 'delivery_limit'")
    letter_id = await desk.database.fetchval("SELECT id FROM ai_usage_dead_letters WHERE body = 'garbage'")
    assert desk.run("note", str(letter_id), f"{upper} called").returncode == 0
    option = "--user" if field is Field.USER else "--organization"
    assert desk.run("discard", option, str(who), "--why", "they left", "--yes").returncode == 0
    return [naming, other]


@pytest.mark.parametrize("field", list(Field))
async def test_nothing_is_left_of_them(desk: Desk, field: Field) -> None:
    """No form of the id in any column; others' rows and letters are there; the host's tables are as they were."""
    who = uuid4()
    host_table = "users" if field is Field.USER else "organizations"
    await desk.database.execute(f"INSERT INTO {host_table} VALUES ($1)", who)
    others = await fill(desk, field, who)
    subject, option = Subject(field, who), f"--{host_table[:-1]}"
    before = await desk.contents()
    assert len(await traces(desk, subject)) > 10
    [plan] = desk.json("erase", option, str(who), "--dry-run")
    assert await desk.contents() == before
    done = desk.run("erase", option, str(who).upper(), "--yes", "--json", "--who", "dpo")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == plan
    expected = {
        "rows_deleted": 1, "rows_masked": 1, "letters_deleted": 5, "letters_cut": 1, "letters_masked": 1,
        "unsure": [], "busy": 0,
    }  # fmt: skip
    assert {name: plan[name] for name in expected} == expected
    assert plan["actions_masked"] == 3
    assert await traces(desk, subject) == []
    assert await desk.database.fetchval(f"SELECT count(*) FROM {host_table} WHERE id = $1", who) == 1
    rows = await desk.database.fetch("SELECT id, request_metadata FROM ai_usage_logs")
    assert {str(row["id"]) for row in rows} == {one["id"] for one in others}
    [metadata] = [json.loads(row["request_metadata"]) for row in rows if str(row["id"]) == others[0]["id"]]
    assert metadata == {"manager": str(UUID(int=0)), "n": 7}


async def test_others_keep_their_letters(desk: Desk, ada: UUID) -> None:
    """An array is cut, its other events as they were; a letter that only names them is masked; fingerprints fit."""
    await fill(desk, Field.USER, ada)
    untouched = event(input_tokens=-9)
    await desk.refuse(untouched)
    [kept] = await desk.database.fetch(
        "SELECT l::text FROM ai_usage_dead_letters l WHERE event_id = $1", UUID(untouched["id"])
    )
    assert desk.run("erase", "--user", str(ada), "--yes").returncode == 0
    letters = await desk.database.fetch("SELECT * FROM ai_usage_dead_letters")
    assert len(letters) == 5
    [again] = await desk.database.fetch(
        "SELECT l::text FROM ai_usage_dead_letters l WHERE event_id = $1", UUID(untouched["id"])
    )
    assert again == kept
    for letter in letters:
        assert (
            letter["fingerprint"] == hashlib.sha256(letter["content_type"].encode() + b"\n" + letter["body"]).digest()
        )
    [array] = [letter for letter in letters if letter["reason"] == "delivery_limit"]
    assert [one["endpoint"] for one in json.loads(array["body"])] == ["/other", f"/users/{UUID(int=0)}"]
    assert array["edited_body"] == array["body"]
    assert array["routing_key"] == f"usage.recorded.{UUID(int=0)}"


@pytest.mark.parametrize("field", list(Field))
async def test_rows_that_stay_without_a_name(desk: Desk, field: Field) -> None:
    """With --anonymise sums stay, to the cent, under another id; their metadata and texts are gone."""
    who, nobody = uuid4(), uuid4()
    table = "users" if field is Field.USER else "organizations"
    await desk.database.execute(f"INSERT INTO {table} VALUES ($1), ($2)", who, nobody)
    others = await fill(desk, field, who)
    mine = of_user(field, who, model=str(who), request_metadata={"name": "Ada"})
    await desk.refuse(mine)
    sums = "SELECT count(*), sum(tokens_used), sum(estimated_cost_usd), min(created_at) FROM ai_usage_logs"
    before = await desk.database.fetchrow(sums)
    options = (f"--{table[:-1]}", str(who), "--anonymise", str(nobody))
    [plan] = desk.json("erase", *options, "--dry-run")
    assert (plan["rows_deleted"], plan["rows_anonymised"]) == (0, 2)
    done = desk.run("erase", *options, "--yes")
    assert done.returncode == 0
    assert "erased 0 rows of ai_usage_logs, 5 letters;\nanonymise 2 rows;\n" in done.stdout
    assert await traces(desk, Subject(field, who)) == []
    assert await desk.database.fetchrow(sums) == before
    rows = await desk.database.fetch(f"SELECT * FROM ai_usage_logs WHERE {field.value} = $1", nobody)
    assert {(row["model"], row["endpoint"], row["request_metadata"]) for row in rows} == {
        (None, "/v1/chat", None),
        ("test-model", "/mine", None),
    }
    assert await desk.database.fetchval("SELECT count(*) FROM ai_usage_logs") == 2 + len(others)
    assert desk.run("erase", *options, "--yes").stdout.startswith("erased 0 rows of ai_usage_logs, 0 letters;\ncut")


async def test_rows_can_be_given_to_somebody_who_exists(desk: Desk, ada: UUID) -> None:
    """Nobody's id, or their own: exit 2, and nothing is changed."""
    await desk.refuse(event(user_id=str(ada)))
    before = await desk.contents()
    for heir in (uuid4(), ada):
        done = desk.run("erase", "--user", str(ada), "--anonymise", str(heir), "--yes")
        assert (done.returncode, done.stdout) == (2, "")
        assert f"--anonymise {heir}: it has to be another id that is in users: add one" in done.stderr
    assert await desk.contents() == before


async def test_what_it_says(desk: Desk, ada: UUID) -> None:
    """The sum, and what becomes of the erased ids: find calls them missing, a new delivery is stored again."""
    mine = event(user_id=str(ada))
    await desk.refuse(mine)
    done = desk.run("erase", "--user", str(ada), "--dry-run")
    assert done.stdout == (
        "would erase 1 row of ai_usage_logs, 0 letters;\ncut their events out of 0 letters;\n"
        "mask the id in 0 rows, 0 letters and 0 lines of the history\n"
    )
    done = desk.run("erase", "--user", str(ada))
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no terminal to ask on: add --yes" in done.stderr
    done = desk.run("erase", "--user", str(ada), "--yes", "--who", "dpo")
    assert done.stdout.startswith("erased 1 row of ai_usage_logs, 0 letters;")
    assert "`find` calls their events missing from now on; one that is published again is stored again" in done.stdout
    await desk.refuse(mine)
    assert str(await desk.database.fetchval("SELECT id FROM ai_usage_logs")) == mine["id"]
    [run] = desk.json("history")
    assert (run["who"], run["action"], run["letters"]) == ("dpo", "erased", 0)
    assert run["note"].startswith("rows_deleted 1, ")


async def test_what_may_hold_other_peoples_events_stays(desk: Desk, ada: UUID) -> None:
    """It is named and left as it is, exit 3; --whole-letters deletes it."""
    body = text_of(event(user_id=str(ada)), event())[:-1]
    letter_id = await add_letter(desk, body)
    await desk.refuse(event(user_id=str(ada), input_tokens=-1))
    done = desk.run("erase", "--user", str(ada), "--yes")
    assert done.returncode == 3
    assert f"1 not erased, since they may hold other people's events (--whole-letters deletes them): {letter_id}\n" in (
        done.stdout
    )
    assert await desk.database.fetchval("SELECT body FROM ai_usage_dead_letters") == body
    assert desk.run("erase", "--user", str(ada), "--yes", "--whole-letters").returncode == 0
    assert await traces(desk, Subject(Field.USER, ada)) == []


async def test_letters_in_other_hands(desk: Desk, ada: UUID) -> None:
    """What another session has locked stays, without waiting: exit 3, and the next run removes it."""
    await desk.refuse(event(user_id=str(ada), input_tokens=-1), event(user_id=str(ada)))
    async with desk.other() as other, other.transaction():
        await other.fetch("SELECT FROM ai_usage_dead_letters FOR UPDATE")
        await other.fetch("SELECT FROM ai_usage_logs FOR UPDATE")
        done = desk.run("erase", "--user", str(ada), "--yes", "--json")
    assert (done.returncode, json.loads(done.stdout)["busy"]) == (3, 2)
    assert desk.run("erase", "--user", str(ada), "--yes").returncode == 0
    assert await traces(desk, Subject(Field.USER, ada)) == []


async def test_two_letters_that_differ_in_what_is_erased(desk: Desk, ada: UUID) -> None:
    """Both stay, masked: the same body may have no second letter, so one gets a fingerprint of its own."""
    both = event(input_tokens=-1, model=str(ada))
    await desk.refuse(both, both | {"model": str(ada).upper()})
    assert desk.run("erase", "--user", str(ada), "--yes").returncode == 0
    bodies = await desk.database.fetch("SELECT DISTINCT body, fingerprint FROM ai_usage_dead_letters")
    assert len(bodies) == 2
    assert await traces(desk, Subject(Field.USER, ada)) == []


async def test_bodies_that_were_given_up(desk: Desk, ada: UUID) -> None:
    """Letters without a body are searched as well: theirs goes, another's loses the id and keeps its fingerprint."""
    await desk.refuse(event(user_id=str(ada), input_tokens=-1), event(input_tokens=-1, model=str(ada)))
    await desk.database.execute("UPDATE ai_usage_dead_letters SET body = NULL")
    kept = "SELECT fingerprint FROM ai_usage_dead_letters WHERE user_id <> $1"
    before = await desk.database.fetchval(kept, ada)
    assert desk.run("erase", "--user", str(ada), "--yes").returncode == 0
    assert await traces(desk, Subject(Field.USER, ada)) == []
    assert await desk.database.fetchval("SELECT count(*) FROM ai_usage_dead_letters") == 1
    assert await desk.database.fetchval(kept, ada) == before


@pytest.mark.parametrize("arguments", [(), ("--user", str(uuid4()), "--organization", str(uuid4()))])
async def test_wrong_usage(desk: Desk, arguments: tuple[str, ...]) -> None:
    """Nobody, or two at once: exit 2."""
    done = desk.run("erase", *arguments, "--yes")
    assert (done.returncode, done.stdout) == (2, "")
    assert "say whom: either --user or --organization" in done.stderr


async def test_a_role_without_rights(desk: Desk, ada: UUID) -> None:
    """The worker's rights do not suffice: the missing grants are named, and nothing is changed."""
    await desk.refuse(event(user_id=str(ada)))
    before = await desk.contents()
    async with desk.role("SELECT", "INSERT", "UPDATE") as dsn:
        done = desk.run("erase", "--user", str(ada), "--yes", USAGE_POSTGRES_DSN=dsn)
    assert (done.returncode, done.stdout) == (1, "")
    for grant in (
        "DELETE ON ai_usage_logs",
        "DELETE ON ai_usage_dead_letters",
        "UPDATE ON ai_usage_dead_letter_actions",
    ):
        assert f"GRANT {grant} TO role_" in done.stderr
    assert await desk.contents() == before


async def test_killed_in_the_middle(desk: Desk, ada: UUID) -> None:
    """SIGKILL: every letter is gone with its line in the history or untouched, and running it again finishes."""
    await desk.database.execute(FLOOD, ada, 4 * LOT_LETTERS_MAX)
    await desk.hold(2 * LOT_LETTERS_MAX)
    process = await desk.start("erase", "--user", str(ada), "--yes")
    await desk.until_held()
    process.kill()
    await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == -signal.SIGKILL
    await desk.release()

    async def is_gone() -> bool:
        others = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%dead-letters erase'"
        return not await desk.database.fetchval(others)

    await until(is_gone, "the server has noticed")
    assert await desk.database.fetchval("SELECT count(*) FROM ai_usage_dead_letters") == 2 * LOT_LETTERS_MAX
    assert await desk.database.fetchval("SELECT count(*) FROM ai_usage_dead_letter_actions") == 2 * LOT_LETTERS_MAX
    assert desk.run("erase", "--user", str(ada), "--yes").returncode == 0
    assert await desk.database.fetchval("SELECT count(*) FROM ai_usage_dead_letters") == 0
