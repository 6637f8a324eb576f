"""`usage-worker publish`: events from files to RabbitMQ, confirmed."""

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from worker.errors import ConfigurationError, SystemUnavailableError, UsageWorkerError
from worker.publishing.options import CsvOptions, csv_options

if TYPE_CHECKING:
    from rich.console import Console
    from usage_events.books import Books
    from usage_events.publisher import UsagePublisher

    from worker.publishing.csv_events import Recipe
    from worker.publishing.files import Reader
    from worker.publishing.lines import LinePublisher, Pace, TracePace
    from worker.settings import Settings

EVENTS_PER_MESSAGE_MAX = 1000  # the contract's; written here so that --help need not load it
EXIT_PARTLY = 3
REFRESH_SECONDS = 0.2
EXAMPLE = """
\b
Example:
$ export USAGE_AMQP_URL=amqp://usage:secret@127.0.0.1:5672/
$ usage-worker publish --rate 2000 usage.ndjson
usage.ndjson:17: input_token: unknown field; did you mean input_tokens?
published: 10,000 events confirmed in 100 messages, 1 line refused

\b
$ usage-worker publish trace.csv --map created_at=TIMESTAMP \\
    --map input_tokens=ContextTokens --map output_tokens=GeneratedTokens \\
    --set model=gpt-4o --set user_id=11111111-1111-4111-8111-111111111111 \\
    --set organization_id=22222222-2222-4222-8222-222222222222 \\
    --shift-time --replay-speed 60

\b
Exit status: 0 all confirmed; 3 some lines refused, the others confirmed;
2 wrong usage; 1 anything else. Sending a file again counts nothing twice.
"""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    files: Sequence[str]
    events_per_message: int
    rate: int | None
    is_validated: bool
    app_id: str
    csv: CsvOptions
    recipe: "Recipe"


@dataclass(slots=True)
class Counts:
    """What became of the lines. `unconfirmed` events may or may not have arrived."""

    confirmed: int = 0
    messages: int = 0
    refused: int = 0
    returned: int = 0
    unconfirmed: int = 0

    def take(self, books: "Books") -> None:
        """The publisher's part of it."""
        self.confirmed, self.messages, self.returned = books.confirmed, books.confirmed_messages, books.returned
        self.unconfirmed = books.recorded - books.confirmed - books.returned

    def text(self) -> str:
        """The counts for a reader; what is zero and nobody's worry is left out."""
        parts = [f"{_count(self.confirmed, 'event')} confirmed in {_count(self.messages, 'message')}"]
        if self.refused:
            parts.append(f"{_count(self.refused, 'line')} refused")
        if self.returned:
            parts.append(f"{_count(self.returned, 'event')} came back")
        if self.unconfirmed:
            parts.append(f"{_count(self.unconfirmed, 'event')} not confirmed")
        return ", ".join(parts)


@click.command("publish", epilog=EXAMPLE)
@click.argument(
    "files",
    metavar="FILE...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True),
)
@click.option(
    "--events-per-message",
    type=click.IntRange(1, EVENTS_PER_MESSAGE_MAX),
    default=100,
    show_default=True,
    help="Events sent together; a message is also full at 1 MiB.",
)
@click.option("--rate", type=click.IntRange(min=1), help="Events a second, at most.  [default: no limit]")
@click.option(
    "--no-validate",
    is_flag=True,
    help="Send each line as it is. One line that is not JSON makes its whole message a dead letter.",
)
@click.option(
    "--app-id",
    default="usage-worker publish",
    show_default=True,
    help="The producer's name; dead letters show it.",
)
@csv_options
@click.option("--json", "as_json", is_flag=True, help="Print the final counts as one JSON object.")
@click.pass_context
def command(  # noqa: PLR0913 - click hands over one argument for each option
    context: click.Context,
    *,
    files: tuple[str, ...],
    events_per_message: int,
    rate: int | None,
    no_validate: bool,
    app_id: str,
    as_json: bool,
    csv: CsvOptions,
) -> None:
    """Publish the events in FILE..., one JSON object a line, or the rows of a CSV file; - reads standard input.

    Needs only RabbitMQ (USAGE_AMQP_URL, USAGE_EXCHANGE). Each event is judged by the worker's rules first: a bad one is
    reported with file and line and left out. Good ones are sent, JSON byte for byte, many messages at once, and again
    until RabbitMQ has confirmed them. Blank lines are skipped.

    Of CSV the first line names the columns. An empty cell is an absent field; a time without an offset is UTC; a column
    that is mapped to no field is left out. An event's id is made of what the file holds up to its row: a file sent
    again, or one that has grown, counts no row twice. Moved times are other content for the same ids: send a trace
    again with the --shift-to that the first run prints, or as new events with another --id-source.
    """
    from worker.settings import load_settings

    csv.check(files)
    if rate is not None and csv.replay_speed is not None:
        raise click.UsageError("--rate and --replay-speed both set the pace: give one")
    options = Options(files, events_per_message, rate, not no_validate, app_id, csv, csv.recipe())
    settings = load_settings()
    publisher = _make_publisher(settings, options)
    counts = Counts()
    outcome = "stopped"
    try:
        asyncio.run(_publish(publisher, options, settings, counts))
        outcome = "published"
    except KeyboardInterrupt:
        raise UsageWorkerError("interrupted; publish the same files again: what has arrived counts once") from None
    finally:
        counts.take(publisher.books)
        click.echo(json.dumps(asdict(counts)) if as_json else f"{outcome}: {counts.text()}")
    if counts.refused:
        context.exit(EXIT_PARTLY)


def _make_publisher(settings: "Settings", options: Options) -> "UsagePublisher":
    from usage_events.publisher import UsagePublisher

    url = settings.amqp_url.get_secret_value()
    try:
        return UsagePublisher(url, exchange=settings.exchange, app_id=options.app_id)
    except ValueError as error:
        raise ConfigurationError(f"{error}; see USAGE_AMQP_URL, USAGE_EXCHANGE and --app-id") from error


async def _publish(publisher: "UsagePublisher", options: Options, settings: "Settings", counts: Counts) -> None:
    from rich.console import Console
    from usage_events.errors import BrokerUnavailableError, UsageEventsError

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    _log_to(console)
    try:
        async with publisher:
            await publisher.connect()
            await _publish_files(publisher, options, settings, counts, console)
    except BrokerUnavailableError as error:
        raise SystemUnavailableError(f"{error}; start RabbitMQ, or set USAGE_AMQP_URL") from error
    except UsageEventsError as error:
        raise UsageWorkerError(str(error)) from error


async def _publish_files(
    publisher: "UsagePublisher", options: Options, settings: "Settings", counts: Counts, console: "Console"
) -> None:
    from worker.publishing.lines import LinePublisher, LineRules

    def report_refused(problems: list[str]) -> None:
        counts.refused += 1
        console.print("\n".join(problems))

    rules = LineRules(max_age_seconds=settings.max_age, max_ahead_seconds=settings.max_ahead)
    lines = LinePublisher(
        publisher,
        events_per_message=options.events_per_message,
        rules=rules if options.is_validated else None,
        pace=_pace(options),
        on_refused=report_refused,
    )
    bar = None
    try:
        read = await _reader(options, console)
        if console.is_terminal:
            bar = asyncio.create_task(_show_progress(console, publisher, lines, _size_bytes(options.files)))
        await lines.publish(options.files, read)
    except OSError as error:
        raise UsageWorkerError(f"{error.filename or 'standard input'}: cannot be read: {error.strerror}") from error
    finally:
        if bar is not None:
            bar.cancel()
            await asyncio.gather(bar, return_exceptions=True)


def _pace(options: Options) -> "Pace | TracePace | None":
    from worker.publishing.lines import Pace, TracePace

    if options.csv.replay_speed is not None:
        return TracePace(options.csv.replay_speed)
    return None if options.rate is None else Pace(options.rate)


async def _reader(options: Options, console: "Console") -> "Reader":
    """How each file is read; moves the times of CSV files first, where they are to be moved."""
    from worker.publishing.csv_fields import moment_us
    from worker.publishing.files import CsvFiles, read_ndjson

    csv = options.csv
    needs_times = csv.moves_times or csv.replay_speed is not None
    files = CsvFiles(options.recipe, csv.delimiter, needs_times=needs_times, say=console.print)
    if csv.moves_times:
        newest = csv.shift_to or datetime.now(UTC)
        shift = timedelta(microseconds=await files.shift_to(moment_us(newest), options.files))
        console.print(f"times are moved by {shift}; the same events again: --shift-to {newest:%Y-%m-%dT%H:%M:%S.%fZ}")
    return lambda path: files.read(path) if csv.is_csv(path) else read_ndjson(path)


async def _show_progress(
    console: "Console", publisher: "UsagePublisher", lines: "LinePublisher", total_bytes: int | None
) -> None:
    """Draws until it is cancelled."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("publishing"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[confirmed]}"))
    started = asyncio.get_running_loop().time()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("publishing", total=total_bytes, confirmed="")

        def draw() -> None:
            confirmed = publisher.books.confirmed
            rate = confirmed / (asyncio.get_running_loop().time() - started)
            text = f"{_count(confirmed, 'event')} confirmed, {rate:,.0f} a second"
            progress.update(task, completed=lines.read_bytes, confirmed=text)

        try:
            while True:
                await asyncio.sleep(REFRESH_SECONDS)
                draw()
        finally:
            draw()  # what stays on the screen is the end


def _size_bytes(files: Sequence[str]) -> int | None:
    """What there is to read; `None` where a pipe or standard input is among it."""
    paths = [Path(file) for file in files]
    return sum(path.stat().st_size for path in paths) if all(path.is_file() for path in paths) else None


def _log_to(console: "Console") -> None:
    """The publisher's warnings stand above the progress bar."""

    class ConsoleHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            console.print(self.format(record))

    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[ConsoleHandler()])
    # The publisher reports each loss of the connection in one line; aiormq would add its own, with tracebacks.
    for noisy in ("aiormq", "aio_pika"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
