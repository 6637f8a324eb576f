"""What `usage-worker check` says of the partitions: whether they are whole, and ready for the months to come."""

from datetime import UTC, datetime

import asyncpg

from worker.findings import Finding, not_checked, ok, warning, wrong
from worker.postgres.migrations import quoted
from worker.postgres.partitions.catalogue import UUID7, Division, State, read_division
from worker.retention.layout import AHEAD_MIN, TABLE
from worker.settings import Settings

_TOPIC = "partitions"
_ENSURE = "run usage-worker partitions ensure, daily"
_ID_DEFAULT = """
SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum
WHERE adrelid = to_regclass($1) AND attname = 'id'
"""


async def inspect_partitions(connection: asyncpg.Connection, settings: Settings) -> list[Finding]:
    """Nothing where the table is not divided."""
    if not await connection.fetchval(
        "SELECT to_regclass($1) IS NOT NULL", f"{quoted(settings.postgres_schema)}.{TABLE}"
    ):
        return [not_checked(_TOPIC, "there is no table yet")]
    division = await read_division(connection)
    if division.state is State.PLAIN:
        return []
    findings = []
    if await connection.fetchval(_ID_DEFAULT, TABLE) != f"{UUID7}()":
        findings.append(
            wrong(
                _TOPIC,
                f"the default of {TABLE}.id makes no UUIDv7s: rows of log_ai_usage go to the default partition",
                f"ALTER TABLE {TABLE} ALTER id SET DEFAULT {UUID7}()",
            )
        )
    return [*findings, *judge_division(division, datetime.now(UTC))]


def judge_division(division: Division, now: datetime) -> list[Finding]:
    """What is to be said of it at this time."""
    if division.state is State.BEGUN:
        return [wrong(_TOPIC, f"dividing {TABLE} was begun and not ended", "run usage-worker partitions enable again")]
    layout = division.layout
    findings = [wrong(_TOPIC, fault) for fault in layout.faults(division.excluded)]
    ahead = layout.months_ahead(now)
    if ahead < 0:
        findings.append(
            wrong(_TOPIC, "this month has none: its rows can be dropped with their neighbours only", _ENSURE)
        )
    elif ahead < AHEAD_MIN:
        findings.append(warning(_TOPIC, "the next month has none yet", _ENSURE))
    months = len(layout.months)
    return findings or [ok(_TOPIC, f"{months} of months, without a gap, ready for {ahead} months after this one")]
