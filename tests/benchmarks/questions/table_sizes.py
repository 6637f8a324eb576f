"""Backlog to committed rows by how many rows the table holds already, with ids as recommended (v7) and random (v4).

The rows are made in the database (`generate_series`), spread over thirty days, with the indexes dropped meanwhile and
built again: the state after a REINDEX. Beside it stand plain COPY of the same kind of rows into the same table, and, in
turn with each, the worker on an empty table of another database of the same server: to fill a table takes minutes, and
after them a machine is not what it was before.
"""

from pathlib import Path
from shutil import disk_usage
from uuid import uuid4

from usage_events.ids import uuid7

from benchmarks import contenders as names
from benchmarks.bench import Bench
from benchmarks.inside import plain_copy
from benchmarks.workload import MakeId, People, make_workload

NAME = "table_sizes"
FILL_DAYS = 30
BYTES_PER_ROW = 1000  # rows and indexes take less than half; the rest is the log, and room to build the indexes
# By the standard: 48 bits of milliseconds, the version, and the rest random.
_IDS = {
    "v7": "(lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' "
    "|| substr(replace(gen_random_uuid()::text, '-', ''), 14))::uuid",
    "v4": "gen_random_uuid()",
}
_MAKERS: dict[str, MakeId] = {"v7": uuid7, "v4": uuid4}
_FILL = """
INSERT INTO ai_usage_logs (id, user_id, organization_id, tokens_used, input_tokens, output_tokens, endpoint, model,
                           request_type, request_metadata, estimated_cost_usd, created_at)
SELECT {id}, ($2::uuid[])[1 + n % cardinality($2::uuid[])], ($3::uuid[])[1 + n % cardinality($3::uuid[])], 1500, 1000,
       500, (ARRAY['/v1/chat/completions', '/v1/embeddings', '/v1/responses'])[1 + n % 3],
       (ARRAY['gpt-4o-mini', 'gpt-4o', 'claude-sonnet', 'gemini-flash'])[1 + n % 4], 'chat',
       '{{"trace": "0123456789abcdef", "region": "eu", "cached": 0}}', 0.0025, at
FROM (SELECT n, now() - interval '1 hour' - ($1::bigint - n) * interval '{days} days' / $1::bigint AS at
      FROM generate_series(1, $1::bigint) AS n) AS made
"""
_DROP_INDEXES = """
SELECT indexdef, 'DROP INDEX ' || indexname FROM pg_indexes
WHERE tablename = 'ai_usage_logs' AND indexname LIKE 'idx_%' ORDER BY indexname
"""


def line_name(contender: str, version: str) -> str:
    """The name of a line."""
    return f"{contender}, UUID{version}"


def beside_name(version: str) -> str:
    """The name of the line of the empty table, by the rows of the table that it stands beside."""
    return f"{line_name('worker', version)}, an empty table in turn"


async def require_space(bench: Bench) -> None:
    """Look before an hour has gone by.

    Raises:
        OSError: the disk of the database, where it is this machine's, has too little room.
    """
    folder = await bench.database.connection.fetchval("SHOW data_directory")
    wanted = max(bench.sizes.table_rows) * BYTES_PER_ROW
    free = _free_bytes(Path(folder))
    if free is not None and free < wanted:
        raise OSError(
            f"{folder} has {free / 1e9:.0f} GB free, and {NAME} needs {wanted / 1e9:.0f} GB: free some, point TMPDIR "
            "at a larger disk, or name the other questions with --only"
        )


def _free_bytes(folder: Path) -> int | None:
    """What is free on this machine's disk; `None` where the folder is on another."""
    return disk_usage(folder).free if folder.exists() else None


async def ask(bench: Bench) -> None:
    """Both kinds of id, from the empty table to the full one."""
    try:
        async with bench.beside() as empty:
            for version in _IDS:
                await _ask(bench, empty, version)
    finally:
        await bench.database.reset()


async def _ask(bench: Bench, empty: Bench, version: str) -> None:
    await bench.database.reset()
    held = 0
    for rows in bench.sizes.table_rows:
        if rows:
            await _fill(bench, version, rows - held)
            held = rows
        for _ in range(bench.sizes.rounds):
            await _measure(bench, version, rows)
            if rows:
                workload = make_workload(
                    empty.people, bench.sizes.table_run, names.ARRAY_EVENTS, make_id=_MAKERS[version]
                )
                bench.note(NAME, beside_name(version), rows, **await empty.drain(workload))


async def _measure(bench: Bench, version: str, rows: int) -> None:
    events, size = bench.sizes.table_run, names.ARRAY_EVENTS
    keeps_rows = rows > 0
    workload = make_workload(bench.people, events, size, make_id=_MAKERS[version])
    bench.note(NAME, line_name("worker", version), rows, **await bench.drain(workload, keeps_rows=keeps_rows))
    workload = make_workload(bench.people, events, size, make_id=_MAKERS[version])
    copied = await bench.inside(workload, plain_copy(bench.database.dsn, workload, 1), keeps_rows=keeps_rows)
    bench.note(NAME, line_name(names.COPY_ONE, version), rows, **copied)


async def _fill(bench: Bench, version: str, rows: int) -> None:
    """Add so many rows, older than any that is measured."""
    connection = bench.database.connection
    people: People = bench.people
    await connection.execute("SET session_replication_role = replica")  # no look at the foreign keys: they hold
    await connection.execute("SET maintenance_work_mem = '1GB'")
    indexes = await connection.fetch(_DROP_INDEXES)
    for _, drop in indexes:
        await connection.execute(drop)
    await connection.execute("ALTER TABLE ai_usage_logs DROP CONSTRAINT ai_usage_logs_pkey")
    fill = _FILL.format(id=_IDS[version], days=FILL_DAYS)
    await connection.execute(fill, rows, people.users, people.organizations, timeout=None)
    await connection.execute("ALTER TABLE ai_usage_logs ADD PRIMARY KEY (id)")
    for create, _ in indexes:
        await connection.execute(create)
    await connection.execute("VACUUM ANALYZE ai_usage_logs")
    await connection.execute("RESET session_replication_role")
