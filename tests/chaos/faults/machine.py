"""The machine is short of time, and producers publish what nobody should."""

import asyncio
import random
import signal
import sys

from harness.waiting import until

from chaos.load import Load
from chaos.registry import fault
from chaos.stage import Stage

FLOOD = Load(producers=2, rate=1500, unreadable_share=1.0)
FLOOD_MESSAGES = 10_000
FLOOD_SECONDS_MAX = 120.0
_UNREADABLE = "SELECT count(*) FROM ai_usage_dead_letters WHERE reason = 'bad_json'"
BUSY = "while True: pass"
BUSY_PROCESSES = 4


@fault("malformed flood", soaks=False, recovery_seconds_max=60)
async def malformed(stage: Stage, chance: random.Random) -> None:
    """Beside the usual load come 3,000 messages a second that cannot be read, some 10,000; a worker is killed."""
    usual, before = len(stage.producers), int(await stage.value(_UNREADABLE))
    await stage.start_producers(FLOOD, "flood")
    flood = stage.producers[usual:]
    await asyncio.sleep(chance.uniform(1, 3))
    await (await stage.fleet.pick(chance)).kill()

    async def are_refused() -> bool:
        return int(await stage.value(_UNREADABLE)) >= before + FLOOD_MESSAGES

    what = f"{FLOOD_MESSAGES} messages of the flood are refused"
    await until(are_refused, what, seconds_max=FLOOD_SECONDS_MAX, details=stage.details)
    async with asyncio.timeout(FLOOD_SECONDS_MAX):
        for producer in flood:
            producer.send_signal(signal.SIGTERM)
            assert await producer.wait() == 0


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
