"""`make bench-data-life` works: a quick run, in which nothing may be lost either."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
RUN_SECONDS_MAX = 280

pytestmark = [pytest.mark.slow, pytest.mark.timeout(RUN_SECONDS_MAX + 20)]


async def test_a_quick_run_loses_nothing(tmp_path: Path) -> None:
    """With a worker and a publisher all the time: each confirmed id is there once, and each step has its figures."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.data_life", "--quick", "--rows", "30000", "--json", tmp_path / "life.json",
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(RUN_SECONDS_MAX):
        _, log = await process.communicate()
    assert process.returncode == 0, log.decode()
    figures = json.loads((tmp_path / "life.json").read_text(encoding="utf-8"))
    assert (figures["missing"], figures["doubled"], figures["letters"]) == (0, 0, 0)
    assert figures["confirmed"] > 8000
    assert figures["retained_rows"] > 1000
    assert figures["dropped_rows"] > 2000
    for step in ("cascade_alone", "erase", "cascade_after_erase", "retain_rest", "enable", "ensure", "drop"):
        assert figures[f"{step}_longest_stall_seconds"] > 0
