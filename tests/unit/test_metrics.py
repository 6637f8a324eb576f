"""What a committed batch adds to the metrics, beyond its counts."""

import sys
from datetime import UTC, datetime

import pytest
from makers import batch_of, body_of

from worker.metrics import Metrics
from worker.store import Written


def at(seconds: int) -> str:
    """A time in seconds since 1970, as an event has it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def test_the_newest_event_stays_the_newest() -> None:
    """The age is the oldest's; how far the table reaches is the newest's, and a batch of old ones changes nothing."""
    metrics = Metrics()
    value = metrics.registry.get_sample_value
    assert value("usage_worker_newest_event_timestamp_seconds") == 0
    for times in ((1000, 1060), (400,), ()):
        bodies = [body_of(created_at=at(seconds)) for seconds in times] or [body_of(input_tokens=-1)]
        metrics.count(batch_of(*bodies), Written(len(times), 0), commit_seconds=0.1, now=1100.0)
        assert value("usage_worker_newest_event_timestamp_seconds") == 1060
    assert value("usage_worker_event_age_seconds_count") == 2
    assert value("usage_worker_event_age_seconds_sum") == 100 + 700


@pytest.mark.skipif(sys.platform != "linux", reason="the library reads /proc")
def test_the_process_shows_by_prometheus_own_names() -> None:
    """Memory and CPU time, which no worker metric says."""
    value = Metrics().registry.get_sample_value
    assert (value("process_resident_memory_bytes") or 0) > 2**20
    assert value("process_cpu_seconds_total")
