"""From the publish call to the commit, by load: 10, 50 and 90 % of the highest rate that can be sustained.

Single events are published at a steady rate, each with the moment at which it was due as its `created_at`; the
database knows when each row was committed (`pg_xact_commit_timestamp(xmin)`), on the same clock. What comes in the
first fifth of the time is left out: the prefetch is still growing. The highest rate is that of the commits while a
publisher offers as much as a worker drains from a backlog; all share the machine.
"""

from datetime import UTC, datetime

from benchmarks.bench import Bench, Figures

NAME = "latency"
LOADS = (0.1, 0.5, 0.9)
HIGHEST = "highest"
WARM_SHARE = 0.2
_PERCENTILES = """
SELECT percentile_disc(ARRAY[0.5, 0.99]) WITHIN GROUP (
    ORDER BY extract(epoch FROM pg_xact_commit_timestamp(xmin) - created_at)::float8)
FROM ai_usage_logs WHERE created_at >= $1
"""
_COMMITTED = """
SELECT count(*) FROM ai_usage_logs WHERE created_at >= $1 AND pg_xact_commit_timestamp(xmin) BETWEEN $2 AND $3
"""


async def ask(bench: Bench) -> None:
    """The highest rate first, then each load in turn, as often as there are rounds."""
    drained = await bench.drain(bench.make(bench.sizes.single))
    highest = await _sustained(bench, drained["events_per_second"])
    bench.note(NAME, "worker", HIGHEST, events_per_second=highest)
    for _ in range(bench.sizes.rounds):
        for load in LOADS:
            bench.note(NAME, "worker", load, **await _latencies(bench, load * highest))


async def _sustained(bench: Bench, offered: float) -> float:
    """Commits a second while so much is offered, once the worker is at full speed."""
    seconds = bench.sizes.latency_seconds / 2
    report, begin = await bench.publish_steadily(offered, seconds)
    since = report["begun_at"] + 2 * WARM_SHARE * (report["ended_at"] - report["begun_at"])
    rows = await bench.database.connection.fetchval(_COMMITTED, begin, _moment(since), _moment(report["ended_at"]))
    return float(rows) / (report["ended_at"] - since)


async def _latencies(bench: Bench, rate: float) -> Figures:
    report, _ = await bench.publish_steadily(rate, bench.sizes.latency_seconds)
    warm_at = report["begun_at"] + WARM_SHARE * (report["ended_at"] - report["begun_at"])
    median, high = await bench.database.connection.fetchval(_PERCENTILES, _moment(warm_at))
    return {
        "events_per_second": report["messages"] / (report["ended_at"] - report["begun_at"]),
        "latency_ms_p50": median * 1000,
        "latency_ms_p99": high * 1000,
        "publisher_late_ms_max": report["late_seconds_max"] * 1000,
    }


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
