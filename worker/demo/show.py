"""What the demo shows: progress while it runs, and at the end what an operator would want to see."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

TOP_ORGANIZATIONS = 5


@dataclass(slots=True)
class Counts:
    """What the tables hold; `dead` counts letters by reason, `deliveries_dead` how often they came."""

    stored: int = 0
    dead: dict[str, int] = field(default_factory=dict)
    deliveries_dead: int = 0

    @property
    def letters(self) -> int:
        """All dead letters."""
        return sum(self.dead.values())


async def count(connection: asyncpg.Connection) -> Counts:
    """What the tables hold now."""
    stored = await connection.fetchval("SELECT count(*) FROM ai_usage_logs")
    rows = await connection.fetch(
        "SELECT reason, count(*) AS letters, sum(occurrences)::bigint AS deliveries"
        " FROM ai_usage_dead_letters GROUP BY reason ORDER BY letters DESC, reason"
    )
    return Counts(stored, {row["reason"]: row["letters"] for row in rows}, sum(row["deliveries"] for row in rows))


def progress_line(published: int, counts: Counts, rate: float, note: str) -> Table:
    """One line for a live display."""
    table = Table("published", "stored", "dead letters", "waiting or twice", "stored a second", "", box=None)
    waiting = max(0, published - counts.stored - counts.deliveries_dead)
    table.add_row(f"{published:,}", f"{counts.stored:,}", f"{counts.letters:,}", f"{waiting:,}", f"{rate:,.0f}", note)
    return table


async def print_daily(console: Console, connection: asyncpg.Connection) -> None:
    """`ai_usage_daily` for the organizations that cost most."""
    rows: Sequence[Any] = await connection.fetch(
        "SELECT usage_date, organization_id, sum(request_count)::bigint AS calls,"
        " sum(total_tokens)::bigint AS tokens, sum(total_cost) AS cost"
        " FROM ai_usage_daily GROUP BY usage_date, organization_id ORDER BY cost DESC LIMIT $1",
        TOP_ORGANIZATIONS,
    )
    table = _table("ai_usage_daily: the organizations that cost most")
    for heading in ("day (UTC)", "organization"):
        table.add_column(heading, no_wrap=True)
    for heading in ("calls", "tokens", "cost, USD"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            str(row["usage_date"]),
            str(row["organization_id"]),
            f"{row['calls']:,}",
            f"{row['tokens']:,}",
            f"{row['cost']:,.6f}",
        )
    console.print(table)


def print_letters(console: Console, counts: Counts) -> None:
    """Dead letters by reason."""
    table = _table("ai_usage_dead_letters, by reason")
    table.add_column("reason", no_wrap=True)
    table.add_column("letters", justify="right")
    for reason, letters in counts.dead.items():
        table.add_row(reason, f"{letters:,}")
    console.print(table)


def print_totals(console: Console, totals: Sequence[tuple[str, int]]) -> None:
    """What happened, in numbers."""
    table = _table("the run")
    table.add_column("what", no_wrap=True)
    table.add_column("count", justify="right")
    for what, number in totals:
        table.add_row(what, f"{number:,}")
    console.print(table)


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", min_width=len(title), box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False
    )
