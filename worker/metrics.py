"""Every metric of the worker, in one place. The names are a promise to dashboards and alerts."""

from math import nan

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from worker.batch import Batch, Trigger
from worker.store import Written

PREFIX = "usage_worker"
PRODUCERS_MAX = 100  # what producers call themselves is theirs, and each name is a time series
OTHER_PRODUCERS = "(others)"


class Metrics:
    """The worker's metrics in a registry of their own.

    Args:
        registry: where they are registered; a new one where none is given.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        # What became of events: every event and every whole-message letter is counted once a delivery.
        self.events = Counter(f"{PREFIX}_events", "Events settled, by outcome", ["outcome"], registry=self.registry)
        # Why events were refused.
        self.dead_letters = Counter(
            f"{PREFIX}_dead_letters", "Dead letters written, by reason", ["reason"], registry=self.registry
        )
        # Whose: an alert asks for pairs that were never there before.
        self.refused = Counter(
            f"{PREFIX}_refused",
            f"Dead letters written, by reason and producer (its app_id, of the first {PRODUCERS_MAX} that are refused)",
            ["reason", "producer"],
            registry=self.registry,
        )
        self._producers: set[str] = set()
        # How full batches are, and so whether age or size closes them.
        self.batch_events = Histogram(
            f"{PREFIX}_batch_events",
            "Events in a batch",
            buckets=(1, 10, 50, 100, 500, 1000, 2500, 5000, 10_000, 50_000),
            registry=self.registry,
        )
        self.batches = Counter(
            f"{PREFIX}_batches", "Batches committed, by what closed them", ["trigger"], registry=self.registry
        )
        # From the begin of a batch's transaction until its commit: is the database the limit?
        self.commit_seconds = Histogram(
            f"{PREFIX}_commit_seconds",
            "Seconds that a batch's transaction took",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self.registry,
        )
        # Commit minus created_at of the oldest event in each batch: are we keeping up?
        self.event_age_seconds = Histogram(
            f"{PREFIX}_event_age_seconds",
            "Age of a batch's oldest event at its commit, in seconds",
            buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21_600, 86_400),
            registry=self.registry,
        )
        # And the newest: how far the table reaches. Nothing new in it is no trouble where nothing waits.
        self.newest_event_timestamp_seconds = Gauge(
            f"{PREFIX}_newest_event_timestamp_seconds",
            "created_at of the newest event that this worker has committed, in seconds since 1970; 0 before the first",
            registry=self.registry,
        )
        self._newest_us = 0
        self._add_the_servers()
        self._add_the_tables()
        self._add_the_worker()
        for outcome in ("stored", "duplicate", "dead"):
            self.events.labels(outcome)
        for peer in ("rabbitmq", "postgres"):
            self.reconnects.labels(peer)

    def _add_the_servers(self) -> None:
        """What is between the two servers, and how it stands with them."""
        # What is in the worker's hands: delivered, not yet acknowledged.
        self.held_events = Gauge(f"{PREFIX}_held_events", "Events held, not yet settled", registry=self.registry)
        # Deliveries that the broker had handed out before.
        self.redeliveries = Counter(
            f"{PREFIX}_redeliveries", "Deliveries that were handed out before", registry=self.registry
        )
        self.reconnects = Counter(
            f"{PREFIX}_reconnects",
            "Losses, by peer: channels of RabbitMQ, two a worker, and outages of Postgres",
            ["peer"],
            registry=self.registry,
        )
        # The worker's own doing, and so no reconnect: each may spend one of a message's 20 deliveries.
        self.give_backs = Counter(
            f"{PREFIX}_give_backs",
            "Times that all that was held went back to the queue, as the database was away for too long",
            registry=self.registry,
        )
        self.database_up = Gauge(f"{PREFIX}_database_up", "1 while the database takes writes", registry=self.registry)

    def _add_the_tables(self) -> None:
        """The gauges of the tables, whichever worker wrote to them, and what was given up for their size."""
        # How much waits for an operator, and for how long.
        self.dead_letters_open = Gauge(
            f"{PREFIX}_dead_letters_open", "Open dead letters, by reason", ["reason"], registry=self.registry
        )
        self.dead_letters_oldest_open_seconds = Gauge(
            f"{PREFIX}_dead_letters_oldest_open_seconds",
            "Age of the oldest open dead letter in seconds, 0 where there is none",
            registry=self.registry,
        )
        self.dead_letters_bytes = Gauge(
            f"{PREFIX}_dead_letters_bytes",
            "Bytes of the table of dead letters, its TOAST and indexes included",
            registry=self.registry,
        )
        # NaN, which no comparison holds for, where the table has no partitions.
        self.partition_months_ahead = Gauge(
            f"{PREFIX}_partition_months_ahead",
            "Months after this one that have a partition; NaN where ai_usage_logs is not divided",
            registry=self.registry,
        )
        self.partition_months_ahead.set(nan)
        # Events that nobody can replay: 0 for ever, unless USAGE_DEAD_LETTER_BYTES_MAX is set.
        self.dead_letter_bodies_given_up = Counter(
            f"{PREFIX}_dead_letter_bodies_given_up",
            "Dead letters written without their body, above USAGE_DEAD_LETTER_BYTES_MAX",
            registry=self.registry,
        )

    def _add_the_worker(self) -> None:
        """The process itself, by Prometheus's own names for it: process_resident_memory_bytes and its like."""
        # The rate of commit_seconds_sum over this is the share of time in which they are busy.
        self.writers = Gauge(
            f"{PREFIX}_writers",
            "Connections that write batches at once, that of the dead queue aside",
            registry=self.registry,
        )
        # What leaks, grows: each connection, timer and waiting is one.
        self.tasks = Gauge(f"{PREFIX}_tasks", "asyncio tasks of the process", registry=self.registry)
        # Events are judged by the database's.
        self.database_clock_ahead_seconds = Gauge(
            f"{PREFIX}_database_clock_ahead_seconds",
            "Seconds by which the database's clock is ahead of this machine's, as it was read last",
            registry=self.registry,
        )
        self.ready = Gauge(f"{PREFIX}_ready", "What /readyz says: 1 for 200, 0 for 503", registry=self.registry)
        ProcessCollector(registry=self.registry)

    def count(self, batch: Batch, written: Written, *, commit_seconds: float, now: float) -> None:
        """A batch has committed; `now` is in seconds since 1970."""
        self.events.labels("stored").inc(written.stored)
        self.events.labels("duplicate").inc(written.duplicates)
        self.events.labels("dead").inc(written.refused.total())
        for (reason, producer), letters in written.refused.items():
            self.dead_letters.labels(reason.value).inc(letters)
            self.refused.labels(reason.value, self._known_producer(producer)).inc(letters)
        self.dead_letter_bodies_given_up.inc(written.bodies_given_up)
        self.batch_events.observe(batch.events)
        self.batches.labels((batch.trigger or Trigger.STOP).value).inc()
        self.commit_seconds.observe(commit_seconds)
        times_us = [event.created_at_us for event in batch.accepted()]
        if times_us:
            self.event_age_seconds.observe(max(0.0, now - min(times_us) / 1e6))
            newest_us = max(times_us)
            self._newest_us = max(self._newest_us, newest_us)
            self.newest_event_timestamp_seconds.set(self._newest_us / 1e6)

    def _known_producer(self, name: str) -> str:
        if len(self._producers) < PRODUCERS_MAX:
            self._producers.add(name)
        return name if name in self._producers else OTHER_PRODUCERS
