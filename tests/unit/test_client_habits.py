"""What a service notices of the client before it sends anything: types, imports, and what they cost."""

import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
from usage_events import UsagePublisher
from usage_events.options import PublisherOptions

RUNS = 9
SMALL_MODEL = "import pydantic\nclass Small(pydantic.BaseModel):\n    number: int"

CODE_OF_A_USER = """
import asyncio
from collections.abc import Sequence
from uuid import UUID

from usage_events import BufferFullError, UnconfirmedError, UsageEvent, UsageEventsError, UsagePublisher


def report(error: UsageEventsError, events: Sequence[bytes]) -> None:
    print(len(events), error)


async def serve(user: UUID, organization: UUID) -> int:
    publisher = UsagePublisher("amqp://localhost/", app_id="chat", when_full="drop_oldest", on_error=report)
    await publisher.start()
    event = UsageEvent(user_id=user, organization_id=organization, input_tokens=3, model="m")
    try:
        publisher.record(event)
        await publisher.flush(timeout_seconds=1.5)
    except BufferFullError:
        print(publisher.books.openmetrics("chat"))
    except UnconfirmedError as error:
        return error.events
    async with UsagePublisher("amqp://localhost/") as other:
        await (await other.send([event.to_json()]))
    await publisher.close(timeout_seconds=8)
    return publisher.books.confirmed + publisher.books.as_dict()["dropped"]
"""
WRONG_LINES = {
    'UsagePublisher("amqp://localhost/", when_full="block")': "arg-type",
    'UsagePublisher("amqp://localhost/").record(b"{}")': "arg-type",
    'UsagePublisher("amqp://localhost/").books.lost': "attr-defined",
    'BlockingUsagePublisher("amqp://localhost/", when_ful="raise")': "call-arg",
    'BlockingUsagePublisher("amqp://localhost/", linger_seconds="1")': "arg-type",
}


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Python with these arguments."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, check=False)


def test_mypy_strict_passes_in_a_users_code(tmp_path: Path) -> None:
    """The package's types are complete: right code passes, and each wrong line is an error of its own kind."""
    wrong = "\n".join(f"{line}  # wrong {number}" for number, line in enumerate(WRONG_LINES))
    (tmp_path / "right.py").write_text(CODE_OF_A_USER)
    (tmp_path / "wrong.py").write_text(f"from usage_events import BlockingUsagePublisher, UsagePublisher\n\n{wrong}\n")
    done = run("-m", "mypy", "--strict", "--python-version=3.11", "right.py", "wrong.py", cwd=tmp_path)
    errors = [line for line in done.stdout.splitlines() if " error: " in line]
    wrong_places = [f"wrong.py:{number}" for number in range(3, 3 + len(WRONG_LINES))]
    assert [line.partition(": error: ")[0] for line in errors] == wrong_places
    for line, kind in zip(errors, WRONG_LINES.values(), strict=True):
        assert line.endswith(f"[{kind}]")


def test_both_publishers_take_the_same_options() -> None:
    """The type of the options has each of the parameters that `UsagePublisher` takes by name, with the same type."""
    parameters = get_type_hints(UsagePublisher.__init__)
    del parameters["amqp_url"], parameters["return"]
    assert get_type_hints(PublisherOptions) == parameters


def _cpu_seconds(program: str) -> float:
    """What a process that only runs this has cost."""
    measured = f"{program}\nimport resource\nused = resource.getrusage(resource.RUSAGE_SELF)"
    return float(run("-c", f"{measured}\nprint(used.ru_utime + used.ru_stime)").stdout)


@pytest.mark.parametrize(
    ("ours", "theirs", "ratio_max"),
    [
        ("from usage_events import UsageEvent", SMALL_MODEL, 1.3),
        ("from usage_events import UsageEvent, UsagePublisher", f"import asyncio\n{SMALL_MODEL}", 1.3),
        ("from usage_events import UsagePublisher", SMALL_MODEL, 1.0),
    ],
    ids=["events", "events and their publisher", "a publisher alone"],
)
def test_importing_costs_little_more_than_pydantic(ours: str, theirs: str, ratio_max: float) -> None:
    """Beside what a service with pydantic (and asyncio) pays anyway; a ratio of CPU times, each the least of many."""
    turns = [(_cpu_seconds(ours), _cpu_seconds(theirs)) for _ in range(RUNS)]  # noise only adds
    assert min(mine for mine, _ in turns) / min(base for _, base in turns) <= ratio_max, turns


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        ("import usage_events", ("pydantic", "aio_pika", "asyncio", "sqlite3")),
        ("from usage_events import UsageEvent", ("aio_pika", "aiormq", "asyncio", "sqlite3")),
        (
            "from usage_events import UsageEvent, UsagePublisher",
            ("aio_pika", "aiormq", "sqlite3", "usage_events.cloudevents", "worker"),
        ),
        ("from usage_events import UsagePublisher", ("aio_pika", "pydantic", "sqlite3", "usage_events.contract")),
        ("from usage_events import BlockingUsagePublisher", ("aio_pika", "pydantic", "sqlite3")),
    ],
)
def test_nothing_is_loaded_before_it_is_needed(program: str, absent: tuple[str, ...]) -> None:
    """Who only makes events loads no broker's library; who has not sent anything yet has not loaded it either."""
    done = run("-c", f"{program}\nimport sys\nprint(*[name for name in {absent!r} if name in sys.modules])")
    assert (done.stdout, done.stderr) == ("\n", "")


ON_WINDOWS = """
import os, sys
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
del os.fork, os.register_at_fork
from usage_events import BlockingUsagePublisher, SpoolError, UsagePublisher
BlockingUsagePublisher("amqp://localhost/").close()
try:
    UsagePublisher("amqp://localhost/", durability="spool", spool_path="usage.spool")
except SpoolError as error:
    print(error)
"""


def test_without_a_posix_system_only_the_spool_is_missing(tmp_path: Path) -> None:
    """Where Python has neither fork nor fcntl, as on Windows, publishers work, and a spool says why it cannot."""
    done = run("-c", ON_WINDOWS, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout.startswith("this Python has no module 'fcntl', which a spool needs; keep events in memory")
