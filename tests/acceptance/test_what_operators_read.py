"""What the commands on dead letters say where they could mislead: why a letter is refused now, and foreign texts."""

import asyncio
import json
import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from desk import Desk
from harness import event
from harness.worker import COMMAND

ESCAPE = "\x1b]0;owned\x07"
FULL = Path("/dev/full")


async def the_letter(desk: Desk) -> str:
    """The id of the only letter."""
    return str(await desk.database.fetchval("SELECT id FROM ai_usage_dead_letters"))


def run(desk: Desk, *words: str, stdout: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """A command of `usage-worker`, run to its end."""
    return subprocess.run(
        [COMMAND, *words],
        env=os.environ | {"USAGE_POSTGRES_DSN": desk.dsn},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


def run_without_room(desk: Desk, *words: str) -> subprocess.CompletedProcess[str]:
    """The same, with a standard output that takes nothing."""
    with FULL.open("w", encoding="utf-8") as full:
        return run(desk, *words, stdout=full)


async def test_a_mended_letter_that_is_refused_again_says_why_now(desk: Desk) -> None:
    """Its errors are the edited body's, filters find it by them, and the audit shows the replay that was in vain."""
    await desk.refuse(event() | {"first": 1})
    letter_id = await the_letter(desk)
    assert desk.run("edit", letter_id, "--rename", "first=second", "--force").returncode == 0
    done = desk.run("replay", "--yes", "--who", "ada")
    assert (done.returncode, "0 recovered, 1 refused" in done.stdout) == (3, True)
    assert [letter["id"] for letter in desk.json("list", "--field", "second")] == [letter_id]
    assert desk.json("list", "--field", "first") == []
    *_, last = desk.json("history", letter_id)
    assert (last["who"], last["action"], last["from_reason"], last["to_reason"]) == ("ada", "replay", *["invalid"] * 2)
    assert "still invalid" in desk.run("history").stdout


async def test_refused_events_of_an_array_are_told(desk: Desk) -> None:
    """An array comes home although some of its events do not; nobody may read that as all is well."""
    await desk.refuse(b"[")
    events = [event(), event(input_tokens=-1), event(user_id=str(uuid4()))]
    body = json.dumps(events).encode()
    await desk.database.execute("UPDATE ai_usage_dead_letters SET edited_body = $1", body)
    tried, replayed = desk.run("try"), desk.run("replay", "--yes")
    assert (tried.returncode, replayed.returncode) == (0, 3)
    assert tried.stdout.endswith("of the events in arrays 2 would get a letter each: they are refused\n")
    assert replayed.stdout.endswith("of the events in arrays 2 got a letter each: they are refused\n")
    assert await desk.database.fetchval("SELECT count(*) FROM ai_usage_dead_letters WHERE status = 'open'") == 2


async def test_foreign_texts_do_not_steer_the_terminal(desk: Desk) -> None:
    """Names of fields, producers and models are shown with their control characters escaped."""
    stored, refused = event(model=ESCAPE), event() | {ESCAPE: 1}
    await desk.refuse(stored, refused, producer=ESCAPE)
    said = [desk.run(*arguments) for arguments in (("try",), ("replay", "--yes"), (), ("list",))]
    said.append(run(desk, "find", stored["id"], refused["id"]))
    for done in said:
        assert "\\x1b]0;owned\\x07" in done.stdout
        assert not {"\x1b", "\x07"} & set(done.stdout)


async def test_a_trial_hides_what_show_hides(desk: Desk) -> None:
    """With USAGE_REDACT the sample of a group quotes nothing of a body."""
    await desk.refuse(b"Ada Lovelace")
    assert "Ada" in desk.run("try").stdout
    assert "Ada" not in desk.run("try", USAGE_REDACT="true").stdout


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full on this system")
@pytest.mark.parametrize("command", ["list --json", "try", "discard --why x --yes", "find"])
async def test_output_that_cannot_be_written_is_named(desk: Desk, command: str, tmp_path: Path) -> None:
    """A full disk is not the database's fault, and no traceback."""
    await desk.refuse(b"{")
    ledger = tmp_path / "ids"
    ledger.write_text(f"{uuid4()}\n", encoding="utf-8")
    name, *arguments = command.split()
    words = [name, "--ids-from", str(ledger)] if name == "find" else ["dead-letters", name, *arguments]
    done = run_without_room(desk, *words)
    assert done.returncode == 1
    assert done.stderr.startswith("usage-worker: standard output cannot be written: [Errno 28]")


async def test_an_export_whose_reader_leaves_says_only_that(desk: Desk) -> None:
    """`export - | head` ends with one line, not with what a library says about a cursor that was left open."""
    await desk.refuse(*(b"x" * 1000 + bytes([number]) for number in range(1, 255)))
    process = await desk.start("export", "-")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout._transport.close()  # type: ignore[attr-defined]  # the reader leaves
    said = (await process.stderr.read()).decode()
    assert await process.wait() == 1
    assert said.startswith("usage-worker: the export cannot be written: ")
    assert said.count("\n") == 1


async def test_ctrl_c_at_the_question_ends_the_command(desk: Desk) -> None:
    """Nobody has to answer first: the prompt is given up, and nothing is changed."""
    await desk.refuse(b"{")
    operator, terminal = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *(COMMAND, "dead-letters", "discard", "--why", "x"),
            env=os.environ | {"USAGE_POSTGRES_DSN": desk.dsn},
            stdin=terminal,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        await process.stderr.readuntil(b"[y/N]: ")
        saying = asyncio.ensure_future(process.stderr.read())
        for _ in range(5):  # one that comes before the system call that waits for the line is not seen: press again
            process.send_signal(signal.SIGINT)
            if saying in (await asyncio.wait({saying}, timeout=5))[0]:
                break
        assert (await process.wait(), (await saying).strip()) == (1, b"stopped")
    finally:
        os.close(operator)
        os.close(terminal)
    assert await desk.database.fetchval("SELECT status FROM ai_usage_dead_letters") == "open"


async def test_moments_the_wrong_way_round_are_refused(desk: Desk) -> None:
    """No letter is after 2h ago and before 3h ago: nobody should take that for good news."""
    done = desk.run("list", "--since", "2h", "--until", "3h")
    assert done.returncode == 2
    assert "Invalid value for --since: begins at" in done.stderr
