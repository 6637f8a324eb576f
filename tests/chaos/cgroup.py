"""A group of processes that together may take only so much memory: the kernel kills one of them when they want more."""

import os
import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import Self
from uuid import uuid4

from harness.waiting import until

from chaos.registry import NotHereError

MOUNT = Path("/sys/fs/cgroup")


class MemoryGroup:
    """A cgroup, version 2 or 1, below this process's own or beside it. `async with` ends its processes and removes it.

    Args:
        folder: where the kernel shows it.
        version: 1 or 2.
    """

    def __init__(self, folder: Path, version: int) -> None:
        self.folder = folder
        self._version = version

    @classmethod
    def make(cls, limit_bytes: int) -> Self:
        """Make one.

        Raises:
            NotHereError: this machine lets nobody, or not us.
        """
        parent, version = find_parent(Path("/proc/self/cgroup").read_text(encoding="ascii"), MOUNT)
        group = cls(parent / f"usage-chaos-{uuid4().hex[:8]}", version)
        try:
            group.folder.mkdir()
        except OSError as error:
            raise NotHereError(f"no cgroup can be made in {parent}: {error.strerror}") from error
        try:
            if version == 1:
                group._write("memory.swappiness", 0)
                group._write("memory.limit_in_bytes", limit_bytes)
            else:
                group._write("memory.max", limit_bytes)
                if (group.folder / "memory.swap.max").exists():
                    group._write("memory.swap.max", 0)
        except OSError as error:
            group.folder.rmdir()
            raise NotHereError(f"the memory of a cgroup in {parent} cannot be limited: {error.strerror}") from error
        return group

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await until(self._is_ended, f"the processes of {self.folder} have ended")
        self.folder.rmdir()

    def add(self, pid: int) -> None:
        """From here on what this process allocates counts here; what it has stays where it was counted."""
        self._write("cgroup.procs", pid)

    def kills(self) -> int:
        """How many of its processes the kernel has killed."""
        file = "memory.oom_control" if self._version == 1 else "memory.events"
        found = re.search(r"^oom_kill (\d+)$", (self.folder / file).read_text(encoding="ascii"), re.MULTILINE)
        return int(found[1]) if found else 0

    def _is_ended(self) -> bool:
        members = (self.folder / "cgroup.procs").read_text(encoding="ascii").split()
        for member in members:
            with suppress(ProcessLookupError):
                os.kill(int(member), signal.SIGKILL)
        return not members

    def _write(self, name: str, value: int) -> None:
        (self.folder / name).write_text(f"{value}", encoding="ascii")


def find_parent(own: str, mount: Path) -> tuple[Path, int]:
    """The folder below which a group may be made, and the version of cgroups.

    Args:
        own: what /proc/self/cgroup says.
        mount: where cgroups are mounted.

    Raises:
        NotHereError: there is none.
    """
    if os.geteuid() != 0:
        raise NotHereError("making a cgroup takes root")
    places = dict(re.findall(r"^\d+:([^:]*):/(.*)$", own, re.MULTILINE))
    for controllers, place in places.items():
        if "memory" in controllers.split(","):
            folder = mount / "memory"
            return (folder / place if (folder / place).exists() else folder), 1
    # A group with processes of its own passes no controller on: the nearest one above that does.
    nearest = mount / places.get("", "")
    for folder in (nearest, *nearest.parents):
        control = folder / "cgroup.subtree_control"
        if not folder.is_relative_to(mount) or not control.exists():
            continue
        if "memory" in control.read_text(encoding="ascii").split():
            return folder, 2
    raise NotHereError(f"no cgroup below {mount} passes the memory controller on")
