"""Rights: what a command needs to be allowed, asked before it begins."""

from collections.abc import Sequence
from typing import NamedTuple

import asyncpg

from worker.errors import UsageWorkerError


class Right(NamedTuple):
    """A privilege on a table, or on one column of it."""

    privilege: str
    table: str
    column: str | None = None

    def __str__(self) -> str:
        """As GRANT takes it."""
        column = "" if self.column is None else f" ({self.column})"
        return f"{self.privilege}{column} ON {self.table}"


async def require(connection: asyncpg.Connection, rights: Sequence[Right]) -> None:
    """Make sure that the session's role may do all of this.

    Raises:
        UsageWorkerError: it may not; says which grants are missing.
    """
    missing = [right for right in rights if not await _has(connection, right)]
    if not missing:
        return
    role = await connection.fetchval("SELECT quote_ident(current_user)")
    grants = "; ".join(f"GRANT {right} TO {role}" for right in missing)
    raise UsageWorkerError(
        f"the role {role} may not do this (SQLSTATE 42501), and nothing was changed: run it as the tables' owner, "
        f"or let the owner say: {grants}"
    )


async def _has(connection: asyncpg.Connection, right: Right) -> bool:
    if right.column is None:
        return bool(await connection.fetchval("SELECT has_table_privilege($1, $2)", right.table, right.privilege))
    return bool(
        await connection.fetchval("SELECT has_column_privilege($1, $2, $3)", right.table, right.column, right.privilege)
    )
