"""The ratios that the worker is to reach, each taken within one run."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks import contenders as names
from benchmarks.questions import latency
from benchmarks.questions.table_sizes import beside_name, line_name
from benchmarks.sheet import Sheet
from worker.settings import Settings

RATE, CPU, MEMORY = "events_per_second", "cpu_us_per_event", "peak_memory_mib"
BATCH_AGE_MS = Settings.model_fields["batch_max_age"].default * 1000
_WRITERS = Settings.model_fields["writers"].default


class Target(NamedTuple):
    """A ratio; `is_ceiling` where less is better. `ratio` gives `None` where its figures were not taken."""

    what: str
    at_least: float
    aim: float
    ratio: Callable[[Sheet], float | None]
    is_ceiling: bool = False

    def verdict(self, ratio: float) -> str:
        """How far the ratio reaches."""
        sign = -1 if self.is_ceiling else 1
        if sign * ratio >= sign * self.aim:
            return "aim reached"
        return "met" if sign * ratio >= sign * self.at_least else "not met"


def _figure(sheet: Sheet, question: str, contender: str, case: float | str, figure: str) -> float | None:
    line = sheet.find(question, contender, case)
    spread = line.spread(figure) if line else None
    return spread.median if spread else None


def _divide(over: float | None, under: float | None) -> float | None:
    return over / under if over is not None and under else None


def _headline(ours: str, theirs: str, figure: str = RATE) -> Callable[[Sheet], float | None]:
    return lambda sheet: _divide(
        _figure(sheet, "headline", ours, "", figure), _figure(sheet, "headline", theirs, "", figure)
    )


def _case(question: str, contender: str, case: float, beside: float, figure: str = RATE) -> Callable[..., float | None]:
    return lambda sheet: _divide(
        _figure(sheet, question, contender, case, figure), _figure(sheet, question, contender, beside, figure)
    )


def _latency(sheet: Sheet) -> float | None:
    return _divide(_figure(sheet, latency.NAME, "worker", 0.5, "latency_ms_p99"), BATCH_AGE_MS)


TARGETS = (
    Target("arrays of 100 ÷ plain COPY, 1 connection", 0.9, 1.15, _headline(names.WORKER_ARRAYS, names.COPY_ONE)),
    Target(
        f"arrays of 100 ÷ plain COPY, {_WRITERS} connections (as many as writers)",
        0.5,
        0.65,
        _headline(names.WORKER_ARRAYS, names.copy_name(_WRITERS)),
    ),
    Target("single events ÷ plain COPY, 1 connection", 0.65, 0.9, _headline(names.WORKER_SINGLE, names.COPY_ONE)),
    Target(
        "single events ÷ do-nothing aio-pika consumer", 2.5, 4.0, _headline(names.WORKER_SINGLE, names.IDLE_AIO_PIKA)
    ),
    Target(
        "single events ÷ FastStream with INSERT", 12, 20, _headline(names.WORKER_SINGLE, names.FASTSTREAM.name)
    ),
    Target(
        "single events: frame reader ÷ the AMQP library's delivery path", 2, 2,
        _headline(names.WORKER_SINGLE, names.WORKER_LIBRARY),
    ),
    Target("arrays of 100 ÷ log_ai_usage(), 10 connections", 10, 15, _headline(names.WORKER_ARRAYS, names.SEED)),
    Target(
        "CPU an event, single ÷ asyncpg's COPY encoding", 4, 2.5,
        _headline(names.WORKER_SINGLE, names.ENCODING, CPU), is_ceiling=True,
    ),
    Target(
        "CPU an event, arrays ÷ asyncpg's COPY encoding", 4, 2.5,
        _headline(names.WORKER_ARRAYS, names.ENCODING, CPU), is_ceiling=True,
    ),
    Target(
        "rate at 25 million rows ÷ at none, in turn (UUIDv7)", 0.9, 1.0,
        lambda sheet: _divide(
            _figure(sheet, "table_sizes", line_name("worker", "v7"), 25_000_000, RATE),
            _figure(sheet, "table_sizes", beside_name("v7"), 25_000_000, RATE),
        ),
    ),
    Target("10 % repeated ÷ none, arrays", 0.85, 0.95, _case("repeated", names.WORKER_ARRAYS, 0.1, 0.0)),
    Target("10 % refused ÷ none, arrays", 0.6, 0.8, _case("refused", names.WORKER_ARRAYS, 0.1, 0.0)),
    Target("p99 latency at 50 % load ÷ batch age", 3, 1.5, _latency, is_ceiling=True),
    Target(
        "peak memory at 10⁶ backlog ÷ at 10⁴", 1.2, 1.0,
        _case("memory", "worker", 1_000_000, 10_000, MEMORY), is_ceiling=True,
    ),
)  # fmt: skip
