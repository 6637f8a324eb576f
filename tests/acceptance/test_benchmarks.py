"""`make bench` works: a quick run of the headline, from outside."""

import asyncio
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from benchmarks import contenders as names
from benchmarks.dead_letters import lines as letter_lines
from benchmarks.producer_report import CALLS, FROZEN, OUTAGE, OVER_TIME, PICTURE, PLAIN, PUBLISHING, WAYS
from benchmarks.producer_report import markdown as producers_markdown
from benchmarks.questions import QUESTIONS, profile
from benchmarks.questions.table_sizes import line_name
from benchmarks.report import PICTURES, markdown
from benchmarks.sheet import Sheet
from benchmarks.targets import TARGETS

from worker.settings import Settings

TESTS = Path(__file__).parents[1]
RUN_SECONDS_MAX = 280
WRITERS = Settings.model_fields["writers"].default
BENCH_GROUP = ("celery", "celery_batches", "faststream", "matplotlib", "psycopg")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(RUN_SECONDS_MAX + 20),
    pytest.mark.skipif(
        not all(find_spec(name) for name in BENCH_GROUP),
        reason="the group `bench` is not installed: `make test-all` installs it, or `uv sync --group bench`",
    ),
]


async def test_a_quick_run_measures_every_contender(tmp_path: Path) -> None:
    """Each contender drains its backlog and its rows are right, or the run fails; JSON, report, picture are there."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks", "--quick", "--json", tmp_path / "run.json", "--pictures", tmp_path,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(RUN_SECONDS_MAX):
        report, log = await process.communicate()
    assert process.returncode == 0, log.decode()
    sheet = Sheet.read(tmp_path / "run.json")
    rated = {line.contender for line in sheet.of("headline") if line.spread("events_per_second")}
    assert rated == {
        names.WORKER_SINGLE, names.WORKER_LIBRARY, names.WORKER_ARRAYS, names.COPY_ONE, names.copy_name(WRITERS),
        names.IDLE_AIO_PIKA, names.IDLE_AIORMQ, names.SEED, names.FASTSTREAM.name, names.EXECUTEMANY.name,
        names.CELERY.name,
    }  # fmt: skip
    assert sum(target.ratio(sheet) is not None for target in TARGETS) == 9
    assert report.decode() == markdown(sheet)
    assert (tmp_path / "rates.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_every_question_has_its_picture(tmp_path: Path) -> None:
    """A sheet with figures of every question becomes one drawing each, start-up alone excepted: it is one number."""
    from benchmarks.pictures import DRAWINGS, draw_all

    sheet = Sheet()
    for case in (0.1, 0.5):
        for question in QUESTIONS:
            sheet.note(question, "worker", case, events_per_second=1000 * case, peak_memory_mib=80)
        sheet.note("latency", "worker", case, latency_ms_p50=100, latency_ms_p99=200)
        for version in ("v7", "v4"):
            sheet.note("table_sizes", line_name("worker", version), case, events_per_second=case)
            sheet.note("table_sizes", line_name(names.COPY_ONE, version), case, events_per_second=case)
    sheet.lines = [line for line in sheet.lines if (line.question, line.contender) != (profile.NAME, "worker")]
    for size in (1, 100):
        for part in profile.PARTS:
            sheet.note(profile.NAME, part, size, us_per_event=size)
    assert set(DRAWINGS) == set(PICTURES) == set(QUESTIONS) - {"start_up"}
    assert [path.stat().st_size > 5000 for path in draw_all(sheet, tmp_path)] == [True] * len(DRAWINGS)


async def test_a_quick_run_of_producers(tmp_path: Path) -> None:
    """Each way of accounting is measured in each case and all of it is stored, or the run fails; so is publishing."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.producers", "--quick",
        "--json", tmp_path / "run.json", "--pictures", tmp_path,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(RUN_SECONDS_MAX):
        report, log = await process.communicate()
    assert process.returncode == 0, log.decode()
    sheet = Sheet.read(tmp_path / "run.json")
    assert report.decode() == producers_markdown(sheet)
    named = {"idle", "burst", *FROZEN.values()}
    asked = {(line.case, line.contender) for line in sheet.of(CALLS) if line.median("us_p50") > 0}
    assert asked == {(case, way) for case in named for way in WAYS.values()}
    assert {(line.case, line.contender) for line in sheet.of(OUTAGE)} == {
        (case, way) for case in FROZEN.values() for way in WAYS.values()
    }
    for question in OVER_TIME.values():
        assert {line.contender for line in sheet.of(question)} == set(WAYS.values())
    assert [(line.contender, line.median("events_per_message")) for line in sheet.of(PUBLISHING)] == [
        (PLAIN, 1), *(("UsagePublisher", size) for size in (1, 10, 100, 1_000)),
    ]  # fmt: skip
    assert (tmp_path / PICTURE).read_text(encoding="utf-8").startswith("<?xml")


async def test_a_small_run_beside_dead_letters(tmp_path: Path) -> None:
    """Every question about dead letters is answered, with a figure each; what is replayed and found is checked."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.dead_letters", "--letters", "5000", "--rounds", "1",
        "--json", tmp_path / "run.json",
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(RUN_SECONDS_MAX):
        report, log = await process.communicate()
    assert process.returncode == 0, log.decode()
    sheet = Sheet.read(tmp_path / "run.json")
    assert report.decode().splitlines() == letter_lines(sheet)
    asked = {line.contender for line in sheet.of("dead letters")}
    assert asked == {
        "--help", "list of an empty table", "summary", "list --limit 50", "list of a producer",
        "list of a reason, two days", "worker, 0 letters in the table", "worker, 5,000 letters in the table",
        "replay of 50", "replay of 500", "find of 5,000 ids", "COPY of 5,000 ids",
    }  # fmt: skip
    replay = sheet.find("dead letters", "replay of 500")
    assert replay is not None
    assert 200 < replay.median("recovered") < 500, "three of five have users by now"
    assert replay.median("peak_memory_mib") > 10
