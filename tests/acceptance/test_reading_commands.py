"""The reading commands of `dead-letters` from outside: what they say of letters that a store has refused."""

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from desk import Desk
from harness import event
from harness.worker import COMMAND

from worker.commands.dead_letters import COMMANDS
from worker.postgres.migrations import find_migrations

HEAVY = ("asyncpg", "pydantic", "rich", "structlog", "usage_events", "worker.settings")
SECRET = "ada@example.com"


def misnamed(count: int, **changes: Any) -> list[dict[str, Any]]:
    """Events with a field that the contract does not know."""
    return [event(input_token=7, **changes) for _ in range(count)]


def names_in(folder: Path) -> list[str]:
    """The files in a folder."""
    return [path.name for path in folder.iterdir()]


# Summary.


async def test_summary_adds_up(desk: Desk) -> None:
    """By reason, field and producer, the largest first; what would pass now is judged by samples, and nothing stays."""
    user = uuid4()
    late = [event(user_id=str(user)) for _ in range(30)]
    await desk.refuse(*misnamed(40), producer="chat")
    await desk.refuse(*late)
    await desk.refuse(*late[:10])
    await desk.refuse(b"garbage", producer="chat")
    await desk.database.execute("INSERT INTO users VALUES ($1)", user)
    before = await desk.contents()
    *groups, totals = desk.json("summary")
    facts = [(one["reason"], one["field"], one["producer"], one["letters"], one["occurrences"]) for one in groups]
    assert facts == [
        ("invalid", "input_token", "chat", 40, 40),
        ("unknown_user", "user_id", "billing", 30, 40),
        ("bad_json", "", "chat", 1, 1),
    ]
    assert [(one["sample_passed"], one["sample_tried"] > 0) for one in groups] == [
        (0, True),
        (groups[1]["sample_tried"], True),
        (0, True),
    ]
    assert totals == {
        "groups": 3, "letters": 71, "occurrences": 81, "last_minute": 71, "last_hour": 71, "bodies_given_up": 0,
    }  # fmt: skip
    ids = {row["id"] for row in await desk.database.fetch("SELECT id::text FROM ai_usage_dead_letters")}
    assert {one["sample_id"] for one in groups} <= ids
    assert await desk.contents() == before


async def test_summary_is_the_default_and_takes_its_options(desk: Desk) -> None:
    """Without a command: a table, and a sentence with all that there is, also of the groups that are not shown."""
    await desk.refuse(*misnamed(3), b"garbage")
    whole = desk.run()
    assert (whole.returncode, whole.stderr) == (0, "")
    assert re.search(r"~0% of [123]\b", whole.stdout)  # letters whose fingerprints begin alike share a place
    shown = desk.run("--limit", "1").stdout.splitlines()
    assert len(shown) == 3
    assert shown[1].split()[:4] == ["invalid", "input_token", "billing", "3"]
    assert shown[2].startswith("4 letters, seen 4 times; 4 new in the last hour")
    assert shown[2].endswith("; 1 smaller groups not shown: raise --limit")


async def test_summary_of_nothing(desk: Desk) -> None:
    """An empty table is no error."""
    done = desk.run("summary")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "0 letters, seen 0 times; 0 new in the last hour, 0 in the last minute\n"


# List.


async def test_list(desk: Desk) -> None:
    """The newest first, as many as asked for, chosen by the filter; without bodies."""
    await desk.refuse(*misnamed(5))
    await desk.refuse(b"garbage", producer="chat")
    assert [one["reason"] for one in desk.json("list")] == ["bad_json"] + ["invalid"] * 5
    assert len(desk.json("list", "--limit", "2")) == 2
    (one,) = desk.json("list", "--producer", "chat")
    assert "body" not in one
    assert len(desk.json("list", "--field", "input_token")) == 5
    assert desk.json("list", "--status", "recovered") == []
    table = desk.run("list").stdout
    assert "input_token: unknown field" in table
    assert one["id"] in table
    assert desk.run("list", "--status", "recovered").stdout == "no letter is like that\n"


# Show.


async def test_show(desk: Desk) -> None:
    """By the letter's id or the event's: where it came from, every error, the body, the edit, what was done."""
    (body,) = misnamed(1, unknown="x")
    await desk.refuse(body)
    letter_id = await desk.database.fetchval("SELECT id FROM ai_usage_dead_letters")
    edited = json.dumps(event(id=body["id"])).encode()
    await desk.database.execute("UPDATE ai_usage_dead_letters SET edited_body = $1", edited)
    await desk.database.execute(
        "INSERT INTO ai_usage_dead_letter_actions (who, letter_id, action, from_status, to_status, note)"
        " VALUES ('ada@desk', $1, 'discard', 'open', 'discarded', 'test data')",
        letter_id,
    )
    shown = desk.run("show", str(letter_id)).stdout
    assert desk.run("show", body["id"]).stdout == shown
    for said in (
        "producer       billing", "header         try: 1", "input_token: unknown field", "unknown: unknown field",
        '"input_token": 7', "edited body", '-  "input_token": 7', "ada@desk  discard  open → discarded", "test data",
    ):  # fmt: skip
        assert said in shown
    (facts,) = desk.json("show", str(letter_id))
    assert json.loads(facts["body"]) == body
    assert base64.b64decode(facts["edited_body_base64"]) == edited
    assert [action["who"] for action in facts["history"]] == ["ada@desk"]


async def test_show_harms_no_terminal(desk: Desk) -> None:
    """Control characters from a producer are escaped; what is no text is shown in hexadecimal digits."""
    await desk.refuse('{"a": "\x9b31m", "b": 1} x'.encode(), producer="\x1b[2Jchat")
    await desk.refuse(b"\xff\x1b[2J")
    for row in await desk.database.fetch("SELECT id FROM ai_usage_dead_letters"):
        done = desk.run("show", str(row["id"]))
        assert done.returncode == 0
        assert done.stdout.replace("\n", "").isprintable()
    assert "ff 1b 5b 32 4a" in done.stdout or "\\x9b31m" in done.stdout


async def test_show_of_what_is_not_there(desk: Desk) -> None:
    """Exit status 1, and where to look next."""
    missing = uuid4()
    done = desk.run("show", str(missing))
    assert (done.returncode, done.stdout) == (1, "")
    assert f"usage-worker find {missing}" in done.stderr


@pytest.mark.parametrize("command", ["show", "list", "export"])
@pytest.mark.parametrize(
    ("arguments", "setting", "is_hidden"),
    [((), "true", True), (("--redact",), "false", True), (("--no-redact",), "true", False), ((), "false", False)],
)
async def test_redact(desk: Desk, command: str, arguments: tuple[str, ...], setting: str, is_hidden: bool) -> None:  # noqa: FBT001 - a case of the table
    """The option hides metadata wherever bodies and inputs are shown, and the setting makes it the default."""
    body = event(request_metadata=SECRET)
    await desk.refuse(body)
    target = {"show": [body["id"], "--json"], "list": ["--json"], "export": ["-"]}[command]
    done = desk.run(command, *target, *arguments, USAGE_REDACT=setting)
    assert done.returncode == 0, done.stderr
    (facts,) = [json.loads(line) for line in done.stdout.splitlines()]
    bodies = base64.b64decode(facts.get("body_base64") or "").decode()
    assert (SECRET not in done.stdout + bodies) == is_hidden


# History.


async def test_history(desk: Desk) -> None:
    """Like actions in a row are one line with their number; one letter's are told one by one."""
    bodies = misnamed(4)
    await desk.refuse(*bodies)
    await desk.database.execute(
        "INSERT INTO ai_usage_dead_letter_actions (at, who, letter_id, action, from_status, to_status, note, filter)"
        " SELECT now() - again * interval '1 hour', 'ada@desk', id, 'discard', 'open', 'discarded', 'why',"
        ' \'{"reason": "invalid"}\' FROM ai_usage_dead_letters, generate_series(0, 1) again'
    )
    newest, oldest = desk.json("history")
    assert newest["since"] > oldest["since"]
    for run in (newest, oldest):
        assert (run["who"], run["action"], run["letters"], run["filter"]) == (
            "ada@desk", "discard", 4, {"reason": "invalid"},
        )  # fmt: skip
    assert len(desk.json("history", "--since", "30m")) == 1
    assert desk.json("history", "--who", "nobody") == []
    assert len(desk.json("history", newest["sample_id"])) == 2
    assert "open → discarded" in desk.run("history").stdout
    assert desk.run("history", "--who", "nobody").stdout == "nothing was done\n"


# Export.


async def test_export(desk: Desk, tmp_path: Path) -> None:
    """All letters, the oldest first, byte for byte; more than one fetch of the cursor."""
    bodies = misnamed(1200)
    await desk.refuse(*bodies[:600])
    await desk.refuse(*bodies[600:])
    path = tmp_path / "letters.ndjson"
    done = desk.run("export", str(path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "exported 1,200 letters\n")
    letters = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [one["first_seen"] for one in letters] == sorted(one["first_seen"] for one in letters)
    assert {base64.b64decode(one["body_base64"]) for one in letters} == {json.dumps(body).encode() for body in bodies}
    assert names_in(tmp_path) == [path.name]


async def test_export_of_bodies(desk: Desk, tmp_path: Path) -> None:
    """The events alone, the edited where there is one; what cannot be published so is counted, exit status 3."""
    (body,) = misnamed(1)
    await desk.refuse(body, b"garbage")
    mended = json.dumps(event(id=body["id"]))
    await desk.database.execute(
        "UPDATE ai_usage_dead_letters SET edited_body = $1 WHERE event_id = $2", mended.encode(), UUID(body["id"])
    )
    path = tmp_path / "events.ndjson"
    done = desk.run("export", "--bodies", str(path))
    assert done.returncode == 3
    assert "1 left out" in done.stderr
    assert path.read_text(encoding="utf-8") == f"{mended}\n"


async def test_bodies_and_redact_exclude_each_other(desk: Desk) -> None:
    """Events without their metadata would be other events: wrong usage, also by the setting."""
    done = desk.run("export", "--bodies", "-", USAGE_REDACT="true")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--no-redact" in done.stderr


async def test_an_export_that_fails_leaves_no_file(desk: Desk, tmp_path: Path) -> None:
    """Neither half a file nor a temporary one, and an older file stays: exit status 1."""
    path = tmp_path / "letters.ndjson"
    path.write_text("older\n", encoding="utf-8")
    await desk.database.execute("ALTER TABLE ai_usage_dead_letters RENAME COLUMN headers TO other")
    done = desk.run("export", str(path))
    assert done.returncode == 1
    assert "headers" in done.stderr
    assert "Traceback" not in done.stderr
    assert (names_in(tmp_path), path.read_text(encoding="utf-8")) == ([path.name], "older\n")
    nowhere = desk.run("export", str(tmp_path / "no" / "letters.ndjson"))
    assert (nowhere.returncode, nowhere.stderr.startswith("usage-worker: the export cannot be written: ")) == (1, True)


# All of them.


def test_without_the_tables(database_dsn: str) -> None:
    """An empty database is named, with what to do."""
    done = subprocess.run(
        [COMMAND, "dead-letters"],
        env=os.environ | {"USAGE_POSTGRES_DSN": database_dsn},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    names = ", ".join(migration.name for migration in find_migrations())
    assert f"lacks {names}: run `usage-worker migrate`" in done.stderr


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_is_quick_and_shows_an_example(name: str) -> None:
    """No help loads a driver or a model, and each has something to paste."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "worker", "dead-letters", *name.split(), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "click" in loaded
    assert [heavy for heavy in HEAVY if heavy in loaded] == []
    assert f"$ usage-worker dead-letters {name}".strip() in done.stdout
