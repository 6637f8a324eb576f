"""`usage-worker` on asyncio's own event loop in uvloop's place."""

import asyncio

import uvloop

from chaos.patching import put
from worker.__main__ import main

if __name__ == "__main__":
    put(uvloop, "run", asyncio.run)
    main()
