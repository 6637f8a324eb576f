"""One spool, several processes: they record, lease and settle at once, and some of them are killed."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import spools
from spools import drain
from usage_events.spool import Spool

RECORD_AND_DRAIN = """
import os, sys
from spools import ALL, entry, numbers
from usage_events.spool import Spool

spool = Spool(sys.argv[1])
first = int(sys.argv[2])
for number in range(first, first + 400):
    spool.put(entry(number))
    os.write(1, b"+%d\\n" % number)
    if number % 10 == 9 and (lease := spool.lease(7, ALL)) is not None:
        for taken in numbers(lease.entries):
            os.write(1, b"-%d\\n" % taken)
        spool.settle(lease)
while sys.argv[3:]:
    spool.lease(1, ALL)
"""


def start(path: Path, first: int, *waits: str) -> subprocess.Popen[str]:
    """A process that records 400 events and takes most of them out; then it ends, or leases until it is killed."""
    return subprocess.Popen(
        [sys.executable, "-c", RECORD_AND_DRAIN, path, str(first), *waits],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(spools.__file__).parent)},
    )


def test_no_event_is_sent_by_two_living_processes(tmp_path: Path) -> None:
    """Four processes at once on one file: each event is taken exactly once, by one of them or by who comes after."""
    path = tmp_path / "spool"
    processes = [start(path, 10_000 * number) for number in range(4)]
    lines = [line for process in processes for line in process.communicate(timeout=60)[0].split()]
    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    recorded = [int(line) for line in lines if line.startswith("+")]
    taken = Counter([-int(line) for line in lines if line.startswith("-")])
    taken.update(drain(Spool(path)))
    assert len(recorded) == 1600
    assert taken == Counter(recorded)


def test_killed_processes_lose_nothing_and_free_what_they_leased(tmp_path: Path) -> None:
    """Each of eight is killed somewhere, with leases: what is recorded and not taken is there for the next."""
    path = tmp_path / "spool"
    recorded: set[int] = set()
    taken: set[int] = set()
    for number in range(8):
        with start(path, 1000 * number, "until killed") as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(20 + 90 * number)]
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        whole = [line.strip() for line in lines if line.endswith("\n")]
        recorded |= {int(line) for line in whole if line.startswith("+")}
        taken |= {-int(line) for line in whole if line.startswith("-")}
    spool = Spool(path)
    left = drain(spool)
    assert recorded <= taken | set(left)
    assert len(left) == len(set(left))
    spool.close()
    assert list(tmp_path.glob("spool-owner-*")) == []
