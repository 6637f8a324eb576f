"""An upgrade and a way back: workers of the version before the newest migration, on today's schema."""

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from harness import System, event, message, raw

ROOT = Path(__file__).parents[2]
MIGRATIONS = "schema/migrations"
EVENTS = 3000
SAID = """
import worker, usage_events
from worker.postgres.migrations import find_migrations
print(worker.__file__, usage_events.__file__, find_migrations()[-1].name)
"""


def git(*arguments: str | Path) -> str:
    """What git prints of this checkout; a test is skipped where it has no history to look at."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this checkout has no history of the migrations: {done.stderr.strip()}")
    return done.stdout.strip()


@pytest.fixture
def before(tmp_path: Path) -> Mapping[str, str]:
    """The environment in which commands are those of the commit before the newest migration came."""
    newest = max(path.name for path in (ROOT / MIGRATIONS).glob("*.sql"))
    added = git("log", "--diff-filter=A", "--format=%H", "--", f"{MIGRATIONS}/{newest}").split()
    if not added:
        pytest.skip(f"{newest} is not committed yet")
    old = tmp_path / "old"
    git("archive", "--output", tmp_path / "old.tar", f"{added[-1]}^", "worker", "client", "schema")
    with tarfile.open(tmp_path / "old.tar") as archive:
        archive.extractall(old, filter="data")
    environment = {"PYTHONPATH": os.pathsep.join([str(old), str(old / "client")]), "PYTHONDONTWRITEBYTECODE": "1"}
    said = subprocess.run(
        [sys.executable, "-c", SAID], env=os.environ | environment, cwd=old, capture_output=True, text=True, check=True
    ).stdout.split()
    assert all(path.startswith(str(old)) for path in said[:2])
    assert said[2] < newest
    return environment


async def test_both_versions_work_side_by_side_and_the_old_one_alone(system: System, before: Mapping[str, str]) -> None:
    """After `migrate` the workers are replaced one by one, and could be replaced back: the books balance throughout."""
    old = await system.start_worker(wait_ready=True, **before)
    events = [event() for _ in range(EVENTS)]
    wrong = [event(input_tokens=-1), event(user_id="33333333-3333-4333-8333-333333333333")]
    await system.publish(*(message(one) for one in [*events[:1000], *wrong, *events[:10]]), raw(b"{"))
    await system.until_stored(1000)

    new = await system.start_worker()
    await system.publish(*(message(one) for one in events[1000:2000]))
    await system.until_stored(2000)
    await old.kill()
    await system.publish(message(event(output_tokens=-1)))

    await system.start_worker(wait_ready=True, **before)  # the way back, while the new one still runs
    assert await new.stop() == 0, new.log_tail()
    await system.publish(*(message(one) for one in [*events[2000:], *events[:10]]), raw(b"["))
    await system.until_stored(EVENTS)
    await system.settle()
    books = await system.books()
    books.check()
    assert books.letters == {"invalid": 2, "unknown_user": 1, "bad_json": 2}
