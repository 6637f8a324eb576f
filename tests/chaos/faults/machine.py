"""The machine is short of time, and producers publish what nobody should."""

import asyncio
import random
import sys

from chaos.load import Load
from chaos.registry import fault
from chaos.stage import Stage

BUSY = "while True: pass"
BUSY_PROCESSES = 4


@fault("malformed flood", load=Load(unreadable_share=0.9, bad_share=0.5, rate=100))
async def malformed(stage: Stage, chance: random.Random) -> None:
    """Nine of ten messages cannot be read, and half of the other events are bad, while a worker is killed."""
    await asyncio.sleep(chance.uniform(1, 3))
    await (await stage.fleet.pick(chance)).kill()


@fault("processors busy", recovery_seconds_max=60)
async def busy(stage: Stage, chance: random.Random) -> None:
    """Others take the machine's processors for some seconds."""
    del stage
    others = [await asyncio.create_subprocess_exec(sys.executable, "-c", BUSY) for _ in range(BUSY_PROCESSES)]
    try:
        await asyncio.sleep(chance.uniform(3, 6))
    finally:
        for other in others:
            other.kill()
            await other.wait()
