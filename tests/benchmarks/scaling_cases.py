"""The loads and the rules that are compared before one of them goes into deploy/kubernetes/scaling.yaml."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from benchmarks import contenders as names
from benchmarks.scaling import STEP_SECONDS, Fleet, Load, Rule
from benchmarks.sheet import Sheet
from benchmarks.targets import RATE

REPLICAS_MIN, REPLICAS_MAX = 2, 6
MESSAGES_TARGET = 100_000
AGE_TARGET_SECONDS = 10.0
STABILIZATION_SECONDS = 300.0
REMOVED_MAX = 1

EVENTS_PER_SECOND_MEAN = 85_000  # the trace's bursts, with so many events that one worker is never enough
HELD_EVENTS_MAX = 15_000  # (writers + 1) batches, with the default settings
START_SECONDS = 20.0  # a node with room that has the image; the worker's own start takes one of them
NEW_NODE_SECONDS = 120.0
OUTAGE_SECONDS = (1500.0, 1800.0)
LARGE_MESSAGE_EVENTS = 100
FITTED_TARGET = 500  # two seconds of a slow worker, in messages of that size
FAR_DATABASE = 2  # how many times slower a worker is with a database far away


CHOSEN = Rule(
    "the manifest's: 100,000 messages a replica or 10 s, 2 to 6",
    REPLICAS_MIN,
    REPLICAS_MAX,
    messages_target=MESSAGES_TARGET,
    age_target_seconds=AGE_TARGET_SECONDS,
    stabilization_seconds=STABILIZATION_SECONDS,
    removed_max=REMOVED_MAX,
)
NEW_NODES = replace(CHOSEN, name="the same, where each replica needs a new node")
FROM_ONE = replace(CHOSEN, name="the manifest's, but 1 to 6", replicas_min=1)
HASTY = replace(
    CHOSEN, name="the manifest's, but down at once after 30 s", stabilization_seconds=30.0, removed_max=None
)
FITTED = replace(CHOSEN, name="the manifest's, with a value of 500 messages", messages_target=FITTED_TARGET)
MESSAGES_ALONE = replace(CHOSEN, name="100,000 messages alone", age_target_seconds=None)
AGE_ALONE = replace(CHOSEN, name="10 s alone", messages_target=None)


def messages_alone(target: int, name: str = "{:,} messages a replica") -> Rule:
    """Another target for the messages, and none for the age."""
    return replace(MESSAGES_ALONE, name=name.format(target), messages_target=target)


def fixed(replicas: int) -> Rule:
    """No rule at all."""
    return Rule(f"{replicas} replica{'s' if replicas > 1 else ''}, fixed", replicas, replicas)


TWENTY = messages_alone(20, "{} messages a replica, KEDA's default")


class Case(NamedTuple):
    """A load on a fleet, and the rules that are tried on it."""

    name: str
    says: str
    load: Load
    fleet: Fleet
    rules: Sequence[tuple[Rule, Fleet]]


def arrivals(call_seconds: Sequence[float]) -> list[int]:
    """Events in each step: each call of the trace stands for so many that the mean is the wanted one."""
    counts = [0] * (int(call_seconds[-1] / STEP_SECONDS) + 1)
    for seconds in call_seconds:
        counts[int(seconds / STEP_SECONDS)] += 1
    events_per_call = EVENTS_PER_SECOND_MEAN * len(counts) * STEP_SECONDS / len(call_seconds)
    return [round(count * events_per_call) for count in counts]


def fleet_of(sheet: Sheet) -> Fleet:
    """A worker as it was measured, one event a message, and what two connections of COPY can do, in whole thousands."""
    return Fleet(
        events_per_second=_rate(sheet, names.WORKER_SINGLE),
        database_events_per_second=_rate(sheet, names.copy_name(2)),
        held_events_max=HELD_EVENTS_MAX,
        start_seconds=START_SECONDS,
    )


def cases(call_seconds: Sequence[float], fleet: Fleet) -> list[Case]:
    """What is simulated."""
    events = arrivals(call_seconds)
    slow_start = replace(fleet, start_seconds=NEW_NODE_SECONDS)
    far = replace(fleet, events_per_second=fleet.events_per_second / FAR_DATABASE)
    others = [messages_alone(20_000), messages_alone(500_000), AGE_ALONE, FROM_ONE, HASTY]
    tried = [*(fixed(number) for number in (1, 2, 3)), TWENTY, *others, CHOSEN]
    return [
        Case(
            "bursts", "The trace's bursts, one event a message", Load(events), fleet,
            [*((one, fleet) for one in tried), (NEW_NODES, slow_start)],
        ),
        Case(
            "outage", "The same, and no database for five minutes", Load(events, outage=OUTAGE_SECONDS), fleet,
            [*((one, fleet) for one in (fixed(2), fixed(3), TWENTY, CHOSEN)), (NEW_NODES, slow_start)],
        ),
        Case(
            "large messages",
            f"Messages of {LARGE_MESSAGE_EVENTS} events, workers half as fast (a database far away)",
            Load(events, LARGE_MESSAGE_EVENTS), far,
            [(one, far) for one in (fixed(2), fixed(4), TWENTY, MESSAGES_ALONE, CHOSEN, FITTED)],
        ),
    ]  # fmt: skip


def _rate(sheet: Sheet, contender: str) -> float:
    line = sheet.find("headline", contender)
    if line is None:
        raise KeyError(f"the figures hold no rate of {contender!r}: run `make bench-publish`")
    return round(line.median(RATE), -3)
