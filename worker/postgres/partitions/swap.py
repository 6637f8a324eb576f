"""The second part of dividing: the old table becomes the default partition of a new one that takes its name.

One short transaction. What hangs on the table goes over to the new one: views, grants, triggers, indexes, constraints,
publications, comments.
"""

from typing import NamedTuple

import asyncpg

from worker.postgres.migrations import quoted
from worker.postgres.partitions.briefly import LOCK, briefly
from worker.postgres.partitions.catalogue import DIVERT, OUTSIDE
from worker.postgres.partitions.tables import attach
from worker.postgres.partitions.triggers import Trigger, copy_trigger, find_triggers
from worker.retention.layout import DEFAULT, FUTURE, TABLE, Range

NAME_BYTES_MAX = 63

_VIEWS = """
SELECT DISTINCT v.oid, v.oid::regclass::text AS name, pg_get_viewdef(v.oid) AS definition,
       array_to_string(v.reloptions, ', ') AS options
FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class v ON v.oid = r.ev_class
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = to_regclass($1)
  AND v.relkind = 'v' ORDER BY v.oid
"""
_CONSTRAINTS = """
SELECT conname AS name, pg_get_constraintdef(oid) AS definition, contype IN ('p', 'u') AS has_index
FROM pg_constraint WHERE conrelid = to_regclass($1) AND contype IN ('p', 'u', 'f', 'c') AND conname <> $2
ORDER BY contype DESC, conname
"""
_INDEXES = """
SELECT c.relname AS name, pg_get_indexdef(c.oid) AS definition FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = to_regclass($1) AND i.indisvalid
  AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = c.oid AND contype IN ('p', 'u')) ORDER BY c.relname
"""
# Each as a statement of which {} is the new table's name.
_GRANTS = """
SELECT format('GRANT %s%s ON {0} TO %s%s', given.privilege_type, given.columns, texts.who, texts.grantable)
           AS grants,
       format('REVOKE ALL ON {0} FROM %s', texts.who) AS revokes
FROM (
    SELECT acl.*, '' AS columns, c.relowner FROM pg_class c, aclexplode(c.relacl) acl WHERE c.oid = to_regclass($1)
    UNION ALL
    SELECT acl.*, format(' (%I)', a.attname), c.relowner FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid,
        aclexplode(a.attacl) acl WHERE c.oid = to_regclass($1) AND NOT a.attisdropped
) given, LATERAL (
    SELECT CASE given.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(given.grantee)) END AS who,
           CASE WHEN given.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END AS grantable
) texts
WHERE given.grantee <> given.relowner
"""
_PUBLICATIONS = """
SELECT p.pubname AS name, pg_get_expr(r.prqual, r.prrelid) AS condition, (
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
    WHERE attrelid = r.prrelid AND attnum = ANY (r.prattrs)) AS columns
FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid = to_regclass($1)
"""


class _Belongings(NamedTuple):
    """What hangs on the table, read before it is renamed."""

    owner: str
    comment: str | None
    views: list[asyncpg.Record]
    constraints: list[asyncpg.Record]
    indexes: list[asyncpg.Record]
    grants: list[asyncpg.Record]
    publications: list[asyncpg.Record]
    triggers: list[Trigger]


async def swap(connection: asyncpg.Connection, owner: str, ids: Range) -> None:
    """Divide: everything but the range of months to come is in the default partition."""

    async def work() -> None:
        await connection.execute(LOCK)
        await connection.execute(f"DROP TRIGGER {DIVERT} ON {TABLE}; DROP FUNCTION {DIVERT}()")
        await connection.execute(f"ALTER TABLE {FUTURE} NO INHERIT {TABLE}")
        for trigger in await find_triggers(connection, FUTURE):
            await connection.execute(f"DROP TRIGGER {quoted(trigger.name)} ON {FUTURE}")
        found = await _belongings(connection, owner)
        await _move_aside(connection, found)
        await _make_parent(connection, found)
        await connection.execute(f"ALTER TABLE {TABLE} ATTACH PARTITION {DEFAULT} DEFAULT")
        await attach(connection, FUTURE, ids)
        await _hand_over(connection, found)

    await briefly(connection, "the second step", work)


async def _belongings(connection: asyncpg.Connection, owner: str) -> _Belongings:
    return _Belongings(
        owner,
        await connection.fetchval("SELECT obj_description(to_regclass($1), 'pg_class')", TABLE),
        await connection.fetch(_VIEWS, TABLE),
        await connection.fetch(_CONSTRAINTS, TABLE, OUTSIDE),
        await connection.fetch(_INDEXES, TABLE),
        await connection.fetch(_GRANTS, TABLE),
        await connection.fetch(_PUBLICATIONS, TABLE),
        await find_triggers(connection, TABLE),
    )


async def _move_aside(connection: asyncpg.Connection, found: _Belongings) -> None:
    """The old table with its indexes gets other names; triggers and publications are taken off it."""
    for publication in found.publications:
        await connection.execute(f"ALTER PUBLICATION {quoted(publication['name'])} DROP TABLE {TABLE}")
    for trigger in found.triggers:
        await connection.execute(f"DROP TRIGGER {quoted(trigger.name)} ON {TABLE}")
    for index in (*found.indexes, *(one for one in found.constraints if one["has_index"])):
        await connection.execute(f"ALTER INDEX {quoted(index['name'])} RENAME TO {quoted(_aside(index['name']))}")
    for revoke in {row["revokes"].format(TABLE) for row in found.grants}:
        await connection.execute(revoke)
    await connection.execute(f"ALTER TABLE {TABLE} RENAME TO {DEFAULT}")


def _aside(name: str) -> str:
    return f"{name.encode()[: NAME_BYTES_MAX - len('_default')].decode(errors='ignore')}_default"


async def _make_parent(connection: asyncpg.Connection, found: _Belongings) -> None:
    """Texts that name the old table mean the new one by now."""
    await connection.execute(
        f"CREATE TABLE {TABLE} (LIKE {DEFAULT} INCLUDING ALL EXCLUDING INDEXES EXCLUDING CONSTRAINTS)"
        " PARTITION BY RANGE (id)"
    )
    for one in found.constraints:
        await connection.execute(f"ALTER TABLE {TABLE} ADD CONSTRAINT {quoted(one['name'])} {one['definition']}")
    for index in found.indexes:
        await connection.execute(index["definition"])
    await connection.execute(f"ALTER TABLE {TABLE} OWNER TO {quoted(found.owner)}")


async def _hand_over(connection: asyncpg.Connection, found: _Belongings) -> None:
    if found.comment is not None:
        comment = await connection.fetchval("SELECT quote_literal($1::text)", found.comment)
        await connection.execute(f"COMMENT ON TABLE {TABLE} IS {comment}")
    for row in found.grants:
        await connection.execute(row["grants"].format(TABLE))
    for trigger in found.triggers:
        await copy_trigger(connection, trigger, TABLE, TABLE)
    for view in found.views:
        options = f" WITH ({view['options']})" if view["options"] else ""
        await connection.execute(f"CREATE OR REPLACE VIEW {view['name']}{options} AS {view['definition']}")
    for publication in found.publications:
        columns = f" ({publication['columns']})" if publication["columns"] else ""
        condition = f" WHERE ({publication['condition']})" if publication["condition"] else ""
        await connection.execute(
            f"ALTER PUBLICATION {quoted(publication['name'])} ADD TABLE {TABLE}{columns}{condition}"
        )
