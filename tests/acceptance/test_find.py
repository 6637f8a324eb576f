"""`usage-worker find`: where an event is, and the books of a producer's ledger."""

import json
import sys
from asyncio import create_subprocess_exec, subprocess
from pathlib import Path
from uuid import uuid4

from harness import System, event, message


async def find(system: System, *arguments: str) -> tuple[int, list[dict[str, object]], str]:
    """Run it with --json; its exit status, its objects, and standard error."""
    process = await create_subprocess_exec(
        sys.executable, "-m", "worker", "find", "--json", *arguments,
        env={"PATH": "/usr/bin:/bin", "USAGE_POSTGRES_DSN": system.dsn}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    return process.returncode or 0, [json.loads(line) for line in output.splitlines()], errors.decode()


async def test_each_id_has_one_answer(system: System) -> None:
    """Stored, a dead letter, never seen."""
    stored, refused, unknown = event(), event(input_tokens=-1), str(uuid4())
    await system.start_worker()
    await system.publish(message(stored, refused))
    await system.until_stored(1)
    status, found, errors = await find(system, stored["id"], refused["id"], unknown)
    assert (status, errors) == (3, "")
    assert [one["id"] for one in found] == [stored["id"], refused["id"], unknown]
    assert [one["answer"] for one in found] == ["stored", "dead letter", "never seen"]


async def test_the_books_of_a_ledger(system: System, tmp_path: Path) -> None:
    """Given = stored + with a letter only + missing; the exit status says whether something is missing."""
    good, bad = [event() for _ in range(50)], [event(input_tokens=-1) for _ in range(5)]
    await system.start_worker()
    await system.publish(message(*good, *bad))
    await system.until_stored(50)
    ledger = tmp_path / "ledger.txt"
    ledger.write_text("\n".join(one["id"] for one in (*good, *bad)) + "\n", encoding="ascii")
    status, found, _ = await find(system, "--ids-from", str(ledger))
    books = found[0]
    assert (status, books["given"], books["stored"], books["missing"]) == (0, 55, 50, 0)
    missing = str(uuid4())
    with ledger.open("a", encoding="ascii") as lines:
        lines.write(f"{missing}\n")
    status, found, _ = await find(system, "--ids-from", str(ledger), "--missing")
    assert status == 3
    assert missing in json.dumps(found)
