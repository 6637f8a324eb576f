"""The network between producers, RabbitMQ, workers and Postgres is cut, frozen, half-open, slow, chopped, corrupted."""

import asyncio
import random
import signal
from typing import Any

from harness.waiting import until

from chaos.fleet import NotFeltError
from chaos.proxy import Proxy
from chaos.registry import fault
from chaos.stage import Stage

PAIRS = ("workers_to_rabbitmq", "workers_to_postgres", "producers_to_rabbitmq")
# A peer that has vanished is noticed by its heartbeats of 15 s (RabbitMQ) or its command's time-out of 40 s (Postgres).
VANISHED_SECONDS_MAX = 120.0
CORRUPTIONS = 5


async def cut(proxy: Proxy, chance: random.Random) -> None:
    """Every connection is cut at 10 random instants."""
    for _ in range(10):
        await proxy.cut()
        await asyncio.sleep(chance.uniform(0, 0.7))


async def cut_and_refuse(proxy: Proxy, chance: random.Random) -> None:
    """Every connection is cut, and new ones are refused for some seconds."""
    await proxy.tell(refuses=True, cut=True)
    await asyncio.sleep(chance.uniform(2, 5))
    await proxy.tell(refuses=False)


async def freeze(proxy: Proxy, chance: random.Random) -> None:
    """Nothing passes for some seconds, and no connection ends."""
    await proxy.tell(frozen=True)
    await asyncio.sleep(chance.uniform(2, 6))
    await proxy.tell(frozen=False)


async def lose(proxy: Proxy, chance: random.Random) -> None:
    """Half-open: everything is lost for a moment, and the connections of then for ever; no side is told."""
    await proxy.tell(loses=True)
    await asyncio.sleep(chance.uniform(0.5, 2))
    await proxy.tell(loses=False)


async def delay(proxy: Proxy, chance: random.Random) -> None:
    """Each piece comes up to 250 ms late."""
    await proxy.tell(delay_ms=50, jitter_ms=200)
    await asyncio.sleep(chance.uniform(4, 6))
    await proxy.tell(delay_ms=0, jitter_ms=0)


async def chop(proxy: Proxy, chance: random.Random) -> None:
    """Everything comes in pieces, most of one byte."""
    await proxy.tell(chopped=True)
    await asyncio.sleep(chance.uniform(4, 6))
    await proxy.tell(chopped=False)


def _corrupt(side: str) -> Any:
    async def act(proxy: Proxy, chance: random.Random) -> None:
        """A byte of framing (type, channel, length, end) is overwritten on each connection, five times."""
        try:
            for _ in range(CORRUPTIONS):
                before = (await proxy.tell(corrupts=side))["touched"]
                await _until_touched(proxy, before)
                await asyncio.sleep(chance.uniform(0.5, 1.5))
        finally:
            await proxy.tell(corrupts="")

    return act


# Who reads a length that is too large waits for the rest: of an idle connection that is noticed after a minute, and a
# stop before that has no answer within its deadline, which exits with 1.
MISREAD = {"recovery_seconds_max": VANISHED_SECONDS_MAX, "exits": frozenset({0, 1, -signal.SIGKILL})}


async def _until_touched(proxy: Proxy, before: int) -> None:
    async def is_touched() -> bool:
        return bool((await proxy.tell())["touched"] > before)

    try:
        await until(is_touched, "something is corrupted", seconds_max=VANISHED_SECONDS_MAX)
    except TimeoutError as error:
        raise NotFeltError(str(error)) from error


WAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "cut": (cut, {}),
    "cut and refused": (cut_and_refuse, {}),
    "frozen": (freeze, {}),
    "half-open": (lose, {"recovery_seconds_max": VANISHED_SECONDS_MAX}),
    "delayed with jitter": (delay, {}),
    "in pieces of one byte": (chop, {}),
    "corrupted by the client": (_corrupt("client"), MISREAD),
    "corrupted by the server": (_corrupt("server"), MISREAD),
}


def _register(pair: str, way: str) -> None:
    act_on, options = WAYS[way]

    async def act(stage: Stage, chance: random.Random) -> None:
        proxy: Proxy = getattr(stage, pair)
        before = (await proxy.tell())["touched"]
        await act_on(proxy, chance)
        if (await proxy.tell())["touched"] == before:
            raise NotFeltError("nothing came through the proxy meanwhile")

    act.__doc__, act.__module__ = act_on.__doc__, __name__
    fault(f"{pair.replace('_', ' ').replace('rabbitmq', 'RabbitMQ').replace('postgres', 'Postgres')} {way}", **options)(
        act
    )


for _pair in PAIRS:
    for _way in WAYS:
        _register(_pair, _way)
