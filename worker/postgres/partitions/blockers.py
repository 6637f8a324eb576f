"""What of a host's own would be lost, or stand in the way, when its table of usage is divided."""

import asyncpg

from worker.retention.layout import FUTURE, TABLE

# Each returns texts; `$1` is the table, `$2` the one that an earlier run has begun with.
_LOOKS = (
    """SELECT 'it is not an ordinary, logged table' FROM pg_class
    WHERE oid = to_regclass($1) AND (relkind <> 'r' OR relpersistence <> 'p')""",
    """SELECT 'its primary key is not (id)' WHERE NOT EXISTS (
        SELECT FROM pg_constraint
        WHERE conrelid = to_regclass($1) AND contype = 'p' AND pg_get_constraintdef(oid) = 'PRIMARY KEY (id)')""",
    """SELECT format('the foreign key %s of %s refers to it', conname, conrelid::regclass) FROM pg_constraint
    WHERE confrelid = to_regclass($1) AND contype = 'f' AND conparentid = 0""",
    """SELECT format('the unique index %s does not contain id', indexrelid::regclass) FROM pg_index
    WHERE indrelid = to_regclass($1) AND (indisunique OR indisexclusion) AND NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = indrelid AND attname = 'id' AND attnum = ANY (indkey))""",
    """SELECT format('its column %s makes its own values', attname) FROM pg_attribute
    WHERE attrelid = to_regclass($1) AND NOT attisdropped AND (attgenerated <> '' OR attidentity <> '')""",
    """SELECT format('the index %s is not valid: drop it, or make it again', indexrelid::regclass) FROM pg_index
    WHERE indrelid = to_regclass($1) AND NOT indisvalid""",
    """SELECT 'it has row security: policies would not go over' FROM pg_class c
    WHERE oid = to_regclass($1)
      AND (relrowsecurity OR relforcerowsecurity OR EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid))""",
    """SELECT format('the trigger %s has transition tables', tgname) FROM pg_trigger
    WHERE tgrelid = to_regclass($1) AND NOT tgisinternal AND tgtype::int & 1 = 1
      AND (tgoldtable IS NOT NULL OR tgnewtable IS NOT NULL)""",
    """SELECT format('the materialized view %s reads it: drop it, and make it again afterwards', v.oid::regclass)
    FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class v ON v.oid = r.ev_class
    WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = to_regclass($1) AND v.relkind = 'm' GROUP BY v.oid""",
    """SELECT format('the view %s belongs to %s, and %s may not change it: run this as a superuser',
                  v.oid::regclass, pg_get_userbyid(v.relowner), current_user)
    FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class v ON v.oid = r.ev_class
    WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = to_regclass($1) AND v.relkind = 'v'
      AND NOT pg_has_role(v.relowner, 'USAGE') GROUP BY v.oid, v.relowner""",
    """SELECT format('publication %s belongs to %s, and %s may not change it: run this as a superuser',
                  quote_ident(pubname), pg_get_userbyid(pubowner), current_user)
    FROM pg_publication p JOIN pg_publication_rel ON prpubid = p.oid
    WHERE prrelid = to_regclass($1) AND NOT pg_has_role(pubowner, 'USAGE')""",
    """SELECT format('the rule %s is on it', rulename) FROM pg_rewrite WHERE ev_class = to_regclass($1)""",
    """SELECT format('%s depends on it', pg_describe_object(classid, objid, objsubid)) FROM pg_depend
    WHERE classid IN ('pg_proc'::regclass, 'pg_policy'::regclass) AND refclassid = 'pg_class'::regclass
      AND refobjid = to_regclass($1)
    UNION ALL
    SELECT format('%s uses its type', pg_describe_object(d.classid, d.objid, d.objsubid))
    FROM pg_type t JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid IN (t.oid, t.typarray)
    WHERE t.typrelid = to_regclass($1) AND d.deptype = 'n'""",
    """SELECT format('%s is its %s by inheritance', other::regclass, what) FROM (
        SELECT inhparent AS other, 'parent' AS what FROM pg_inherits WHERE inhrelid = to_regclass($1)
        UNION ALL
        SELECT inhrelid, 'child' FROM pg_inherits
        WHERE inhparent = to_regclass($1) AND inhrelid IS DISTINCT FROM to_regclass($2)) found""",
    """SELECT format('publication %s would show its partitions: ALTER PUBLICATION %s SET'
                  ' (publish_via_partition_root = true) first', quote_ident(pubname), quote_ident(pubname))
    FROM pg_publication p WHERE NOT pubviaroot AND (
        puballtables OR EXISTS (SELECT FROM pg_publication_rel WHERE prpubid = p.oid AND prrelid = to_regclass($1))
        OR EXISTS (SELECT FROM pg_publication_namespace JOIN pg_class ON relnamespace = pnnspid
                   WHERE pnpubid = p.oid AND pg_class.oid = to_regclass($1)))""",
)


async def find_blockers(connection: asyncpg.Connection) -> list[str]:
    """One line each; none where the table can be divided with all that hangs on it."""
    return [row[0] for look in _LOOKS for row in await connection.fetch(look, *(TABLE, FUTURE)[: 1 + ("$2" in look)])]
