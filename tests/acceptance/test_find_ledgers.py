"""`usage-worker find` by what it is given: standard input, lines that are no ids, wrong usage."""

import asyncio
import json
import sys
from pathlib import Path
from uuid import uuid4

import pytest


async def find(dsn: str, *arguments: str, given: bytes = b"") -> tuple[int, str, str]:
    """Run it; exit status, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", "find", *arguments,
        env={"PATH": "/usr/bin:/bin", "USAGE_POSTGRES_DSN": dsn},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate(given)
    return process.returncode or 0, output.decode(), errors.decode()


async def test_lines_that_are_no_ids_are_named_and_the_others_are_counted(migrated_dsn: str) -> None:
    """From standard input: a header and a braced id are refused with their line; blank lines and CR are nothing."""
    missing = str(uuid4())
    lines = f"event_id\r\n\r\n{missing}\r\n{{{missing}}}\n\n{missing}".encode()
    status, output, errors = await find(migrated_dsn, "--ids-from", "-", "--missing", "--json", given=lines)
    assert status == 3
    assert errors.splitlines() == [
        "standard input:1: 'event_id' is no event id",
        f"standard input:4: '{{{missing}}}' is no event id",
    ]
    books, *nowhere = [json.loads(line) for line in output.splitlines()]
    assert (books["given"], books["refused_lines"], books["distinct"], books["missing"]) == (2, 2, 1, 1)
    assert nowhere == [{"id": missing, "answer": "missing"}]


async def test_a_file_without_ids_does_not_flood_the_terminal(migrated_dsn: str, tmp_path: Path) -> None:
    """Of a thousand wrong lines ten are shown, and the rest is a number; the books say that nothing was given."""
    path = tmp_path / "wrong.csv"
    path.write_text("a,b\n" * 1000, encoding="ascii")
    status, output, errors = await find(migrated_dsn, "--ids-from", str(path))
    assert status == 3
    assert len(errors.splitlines()) == 11
    assert errors.endswith("990 more lines are no event id\n")
    assert output.split() == [
        "given", "0", "lines", "that", "are", "no", "id", "1,000", "distinct", "0",
        "stored", "0", "with", "a", "letter", "only", "0", "missing", "0",
    ]  # fmt: skip


async def test_many_ids_come_in_many_pieces(migrated_dsn: str) -> None:
    """More than one reading of the input: each id is counted, in the order of ids at the end."""
    ids = sorted(str(uuid4()) for _ in range(30_000))
    given = "\n".join(reversed(ids)).encode()
    status, output, errors = await find(migrated_dsn, "--ids-from", "-", "--missing", given=given)
    assert (status, errors) == (3, "")
    assert output.splitlines()[-len(ids) :] == ids


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give event ids, or --ids-from FILE"),
        (("0198c0de",), "'0198c0de' is no event id"),
        ((str(uuid4()), "--ids-from", "-"), "give event ids, or --ids-from FILE"),
        ((str(uuid4()), "--missing"), "--missing belongs to --ids-from FILE"),
        (("--ids-from", "no-such-file"), "no-such-file"),
    ],
)
async def test_wrong_usage_is_named(arguments: tuple[str, ...], said: str) -> None:
    """Exit status 2 before anything is connected to: there is no such server."""
    status, output, errors = await find("postgresql://127.0.0.1:1/nowhere", *arguments)
    assert (status, output) == (2, "")
    assert said in errors
