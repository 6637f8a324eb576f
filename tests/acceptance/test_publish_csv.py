"""`usage-worker publish` with CSV files, through queue and worker."""

import csv
import os
import re
import sys
from asyncio import create_subprocess_exec, subprocess
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest
from azure_trace import HAVE_TRACE, ROWS, TRACE
from harness import ORGANIZATION, USER, System

COLUMNS = (
    "--map", "created_at=TIMESTAMP", "--map", "input_tokens=ContextTokens", "--map", "output_tokens=GeneratedTokens",
    "--set", "model=gpt-4o", "--set", f"user_id={USER}", "--set", f"organization_id={ORGANIZATION}",
)  # fmt: skip


class Run(NamedTuple):
    """What a finished command has left behind."""

    status: int
    output: str
    errors: str


async def publish(system: System | None, *arguments: str, stdin: bytes = b"") -> Run:
    """Runs the command to its end."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("USAGE_")}
    process = await create_subprocess_exec(
        sys.executable, "-m", "worker", "publish", *arguments,
        env=given | (system.environment() if system else {}),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate(stdin)
    assert process.returncode is not None
    return Run(process.returncode, output.decode(), errors.decode())


def shift_of(run: Run) -> str:
    """The time that a run says moves the times to the same place again."""
    found = re.search(r"--shift-to (\S+)", run.errors)
    assert found, run.errors
    return found[1]


@HAVE_TRACE
async def test_the_trace_is_sent_as_it_is_and_counts_once(system: System) -> None:
    """Each row is stored with its tokens and its spacing; sent again with the printed time, it counts nothing twice."""
    with TRACE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    await system.start_worker()
    first = await publish(system, str(TRACE), *COLUMNS, "--shift-time")
    assert (first.status, first.output) == (0, f"published: {ROWS:,} events confirmed in 194 messages\n")
    assert "times without an offset were taken as UTC" in first.errors
    again = await publish(system, str(TRACE), *COLUMNS, "--shift-to", shift_of(first))
    assert again.status == 0
    await system.settle()
    stored = await system.database.fetch("SELECT * FROM ai_usage_logs ORDER BY created_at, input_tokens, output_tokens")
    assert len(rows) == ROWS
    newest = datetime.fromisoformat(shift_of(first))
    shift = newest - max(_time(row) for row in rows)
    expected = sorted((_time(row) + shift, int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in rows)
    assert [(row["created_at"], row["input_tokens"], row["output_tokens"]) for row in stored] == expected
    assert {row["model"] for row in stored} == {"gpt-4o"}
    assert await system.value("SELECT count(*) FROM ai_usage_dead_letters") == 0


@HAVE_TRACE
async def test_the_trace_is_replayed_in_its_own_time(system: System, tmp_path: Path) -> None:
    """A part of the trace, 600 times faster: all arrive, in messages that the trace's own pauses have ended."""
    part = tmp_path / "part.csv"
    lines = TRACE.read_text(encoding="utf-8").splitlines()
    part.write_text("\n".join(lines[:2_001]), encoding="utf-8")
    await system.start_worker()
    run = await publish(system, str(part), *COLUMNS, "--shift-time", "--replay-speed", "600")
    assert run.status == 0
    messages = int(run.output.split(" in ")[1].split()[0].replace(",", ""))
    assert messages > 2_000 / 100  # so many would do if each were full
    await system.settle()
    assert await system.stored() == 2_000


async def test_bad_rows_are_refused_and_the_others_sent(system: System) -> None:
    """From standard input with another delimiter: faults with line and field, exit status 3, columns left out named."""
    rows = [
        "at;input_tokens;note",
        f"{datetime.now().astimezone().isoformat()};5;a",
        f"{datetime.now().astimezone().isoformat()};five;b",
        "2001-01-01 00:00:00Z;5;c",
        "x;y",
    ]
    ids = ("--set", f"user_id={USER}", "--set", f"organization_id={ORGANIZATION}")
    run = await publish(
        system, "-", "--format", "csv", "--delimiter", ";", "--map", "created_at=at", *ids,
        stdin="\r\n".join(rows).encode(),
    )  # fmt: skip
    assert (run.status, run.output) == (3, "published: 1 event confirmed in 1 message, 3 lines refused\n")
    said = run.errors.splitlines()
    assert said[0] == "<stdin>: not sent, as no field is mapped to them: note"
    assert said[1] == "<stdin>:3: input_tokens: 'five' is no whole number"
    assert re.fullmatch(r"<stdin>:4: created_at: \d+\.\d+ s older than what is accepted", said[2])
    assert said[3] == "<stdin>:5: has 2 cells, the header has 3"
    await system.start_worker()
    await system.settle()
    assert await system.stored() == 1


async def test_a_wrong_mapping_names_the_columns(system: System, tmp_path: Path) -> None:
    """Nothing is sent, and the exit status is that of wrong usage."""
    path = tmp_path / "calls.CSV"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,1,2\n")
    run = await publish(system, str(path), *COLUMNS, "--map", "endpoint=Path")
    assert (run.status, run.output) == (2, "stopped: 0 events confirmed in 0 messages\n")
    columns = "TIMESTAMP, ContextTokens, GeneratedTokens"
    assert run.errors == f"usage-worker: {path} has no column 'Path'; its columns are: {columns}\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("--map model=M", "Error: --map is for CSV, and no file ends with .csv; say --format csv\n"),
        ("--map modl=M", "usage-worker: --map modl=M: an event has no field 'modl'; it has user_id"),
        ("--map model", "usage-worker: --map model: write it as --map FIELD=…, such as"),
        ("--set input_tokens=x", "usage-worker: --set input_tokens=x: 'x' is no whole number\n"),
        ("--set id=x", "usage-worker: --set id: every row would be the same event; map a column"),
        ("--set model=x --map model=M", "usage-worker: model is given by --map and by --set"),
        ("--map model=x --map model=M", "--map model=M: model is given twice; give it once\n"),
        ("--id-from call", "Error: --id-from needs --id-source NAME: whose ids these are"),
        ("--delimiter ::", "'::' is not one character, nor the word tab"),
        ("--shift-to today", "'today' is no time with its offset, such as 2026-01-31T08:00:00Z"),
        ("--rate 5 --replay-speed 2", "Error: --rate and --replay-speed both set the pace"),
    ],
)
async def test_wrong_usage(tmp_path: Path, arguments: str, error: str) -> None:
    """What cannot be is told before anything is connected, with the value and what to do; the exit status is 2."""
    path = tmp_path / "calls.txt"
    path.write_text("a\n")
    csv_format = [] if arguments == "--map model=M" else ["--format", "csv"]
    run = await publish(None, str(path), *csv_format, *arguments.split())
    assert run.status == 2
    assert error in " ".join(run.errors.split("\n  ")), run.errors


def _time(row: dict[str, str]) -> datetime:
    return datetime.fromisoformat(f"{row['TIMESTAMP'][:26]}+00:00")
