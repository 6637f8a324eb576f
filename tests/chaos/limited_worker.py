"""`usage-worker` that may take only CHAOS_MEMORY_BYTES beyond what its programs take (RLIMIT_AS)."""

import os
import resource
from pathlib import Path

import worker.app  # noqa: F401 - its programs are in memory when the limit is set
from worker.__main__ import main


def limit_memory(more_bytes: int) -> None:
    """From here on."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    limit_memory(int(os.environ["CHAOS_MEMORY_BYTES"]))
    main()
