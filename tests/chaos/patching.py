"""How the suite's own workers differ from the product's: an attribute is put in another's place before `main` runs."""

import asyncio
import os
from typing import Any

import uvloop

from worker.__main__ import main

EVENT_LOOP = "CHAOS_EVENT_LOOP"  # that workers run on: uvloop's, as always, or asyncio's own


def put(owner: object, name: str, value: object) -> Any:
    """Put it there; what stood there before.

    Raises:
        AttributeError: nothing did, so that this is out of date.
    """
    before = getattr(owner, name)
    setattr(owner, name, value)
    return before


def run_worker() -> None:
    """`usage-worker`, on the event loop that is asked for."""
    if os.environ.get(EVENT_LOOP) == "asyncio":
        put(uvloop, "run", asyncio.run)
    main()
