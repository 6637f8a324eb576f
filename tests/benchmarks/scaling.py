"""The scaling rule without a cluster: arrivals, workers and the autoscaler's arithmetic, a quarter of a second a step.

What is modelled: KEDA hands the triggers' values to a HorizontalPodAutoscaler, which asks every 15 s. For the messages
(`AverageValue`) it wants `ceil(value / target)` replicas, for the age (`Value`) `ceil(working * value / target)`; it
takes the most, leaves differences of up to a tenth alone, adds at most four replicas or as many as there are in 15 s,
and removes none that it wanted within the stabilization window, nor more than the policy allows. RabbitMQ's statistics
are up to 5 s old, Prometheus's up to a scrape, and a replica that is wanted works some time later.

Pure: events are whole numbers, so none is lost to rounding, and every event's wait is known.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

STEP_SECONDS = 0.25  # the worker's batch age: what arrives in one step is stored in the next at the earliest
ASK_SECONDS = 15.0  # --horizontal-pod-autoscaler-sync-period
TOLERANCE = 0.1  # --horizontal-pod-autoscaler-tolerance
ADDED_MIN = 4  # the default policies for going up: this many, or as many as there are
STATISTICS_SECONDS = 5.0  # RabbitMQ's collect_statistics_interval
SCRAPE_SECONDS = 15.0
POLICY_SECONDS = 60.0  # in which a rule's `removed_max` replicas may go
AGE_WINDOW_SECONDS = 60.0  # of the rate in the trigger's query
AGE_QUANTILE = 0.9


@dataclass(slots=True, frozen=True)
class Rule:
    """What a ScaledObject says. Without targets it is a fixed number of replicas.

    Args:
        name: how it is called in tables.
        replicas_min: never fewer, and how many there are at the start.
        replicas_max: never more.
        messages_target: messages in the queue for each replica.
        age_target_seconds: age of events at their commit, counted only while workers are behind.
        counts_unacknowledged: whether the queue's length holds what is in the workers' hands.
        stabilization_seconds: how long fewer must have been wanted.
        removed_max: replicas that may go in a minute; `None` for all at once.
    """

    name: str
    replicas_min: int
    replicas_max: int
    messages_target: int | None = None
    age_target_seconds: float | None = None
    counts_unacknowledged: bool = True
    stabilization_seconds: float = 300.0
    removed_max: int | None = None


@dataclass(slots=True, frozen=True)
class Fleet:
    """What workers and database can do.

    Args:
        events_per_second: the rate of one worker.
        database_events_per_second: what the database takes, however many write.
        held_events_max: what one worker holds unacknowledged.
        start_seconds: from the decision to the new replica's first commit.
    """

    events_per_second: float
    database_events_per_second: float
    held_events_max: int
    start_seconds: float


@dataclass(slots=True, frozen=True)
class Load:
    """What arrives.

    Args:
        arrivals: events that arrive in each step.
        events_per_message: the queue's length is counted in messages.
        outage: from when to when, in seconds, the database takes nothing.
    """

    arrivals: Sequence[int]
    events_per_message: int = 1
    outage: tuple[float, float] = (0.0, 0.0)


class Moment(NamedTuple):
    """One step of a run; the age is that of the oldest event that waits."""

    at_seconds: float
    age_seconds: float
    replicas: int


class Seen(NamedTuple):
    """What the autoscaler knows when it decides; `replicas` counts those that do not work yet."""

    replicas: int
    working: int
    messages: int
    age_seconds: float


@dataclass(slots=True)
class Run:
    """What became of a load under a rule. `waits` holds (seconds, events), in the order of storing."""

    rule: Rule
    arrived: int = 0
    stored: int = 0
    waiting: int = 0
    started: int = 0
    replica_seconds: float = 0.0
    waits: list[tuple[float, int]] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)

    def note(self, step: int, arrived: int, taken: list[tuple[int, int]], *, age_steps: int, replicas: int) -> None:
        """Add one step: what arrived, what was stored (step of arrival, events), and what is left."""
        self.arrived += arrived
        self.stored += sum(events for _, events in taken)
        self.waits += [((step - at) * STEP_SECONDS, events) for at, events in taken]
        self.replica_seconds += replicas * STEP_SECONDS
        self.moments.append(Moment(step * STEP_SECONDS, age_steps * STEP_SECONDS, replicas))

    def wait_quantile(self, share: float) -> float:
        """The wait in seconds that this share of the stored events did not exceed."""
        reached = 0
        for wait, events in sorted(self.waits):
            reached += events
            if reached >= share * self.stored:
                return wait
        return 0.0

    @property
    def age_max(self) -> float:
        """The greatest age of any event, in seconds, stored or still waiting."""
        return max((moment.age_seconds for moment in self.moments), default=0.0)

    @property
    def replicas_mean(self) -> float:
        """How many replicas were paid for, on the average."""
        return self.replica_seconds / (len(self.moments) * STEP_SECONDS)


class Autoscaler:
    """Wanted replicas from the triggers' values. Times are seconds since the start."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._wanted: deque[tuple[float, int]] = deque()
        self._removed: deque[tuple[float, int]] = deque()

    def replicas(self, now: float, seen: Seen) -> int:
        """How many replicas there shall be."""
        rule, current = self._rule, seen.replicas
        if rule.messages_target is None and rule.age_target_seconds is None:
            return current
        wanted = min(max(self._by_messages(seen), self._by_age(seen), rule.replicas_min), rule.replicas_max)
        _forget(self._wanted, now - rule.stabilization_seconds)
        self._wanted.append((now, wanted))
        if wanted < current:
            return self._fewer(now, current)
        return min(wanted, max(current + ADDED_MIN, current * 2))

    def _by_messages(self, seen: Seen) -> int:
        target = self._rule.messages_target
        if target is None:
            return 0
        is_near = abs(seen.messages / (target * seen.replicas) - 1) <= TOLERANCE
        return seen.replicas if is_near else math.ceil(seen.messages / target)

    def _by_age(self, seen: Seen) -> int:
        target = self._rule.age_target_seconds
        if target is None:
            return 0
        is_near = abs(seen.age_seconds / target - 1) <= TOLERANCE
        return seen.replicas if is_near else math.ceil(seen.working * seen.age_seconds / target)

    def _fewer(self, now: float, current: int) -> int:
        stable = min(current, max(number for _, number in self._wanted))
        if self._rule.removed_max is not None:
            _forget(self._removed, now - POLICY_SECONDS)
            allowed = self._rule.removed_max - sum(number for _, number in self._removed)
            stable = max(stable, current - max(0, allowed))
        self._removed.append((now, current - stable))
        return stable


def _forget(numbers: deque[tuple[float, int]], before: float) -> None:
    """Drop what is older, or just as old."""
    while numbers and numbers[0][0] <= before:
        numbers.popleft()


class _Queue:
    """Events that wait, oldest first, and how much can be stored of them."""

    def __init__(self) -> None:
        self.cohorts: deque[tuple[int, int]] = deque()  # step of arrival, events
        self.waiting = 0
        self._credit = 0.0  # parts of an event that the rate left over

    def add(self, step: int, events: int) -> None:
        if events:
            self.cohorts.append((step, events))
            self.waiting += events

    def take(self, step: int, events_per_second: float) -> list[tuple[int, int]]:
        """What is stored in this step, with the step of its arrival."""
        self._credit += events_per_second * STEP_SECONDS
        budget = int(self._credit)
        self._credit -= budget
        taken = []
        while budget and self.cohorts and self.cohorts[0][0] < step:
            arrived, events = self.cohorts.popleft()
            part = min(events, budget)
            if part < events:
                self.cohorts.appendleft((arrived, events - part))
            budget -= part
            self.waiting -= part
            taken.append((arrived, part))
        return taken

    def age_steps(self, step: int) -> int:
        """The age of the oldest that waits, in steps."""
        return step - self.cohorts[0][0] if self.cohorts else 0


class _Metrics:
    """What RabbitMQ and Prometheus say, each as late as it is."""

    def __init__(self, load: Load) -> None:
        self._events_per_message = load.events_per_message
        self._commits: deque[tuple[float, float, bool]] = deque()  # when, the oldest's age, whether others still wait
        self.messages = 0
        self.age_seconds = 0.0

    def committed(self, now: float, age_seconds: float, *, others_wait: bool) -> None:
        self._commits.append((now, age_seconds, others_wait))

    def collect(self, now: float, counted_events: int) -> None:
        if now % STATISTICS_SECONDS == 0:
            self.messages = math.ceil(counted_events / self._events_per_message)
        if now % SCRAPE_SECONDS == 0:
            self.age_seconds = self._age_of_the_query(now)

    def _age_of_the_query(self, now: float) -> float:
        """The quantile of the ages at the commit, while most commits left others waiting behind them."""
        while self._commits and self._commits[0][0] <= now - AGE_WINDOW_SECONDS:
            self._commits.popleft()
        if sum(others_wait for _, _, others_wait in self._commits) * 2 <= len(self._commits):
            return 0.0
        ages = sorted(age for _, age, _ in self._commits)
        return ages[min(len(ages) - 1, int(AGE_QUANTILE * len(ages)))]


def simulate(rule: Rule, load: Load, fleet: Fleet) -> Run:
    """Let a load arrive under a rule."""
    run, queue, metrics, autoscaler = Run(rule), _Queue(), _Metrics(load), Autoscaler(rule)
    working = rule.replicas_min
    coming: deque[tuple[float, int]] = deque()  # when they work, how many
    for step, events in enumerate(load.arrivals):
        now = step * STEP_SECONDS
        while coming and coming[0][0] <= now:
            working += coming.popleft()[1]
        queue.add(step, events)
        is_down = load.outage[0] <= now < load.outage[1]
        rate = 0.0 if is_down else min(working * fleet.events_per_second, fleet.database_events_per_second)
        taken = queue.take(step, rate)
        if taken:
            oldest_seconds = (step - taken[0][0]) * STEP_SECONDS
            metrics.committed(now, oldest_seconds, others_wait=queue.age_steps(step) > 0)
        held = 0 if rule.counts_unacknowledged else working * fleet.held_events_max
        metrics.collect(now, max(0, queue.waiting - held))
        replicas = working + sum(number for _, number in coming)
        run.note(step, events, taken, age_steps=queue.age_steps(step), replicas=replicas)
        if now % ASK_SECONDS == 0:
            wanted = autoscaler.replicas(now, Seen(replicas, working, metrics.messages, metrics.age_seconds))
            if wanted > replicas:
                coming.append((now + fleet.start_seconds, wanted - replicas))
                run.started += wanted - replicas
            working = _stop(max(0, replicas - wanted), working, coming)
    run.waiting = queue.waiting
    return run


def _stop(number: int, working: int, coming: deque[tuple[float, int]]) -> int:
    """Stop so many, first those that do not work yet; how many work then."""
    while number and coming:
        at, replicas = coming.pop()
        kept = max(0, replicas - number)
        number -= replicas - kept
        if kept:
            coming.append((at, kept))
    return working - number
