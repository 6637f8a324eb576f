"""`usage-worker dead-letters export`: letters to a file."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from worker.commands.dead_letters.options import filter_options, redact_option
from worker.commands.options import EXIT_PARTLY
from worker.errors import UsageWorkerError

if TYPE_CHECKING:
    from worker.dead_letters.export import Exporter
    from worker.postgres.dead_letters.table import Filter

STANDARD_OUTPUT = "-"
EXAMPLE = """
\b
Example:
$ usage-worker dead-letters export --reason too_old letters.ndjson
$ usage-worker dead-letters export --bodies --no-redact --reason unknown_user events.ndjson
$ usage-worker publish --no-validate events.ndjson

\b
Exit status: 0 all are written; 3 --bodies left some out; 2 wrong usage; 1 else.
"""


@click.command("export", epilog=EXAMPLE)
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--bodies", is_flag=True, help="Only the events, one a line, as `usage-worker publish` takes them.")
@filter_options
@redact_option
def command(*, file: str, bodies: bool, chosen: "Filter", redact: bool | None) -> int:
    """Write letters to FILE, one JSON object a line, the oldest first; - is standard output.

    Bodies are in base64. FILE is complete or not there: it is written beside and renamed at the end.
    With --bodies the edited body is taken where there is one, and an array's events get a line each. What is not JSON,
    and CloudEvents, cannot be published from a file: they are left out, and counted.
    """
    from worker.commands.dead_letters.showing import is_redacted
    from worker.dead_letters.export import Exporter
    from worker.settings import load_settings

    hidden = is_redacted(redact, load_settings())
    if bodies and hidden:
        raise click.UsageError(
            "--bodies without metadata would be other events: add --no-redact, or leave out --bodies"
        )
    exporter = Exporter(bodies_only=bodies, is_redacted=hidden)
    with _output(file) as output:
        asyncio.run(_export(exporter, chosen, output))
    click.echo(exporter.sentence(), err=True)
    return EXIT_PARTLY if exporter.left_out else 0


async def _export(exporter: "Exporter", chosen: "Filter", output: IO[bytes]) -> None:
    from worker.commands.dead_letters.bulk import Work, drawing
    from worker.commands.session import session
    from worker.postgres.dead_letters.reading import WHOLE_COLUMNS, plain
    from worker.postgres.dead_letters.table import count_letters, stream_letters

    async with session("dead-letters export") as (connection, _):
        work = Work("exporting", await count_letters(connection, chosen))
        # Closed at once where the file cannot be written: later its session would be gone.
        async with drawing(work), aclosing(stream_letters(connection, chosen, WHOLE_COLUMNS)) as rows:
            async for row in rows:
                with _explained():
                    output.writelines(exporter.lines(plain(row)))
                work.done += 1


@contextmanager
def _output(file: str) -> Iterator[IO[bytes]]:
    if file == STANDARD_OUTPUT:
        yield sys.stdout.buffer
        return
    path = Path(file)
    if path.exists() and not path.is_file():  # a pipe or a device: nothing to rename
        with _explained(), path.open("wb") as output:
            yield output
        return
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        with _explained(), unfinished.open("wb") as output:
            yield output
        with _explained():
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageWorkerError(f"the export cannot be written: {error}") from error
