"""A service that accounts for its calls, on one core: `… peers.caller SPEC_FILE`; each call's cost goes to a file.

Calls arrive at their own times, whatever became of those before (an open loop): one that has to wait for another is
slow, and none is left out. They are looked for every millisecond, which is within `late`. Prints the moment of the
first, on the machine's monotonic clock, and at the end one JSON object: rows and tokens that have to be stored.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from time import monotonic
from typing import Any, Literal, TypeAlias
from uuid import UUID

import asyncpg
import uvloop
from usage_events import UsageEvent, UsagePublisher

from benchmarks.calls import Call, Calls

TICK_SECONDS = 0.001
POOL_CONNECTIONS = 10
INPUT_TOKENS, OUTPUT_TOKENS = 374, 44
ENDPOINT, MODEL, REQUEST_TYPE = "/v1/chat/completions", "gpt-4o-mini", "chat"
METADATA: dict[str, Any] = {"trace": "5f0c8d3e9a7b2c14", "region": "eu", "cached": 0}
SEED_FUNCTION = "SELECT log_ai_usage($1, $2, $3, $4, $5, $6, $7, $8, $9)"

Person = tuple[UUID, UUID]
People: TypeAlias = "cycle[Person]"


@dataclass(frozen=True, slots=True)
class Spec:
    """What to do. `rate` is in calls a second; 0 makes all of them due at once. `people` are users' and organizations'
    ids in pairs; `file` takes the calls.
    """  # noqa: D205 - one thought

    way: Literal["function", "memory", "spool"]
    core: int
    calls: int
    rate: float
    warm_up: int
    amqp_url: str
    exchange: str
    dsn: str
    spool_path: str
    people: list[tuple[str, str]]
    file: str

    def write(self, path: Path) -> None:
        """Write the file that `read` takes."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "Spec":
        """A specification from its file."""
        return cls(**json.loads(path.read_text()))


async def arrivals(calls: int, rate: float) -> AsyncIterator[float]:
    """The moments at which calls are due, each given once it has come; all at once where the rate is 0."""
    begun_at = monotonic()
    given = 0
    while given < calls:
        come = min(calls, int((monotonic() - begun_at) * rate) + 1) if rate else calls
        for number in range(given, come):
            yield begun_at + (number / rate if rate else 0.0)
        given = come
        await asyncio.sleep(TICK_SECONDS)


def announce() -> float:
    """Tell the run that it begins."""
    begun_at = monotonic()
    sys.stdout.write(f"{begun_at}\n")
    sys.stdout.flush()
    return begun_at


async def call_function(spec: Spec, people: People, calls: Calls) -> None:
    """What a service does today: a query for each call, through a pool."""
    metadata = json.dumps(METADATA)
    total = INPUT_TOKENS + OUTPUT_TOKENS
    rest = (total, INPUT_TOKENS, OUTPUT_TOKENS, ENDPOINT, MODEL, REQUEST_TYPE, metadata)
    async with asyncpg.create_pool(spec.dsn, min_size=POOL_CONNECTIONS, max_size=POOL_CONNECTIONS) as pool:

        async def query(person: Person) -> None:
            async with pool.acquire() as connection:
                await connection.fetchval(SEED_FUNCTION, *person, *rest)

        async def answered(person: Person, due: float, begun_at: float) -> None:
            late = monotonic() - due
            await query(person)
            calls.add(Call(due - begun_at, late, monotonic() - due, 0.0))

        await asyncio.gather(*(query(next(people)) for _ in range(spec.warm_up)))
        begun_at = announce()
        async with asyncio.TaskGroup() as tasks:
            async for due in arrivals(spec.calls, spec.rate):
                tasks.create_task(answered(next(people), due, begun_at))


async def call_record(spec: Spec, people: People, calls: Calls) -> None:
    """What `usage_events` is for; returns once all of it is confirmed."""
    options: dict[str, Any] = {"durability": spec.way}
    if spec.way == "spool":
        options["spool_path"] = spec.spool_path
    async with UsagePublisher(spec.amqp_url, exchange=spec.exchange, **options) as publisher:

        def make() -> UsageEvent:
            user, organization = next(people)
            return UsageEvent(
                user_id=user,
                organization_id=organization,
                input_tokens=INPUT_TOKENS,
                output_tokens=OUTPUT_TOKENS,
                endpoint=ENDPOINT,
                model=MODEL,
                request_type=REQUEST_TYPE,
                request_metadata=METADATA,
            )

        for _ in range(spec.warm_up):
            publisher.record(make())
        await publisher.flush()
        begun_at = announce()
        async for due in arrivals(spec.calls, spec.rate):
            came_at = monotonic()
            event = make()
            made_at = monotonic()
            publisher.record(event)
            recorded_at = monotonic()
            calls.add(Call(due - begun_at, came_at - due, recorded_at - made_at, made_at - came_at))


WAYS: dict[str, Callable[[Spec, People, Calls], Awaitable[None]]] = {
    "function": call_function,
    "memory": call_record,
    "spool": call_record,
}


async def main(spec: Spec) -> None:
    """Call, and say what has to be stored."""
    os.sched_setaffinity(0, {spec.core})
    calls = Calls()
    people = cycle([(UUID(user), UUID(organization)) for user, organization in spec.people])
    await WAYS[spec.way](spec, people, calls)
    calls.write(Path(spec.file))
    rows = spec.calls + spec.warm_up
    report = {"messages": rows, "input_tokens": rows * INPUT_TOKENS, "output_tokens": rows * OUTPUT_TOKENS}
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    uvloop.run(main(Spec.read(Path(sys.argv[1]))))
