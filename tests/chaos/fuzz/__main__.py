"""`make fuzz`: damaged messages through decode and merge into a real database, each held against the contract.

Prints one JSON object. The exit status is 1 where a promise was not kept: the inputs that show it are in a file, which
`--play` plays again.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import add
from pathlib import Path
from uuid import uuid4

from chaos.fuzz.check import WrongError
from chaos.fuzz.inputs import read
from chaos.fuzz.run import FoundError, Options, Summary, play_again, share
from worker.demo.postgres_server import PostgresServer
from worker.demo.servers import start_postgres
from worker.postgres.migrations import migrate
from worker.postgres.session import connect

SEED_BITS = 32


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What is asked for."""
    parser = argparse.ArgumentParser(prog="python -m chaos.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="messages, of all processes together (1,000,000)")
    parser.add_argument("--seed", default="", help="to play a run again, with the same number of processes (random)")
    parser.add_argument("--processes", type=int, default=2, help="each with a database of its own (2)")
    parser.add_argument("--json", type=Path, help="write the summary to this file too")
    parser.add_argument("--no-database", action="store_true", help="the decoder alone")
    parser.add_argument("--play", type=Path, help="play a file of inputs again, and nothing else")
    parser.add_argument("--failures", type=Path, default=Path(".local/fuzz"), help="where such files go (.local/fuzz)")
    return parser.parse_args(arguments)


@contextmanager
def databases(count: int) -> Iterator[list[str]]:
    """So many migrated databases on a server of one's own; none where none are asked for."""
    if not count:
        yield []
        return
    with start_postgres() as server:
        names = [f"fuzz_{uuid4().hex[:12]}" for _ in range(count)]
        try:
            yield [_migrated(server, name) for name in names]
        finally:
            for name in names:
                server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _migrated(server: PostgresServer, name: str) -> str:
    dsn = server.create_database(name)

    async def prepare() -> None:
        connection = await connect(dsn, "public", name="fuzz")
        await migrate(connection, "public")
        await connection.close()

    asyncio.run(prepare())
    return dsn


def run(options: argparse.Namespace) -> Summary:
    """All processes' shares.

    Raises:
        FoundError: one has found something wrong.
    """
    seed = options.seed or str(random.SystemRandom().getrandbits(SEED_BITS))
    sys.stderr.write(f"--seed {seed} --inputs {options.inputs} --processes {options.processes}\n")
    with databases(0 if options.no_database else options.processes) as dsns:
        shares = [
            Options(
                f"{seed}/{number}",
                options.inputs // options.processes + (number < options.inputs % options.processes),
                dsns[number] if dsns else "",
                options.failures,
            )
            for number in range(options.processes)
        ]
        if len(shares) == 1:
            return share(shares[0])
        with multiprocessing.get_context("spawn").Pool(len(shares)) as pool:
            return reduce(add, pool.imap_unordered(share, shares))


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, report; the exit status."""
    options = parse(arguments)
    try:
        if options.play is not None:
            with databases(0 if options.no_database else 1) as dsns:
                asyncio.run(play_again(*read(options.play), dsns[0] if dsns else ""))
            sys.stderr.write("nothing is wrong\n")
            return 0
        summary = run(options)
    except (FoundError, WrongError) as error:
        sys.stderr.write(f"WRONG: {error}\n")
        return 1
    text = json.dumps(summary.as_json(), indent=1)
    sys.stdout.write(f"{text}\n")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(f"{text}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
