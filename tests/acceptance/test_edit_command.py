"""`dead-letters edit` from outside: one letter in an editor, thousands at once, and that dying harms nothing."""

import asyncio
import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import pytest
from desk import Desk
from harness import System, event, message

SECRET = "ada@example.com"
RENAME = ("edit", "--reason", "invalid", "--rename", "input_token=input_tokens")


def misnamed(**changes: Any) -> dict[str, Any]:
    """An event with a field that the contract does not know."""
    made = event(**changes)
    made["input_token"] = made.pop("input_tokens")
    return made


def editor(folder: Path, script: str) -> dict[str, str]:
    """The environment in which this script is the editor: the file is its `$1`."""
    path = folder / "editor"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    (folder / "files").mkdir(exist_ok=True)
    return {"EDITOR": str(path), "VISUAL": "", "TMPDIR": str(folder / "files")}


async def the_letter(desk: Desk) -> str:
    """The id of the only letter."""
    return str(await desk.database.fetchval("SELECT id FROM ai_usage_dead_letters"))


async def edited(desk: Desk) -> list[bytes | None]:
    """All edited bodies."""
    rows = await desk.database.fetch("SELECT edited_body FROM ai_usage_dead_letters ORDER BY first_seen, id")
    return [row["edited_body"] for row in rows]


async def each_whole(desk: Desk) -> bool:
    """Every letter is edited and has its line in the history, or neither; each body is as it came."""
    return not await desk.database.fetchval(
        """
        SELECT count(*) FROM ai_usage_dead_letters l
        WHERE (l.edited_body IS NOT NULL)::int <> (
            SELECT count(*) FROM ai_usage_dead_letter_actions a WHERE a.letter_id = l.id AND a.action = 'edit'
        ) OR l.fingerprint <> sha256(convert_to(l.content_type || chr(10), 'UTF8') || l.body)
        """
    )


# One letter.


async def test_in_an_editor(desk: Desk, tmp_path: Path) -> None:
    """The editor shows it indented; what is typed is saved with the layout of the original, then a replay takes it."""
    body = json.dumps(misnamed()).encode().replace(b"}", b',"estimated_cost_usd":  1.10}')
    await desk.refuse(body)
    letter = await the_letter(desk)
    script = f'cp "$1" {tmp_path}/shown; sed -i s/input_token/input_tokens/ "$1"'
    done = desk.run("edit", letter, **editor(tmp_path, script))
    assert (done.returncode, done.stderr) == (0, "")
    assert '+  "input_tokens": 100' in done.stdout
    assert f"edited; `usage-worker dead-letters replay --id {letter}` stores what it holds" in done.stdout
    assert b'\n  "estimated_cost_usd": 1.10\n' in (tmp_path / "shown").read_bytes()
    assert await edited(desk) == [body.replace(b"input_token", b"input_tokens")]
    assert list((tmp_path / "files").iterdir()) == []
    assert desk.run("replay", "--id", letter, "--yes").returncode == 0
    assert await desk.database.fetchval("SELECT input_tokens FROM ai_usage_logs") == 100
    again = desk.run("edit", letter, "--set", "model=x")
    assert (again.returncode, again.stdout) == (1, "")
    assert "is recovered: its event is stored" in again.stderr


async def test_an_editor_closed_as_it_was(desk: Desk, tmp_path: Path) -> None:
    """Nothing is saved, nothing noted; the event's id names the letter as well as its own."""
    one = misnamed()
    await desk.refuse(one)
    before = await desk.contents()
    done = desk.run("edit", one["id"], **editor(tmp_path, "true"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "unchanged\n", "")
    assert await desk.contents() == before


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ('echo "{ typed" > "$1"', "nothing is saved: what was typed is not JSON"),
        ('sed -i s/input_token/input_tokenz/ "$1"', ""),
        ('sed -i "s/\\"id\\": \\"...../\\"id\\": \\"00000/" "$1"', ""),
    ],
)
async def test_what_was_typed_is_not_lost(desk: Desk, tmp_path: Path, script: str, said: str) -> None:
    """What cannot be saved is kept in a file, which is named; without a terminal the exit status is 1."""
    await desk.refuse(misnamed())
    before = await desk.contents()
    done = desk.run("edit", await the_letter(desk), **editor(tmp_path, script))
    assert done.returncode == 1
    assert said in done.stderr
    [kept] = (tmp_path / "files").iterdir()
    assert f"what you typed is in {kept}; `usage-worker dead-letters edit " in done.stderr
    assert await desk.contents() == before


async def test_a_letter_that_changes_under_the_editor(desk: Desk, tmp_path: Path) -> None:
    """Somebody else's edit is not overwritten: exit 1, and what was typed is kept."""
    await desk.refuse(misnamed())
    letter = await the_letter(desk)
    script = f'cp "$1" {tmp_path}/open; read line < {tmp_path}/go; sed -i s/input_token/input_tokens/ "$1"'
    environment = editor(tmp_path, script)
    go = tmp_path / "go"
    await (await asyncio.create_subprocess_exec("mkfifo", go)).wait()
    slow = asyncio.create_task(asyncio.to_thread(desk.run, "edit", letter, **environment))
    with await asyncio.to_thread(go.open, "w") as pipe:  # opens once the editor reads
        assert desk.run("edit", letter, "--rename", "input_token=input_tokens", "--set", "model=x").returncode == 0
        pipe.write("go\n")
    done = await slow
    assert done.returncode == 1
    assert f"letter {letter} was edited by somebody else meanwhile" in done.stderr
    assert "what you typed is in" in done.stderr
    [body] = await edited(desk)
    assert body is not None
    assert json.loads(body)["model"] == "x"


async def test_a_result_that_would_be_refused(desk: Desk) -> None:
    """It is shown with its errors and left: exit 1; forced it is saved."""
    await desk.refuse(misnamed(output_tokens=-1))
    letter = await the_letter(desk)
    before = await desk.contents()
    change = ("edit", letter, "--rename", "input_token=input_tokens")
    done = desk.run(*change)
    assert done.returncode == 1
    assert '+  "input_tokens": 100' in done.stdout
    assert f"letter {letter}: would still be refused; --force saves it all the same\n  output_tokens: " in done.stdout
    assert await desk.contents() == before
    done = desk.run(*change, "--force", "--json")
    facts = json.loads(done.stdout)
    assert (done.returncode, facts["outcome"], facts["saved"]) == (0, "edited", True)
    assert [(error["reason"], error["field"]) for error in facts["errors"]] == [("invalid", "output_tokens")]
    assert len([body for body in await edited(desk) if body]) == 1


async def test_the_id_stays(desk: Desk) -> None:
    """The error names both ids; force does not help."""
    one = misnamed()
    await desk.refuse(one)
    other = str(uuid4())
    done = desk.run("edit", await the_letter(desk), "--set", f"id={other}", "--force")
    assert done.returncode == 1
    assert f"the event's id cannot be changed: '{one['id']}' would become '{other}'" in done.stdout
    assert await edited(desk) == [None]


async def test_bytes_that_are_no_text(desk: Desk, tmp_path: Path) -> None:
    """No editor opens; a file replaces the body whole."""
    one = event()
    await desk.refuse(b'{"id": "%b", \xff' % one["id"].encode())
    letter = await the_letter(desk)
    done = desk.run("edit", letter, **editor(tmp_path, 'echo opened > "$1"'))
    assert done.returncode == 1
    assert "is not UTF-8 (byte 0xff at byte 47)" in done.stderr
    assert f"edit {letter} --body-file FILE" in done.stderr
    path = tmp_path / "body.json"
    path.write_text(json.dumps(event()), encoding="utf-8")
    done = desk.run("edit", letter, "--body-file", str(path))
    assert (done.returncode, f"{one['id']!r} stands in the body, and would not any more" in done.stdout) == (1, True)
    path.write_text(json.dumps(one), encoding="utf-8")
    assert desk.run("edit", letter, "--body-file", str(path)).returncode == 0
    assert await edited(desk) == [path.read_bytes()]
    assert await desk.database.fetchval("SELECT event_id FROM ai_usage_dead_letters") == UUID(one["id"])
    missing = desk.run("edit", letter, "--body-file", str(tmp_path / "nope"))
    assert (missing.returncode, "--body-file" in missing.stderr, "Traceback" in missing.stderr) == (1, True, False)


async def test_a_body_that_was_given_up(desk: Desk) -> None:
    """There is nothing to edit, and it says why."""
    await desk.refuse(misnamed())
    await desk.database.execute("UPDATE ai_usage_dead_letters SET body = NULL")
    done = desk.run("edit", await the_letter(desk), "--set", "model=x")
    assert (done.returncode, "cannot be edited: its body was given up" in done.stderr) == (1, True)


async def test_no_such_letter(desk: Desk) -> None:
    """An id that nothing has, and one that has several letters, end with 1 and say so."""
    one = misnamed()
    await desk.refuse(one, one | {"model": "other"})
    done = desk.run("edit", one["id"], "--set", "model=x")
    assert (done.returncode, f"the event {one['id']} has 2 letters; name one of them: " in done.stderr) == (1, True)
    nobody = str(uuid4())
    done = desk.run("edit", nobody, "--set", "model=x")
    assert (done.returncode, f"no letter, and no event of one, has the id {nobody}" in done.stderr) == (1, True)


async def test_a_discarded_letter(desk: Desk) -> None:
    """It has to be reopened first, by the command that is named."""
    await desk.refuse(misnamed())
    letter = await the_letter(desk)
    change = ("edit", letter, "--rename", "input_token=input_tokens")
    assert desk.run("discard", "--id", letter, "--why", "test", "--yes").returncode == 0
    done = desk.run(*change)
    assert (done.returncode, f"`usage-worker dead-letters reopen --id {letter}`" in done.stderr) == (1, True)
    assert desk.run("reopen", "--id", letter, "--yes").returncode == 0
    assert desk.run(*change).returncode == 0


# Many letters.


async def test_a_systematic_mistake(desk: Desk) -> None:
    """3,000 letters are mended, replayed and stored; the originals stay; the same edit again touches nothing."""
    bodies = [misnamed() for _ in range(3000)]
    await desk.refuse(*bodies)
    originals = await desk.database.fetch("SELECT id, body FROM ai_usage_dead_letters ORDER BY id")
    done = desk.run(*RENAME, "--yes")
    assert (done.returncode, done.stdout, done.stderr) == (0, "edited 3,000 letters; 0 need no change\n", "")
    assert await each_whole(desk)
    before = await desk.contents()
    done = desk.run(*RENAME, "--yes")
    assert (done.returncode, done.stdout) == (0, "edited 0 letters; 3,000 need no change\n")
    assert await desk.contents() == before
    assert desk.run("replay", "--yes").returncode == 0
    stored = {row["id"] for row in await desk.database.fetch("SELECT id FROM ai_usage_logs WHERE input_tokens = 100")}
    assert stored == {UUID(body["id"]) for body in bodies}
    assert await desk.database.fetch("SELECT id, body FROM ai_usage_dead_letters ORDER BY id") == originals
    actions = await desk.database.fetch("SELECT letter_id, action FROM ai_usage_dead_letter_actions")
    assert Counter((row["letter_id"], row["action"]) for row in actions) == Counter(
        (row["id"], action) for row in originals for action in ("edit", "replay")
    )
    (filtered,) = await desk.database.fetch(
        "SELECT DISTINCT filter FROM ai_usage_dead_letter_actions WHERE action = 'edit'"
    )
    assert json.loads(filtered["filter"]) == {"reason": "invalid", "status": "open"}


async def test_nobody_to_ask(desk: Desk) -> None:
    """Without a terminal and without --yes nothing is edited: exit 2, and how many it would have been."""
    await desk.refuse(misnamed(), misnamed())
    before = await desk.contents()
    done = desk.run(*RENAME)
    assert done.returncode == 2
    assert "this would edit 2 letters, and there is no terminal to ask on: add --yes" in done.stderr
    assert await desk.contents() == before


async def test_a_dry_run(desk: Desk) -> None:
    """The first few in full, the problems of the others, the counts; nothing changes, nobody is asked."""
    good = [misnamed(request_metadata={"mail": SECRET}) for _ in range(5)]
    await desk.refuse(*good, misnamed(output_tokens=-1), misnamed(input_tokens=7) | {"input_tokens": 7}, b"[{}]")
    before = await desk.contents()
    done = desk.run(*RENAME, "--dry-run")
    assert done.returncode == 3
    assert done.stdout.count('+  "input_tokens": 100') == 3
    assert "output_tokens: " in done.stdout
    assert "'input_tokens' is there already; unset one of the two first" in done.stdout
    *_, edits, refused, impossible = done.stdout.splitlines()
    assert edits == "would edit 5 letters; nothing was changed; 1 need no change"
    assert refused.startswith("1 left as they are: they would still be refused")
    assert impossible == "1 left as they are: they cannot be edited so"
    facts = [json.loads(line) for line in desk.run(*RENAME, "--dry-run", "--json").stdout.splitlines()]
    assert Counter((one["outcome"], one["saved"]) for one in facts) == {
        ("edited", False): 5,
        ("refused", False): 1,
        ("impossible", False): 1,
        ("unchanged", False): 1,
    }
    assert await desk.contents() == before


@pytest.mark.parametrize(
    ("arguments", "setting", "is_hidden"),
    [((), "false", False), (("--redact",), "false", True), ((), "true", True), (("--no-redact",), "true", False)],
)
async def test_redact(desk: Desk, arguments: tuple[str, ...], setting: str, is_hidden: bool) -> None:  # noqa: FBT001 - a case of the table
    """Metadata is hidden in what is shown, and never in what is kept."""
    await desk.refuse(misnamed(request_metadata={"mail": SECRET}, output_tokens=-1))
    for json_option in ((), ("--json",)):
        done = desk.run(*RENAME, "--dry-run", *arguments, *json_option, USAGE_REDACT=setting)
        one = desk.run(
            "edit", await the_letter(desk), "--set", f"request_metadata.mail={SECRET}!", "--force", "--dry-run",
            *arguments, *json_option, USAGE_REDACT=setting,
        )  # fmt: skip
        assert (SECRET in one.stdout) is not is_hidden
        assert not is_hidden or SECRET not in done.stdout + done.stderr
    assert (
        desk.run(*RENAME, "--set", f"request_metadata.mail={SECRET}!", "--yes", "--force", "--redact").returncode == 0
    )
    assert SECRET in await desk.database.fetchval("SELECT note FROM ai_usage_dead_letter_actions")


async def test_two_operators(desk: Desk) -> None:
    """Two edits of one filter at once: each letter is edited once, and has one line in the history."""
    await desk.refuse(*(misnamed() for _ in range(4000)))
    await desk.hold(1)
    first = await desk.start(*RENAME, "--yes", "--json", "--who", "ada")
    await desk.until_held()
    second = await desk.start(*RENAME, "--yes", "--json", "--who", "bob")
    await desk.release()
    ends = [await asyncio.wait_for(process.communicate(), 60) for process in (first, second)]
    outcomes: Counter[str] = Counter()
    for process, (output, errors) in zip((first, second), ends, strict=True):
        assert process.returncode in (0, 3), errors  # 3: what the other had locked in the end was left to it
        outcomes.update(json.loads(line)["outcome"] for line in output.splitlines())
    assert outcomes["edited"] == 4000
    assert await each_whole(desk)
    assert None not in await edited(desk)


async def test_killed_in_the_middle(desk: Desk) -> None:
    """After SIGKILL every letter is edited with its line in the history, or untouched; the next run does the rest."""
    await desk.refuse(*(misnamed() for _ in range(2500)))
    await desk.hold(1500)
    process = await desk.start(*RENAME, "--yes")
    await desk.until_held()  # half of the second thousand is written, and not committed
    process.kill()
    assert await process.wait() == -signal.SIGKILL
    await desk.release()
    assert await each_whole(desk)
    assert sum(body is not None for body in await edited(desk)) == 1000
    assert "edited 1,500 letters; 1,000 need no change" in desk.run(*RENAME, "--yes").stdout
    assert await each_whole(desk)
    assert None not in await edited(desk)


async def test_interrupted_it_ends_in_order(desk: Desk) -> None:
    """Ctrl-C lets the transaction under way end: exit 3, and what is done is told."""
    await desk.refuse(*(misnamed() for _ in range(2500)))
    await desk.hold(1500)
    process = await desk.start(*RENAME, "--yes")
    await desk.until_held()
    process.send_signal(signal.SIGINT)
    await desk.release()
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 3
    assert output.decode().splitlines() == [
        "edited 2,000 letters; 0 need no change",
        "stopped: nothing is half done; run this again to go on",
    ]
    assert await each_whole(desk)


async def test_a_role_without_the_right(desk: Desk) -> None:
    """The grants that are missing are named; nothing changes."""
    await desk.refuse(misnamed())
    before = await desk.contents()
    async with desk.role("UPDATE (status)") as dsn:
        done = desk.run(*RENAME, "--yes", USAGE_POSTGRES_DSN=dsn)
    assert done.returncode == 1
    assert "GRANT UPDATE (edited_body) ON ai_usage_dead_letters TO " in done.stderr
    assert await desk.contents() == before


# Whole messages.


async def test_an_array_of_the_dead_queue(system: System) -> None:
    """An array that was handed out too often is edited element by element, and replayed: each is stored once."""
    bad, good = misnamed(), event()
    await _dead_letter(system, bad, good)
    desk = Desk(system.dsn, system.database)
    letter = await the_letter(desk)
    done = desk.run("edit", letter, "--unset", "0", "--force")
    assert (done.returncode, "there are 2 events, and would be 1" in done.stdout) == (1, True)
    done = desk.run("edit", letter, "--rename", "0.input_token=input_tokens", "--set", "*.model=mended")
    assert done.returncode == 0, done.stdout
    assert desk.run("replay", "--id", letter, "--yes").returncode == 0
    rows = await system.database.fetch("SELECT id, model, input_tokens FROM ai_usage_logs")
    assert {(row["id"], row["model"], row["input_tokens"]) for row in rows} == {
        (UUID(one["id"]), "mended", 100) for one in (bad, good)
    }
    assert await system.value("SELECT body FROM ai_usage_dead_letters") == message(bad, good).body


async def _dead_letter(system: System, *events: dict[str, Any]) -> None:
    """One message of these is returned until the broker hands it out no more, and a worker writes it down."""
    await system.publish(message(*events))
    connection = await aio_pika.connect(system.amqp_url)
    async with connection, connection.channel() as channel:
        queue = await channel.get_queue(system.queue)
        while delivered := await queue.get(fail=False):
            await delivered.reject(requeue=True)
    await system.start_worker()

    async def is_there() -> bool:
        return bool(await system.value("SELECT count(*) FROM ai_usage_dead_letters WHERE reason = 'delivery_limit'"))

    await system.until(is_there, "the dead queue is drained")
