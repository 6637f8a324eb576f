"""The options of `publish` for CSV files, and what they come to."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from worker.errors import ConfigurationError

if TYPE_CHECKING:
    from worker.publishing.csv_events import Recipe

DEFAULT_ID_SOURCE = "usage-worker publish"
SUFFIX = ".csv"
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class CsvOptions:
    """What the command line says of CSV files."""

    file_format: str
    maps: Sequence[str]
    sets: Sequence[str]
    ignored: Sequence[str]
    delimiter: str
    id_from: Sequence[str]
    id_source: str | None
    shift_time: bool
    shift_to: datetime | None
    replay_speed: float | None

    def is_csv(self, path: str) -> bool:
        """Whether a file is CSV: as --format says, else by its suffix."""
        return self.file_format == "csv" or (self.file_format == "auto" and path.lower().endswith(SUFFIX))

    @property
    def moves_times(self) -> bool:
        """Whether the times are not those of the file."""
        return self.shift_time or self.shift_to is not None

    def check(self, files: Sequence[str]) -> None:
        """See that the options fit each other and the files.

        Raises:
            click.UsageError: they do not.
        """
        given = {
            "--map": self.maps, "--set": self.sets, "--ignore": self.ignored, "--id-from": self.id_from,
            "--id-source": self.id_source, "--shift-time": self.shift_time, "--shift-to": self.shift_to,
            "--replay-speed": self.replay_speed,
        }  # fmt: skip
        csv_files = [file for file in files if self.is_csv(file)]
        for option, value in given.items():
            if value and not csv_files:
                raise click.UsageError(f"{option} is for CSV, and no file ends with {SUFFIX}; say --format csv")
            if value and option in {"--shift-time", "--shift-to", "--replay-speed"} and len(csv_files) < len(files):
                raise click.UsageError(f"{option} is for CSV, and not every file is: publish the others by themselves")
        if self.id_from and self.id_source is None:
            raise click.UsageError(
                "--id-from needs --id-source NAME: whose ids these are, such as billing-export, "
                "so that the same id of another source is another event"
            )

    def recipe(self) -> "Recipe":
        """How events are made of rows.

        Raises:
            ConfigurationError: a field or a value cannot be.
        """
        from worker.publishing.csv_events import Recipe
        from worker.publishing.csv_fields import to_json

        columns, values = _pairs("--map", self.maps), _pairs("--set", self.sets)
        for name in columns.keys() & values.keys():
            raise ConfigurationError(f"{name} is given by --map and by --set: give it once")
        if "id" in values:
            raise ConfigurationError("--set id: every row would be the same event; map a column: --map id=COLUMN")
        if "id" in columns and self.id_from:
            raise ConfigurationError("the id is given by --map and by --id-from: give it once")
        constants = {}
        for name, value in values.items():
            try:
                constants[name] = to_json(name, value)
            except ValueError as error:
                raise ConfigurationError(f"--set {name}={value}: {error}") from error
        return Recipe(columns, constants, frozenset(self.ignored), self.id_from, self.id_source or DEFAULT_ID_SOURCE)


def csv_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of CSV files, handed to the command as one `csv`."""

    @functools.wraps(command)
    def with_csv(**given: Any) -> Any:
        names = CsvOptions.__slots__
        csv = CsvOptions(**{name: given.pop(name) for name in names})
        return command(csv=csv, **given)

    for option in reversed(_OPTIONS):
        with_csv = option(with_csv)
    return with_csv


def _pairs(option: str, given: Sequence[str]) -> Mapping[str, str]:
    """`FIELD=TEXT` by field."""
    from worker.publishing.csv_fields import FIELDS

    pairs: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ConfigurationError(f"{option} {text}: write it as {option} FIELD=…, such as {option} model=gpt-4o")
        if name not in FIELDS:
            raise ConfigurationError(f"{option} {text}: an event has no field {name!r}; it has {', '.join(FIELDS)}")
        if name in pairs:
            raise ConfigurationError(f"{option} {text}: {name} is given twice; give it once")
        pairs[name] = value
    return pairs


def _check_delimiter(ctx: click.Context, param: click.Parameter, value: str) -> str:
    delimiter = "\t" if value == "tab" else value
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n':
        raise click.BadParameter(f"{value!r} is not one character, nor the word tab", ctx, param)
    return delimiter


def _check_time(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    if _RFC3339.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError) as error:
            raise click.BadParameter(f"{value!r} is no time: {error}", ctx, param) from error
    raise click.BadParameter(f"{value!r} is no time with its offset, such as 2026-01-31T08:00:00Z", ctx, param)


def _check_texts(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """Arguments may be any bytes; events are UTF-8."""
    for text in value:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise click.BadParameter(f"{text!r} is not UTF-8", ctx, param) from error
    return value


_OPTIONS = (
    click.option(
        "--format", "file_format", type=click.Choice(["auto", "ndjson", "csv"]), default="auto", show_default=True,
        help="auto: a file whose name ends with .csv is CSV.",
    ),
    click.option("--map", "maps", metavar="FIELD=COLUMN", multiple=True, callback=_check_texts,
                 help="CSV: the column of a field. One that has the field's name need not be mapped."),
    click.option("--set", "sets", metavar="FIELD=VALUE", multiple=True, callback=_check_texts,
                 help="CSV: a field that is the same in all rows."),
    click.option("--ignore", "ignored", metavar="COLUMN", multiple=True, callback=_check_texts,
                 help="CSV: leave a column out, also where its name is nearly that of a field."),
    click.option("--delimiter", metavar="CHARACTER", default=",", show_default=True, callback=_check_delimiter,
                 help="CSV: between cells; tab for a tabulator."),
    click.option("--id-from", metavar="COLUMN", multiple=True, callback=_check_texts,
                 help="CSV: make the id of this column's cell (several: of all of them) and --id-source. "
                      "[default: of all that the file holds up to the row]"),
    click.option("--id-source", metavar="NAME", callback=lambda ctx, param, value: (
                     None if value is None else _check_texts(ctx, param, (value,))[0]),
                 help=f"CSV: whose ids; another name makes other events.  [default: {DEFAULT_ID_SOURCE}]"),
    click.option("--shift-time", is_flag=True,
                 help="CSV: move all times by one offset, so that the newest is now. The file is read twice."),
    click.option("--shift-to", metavar="TIME", callback=_check_time,
                 help="CSV: the same, with the newest at TIME: to send the same events again."),
    click.option("--replay-speed", type=click.FloatRange(min=0, min_open=True), metavar="FACTOR",
                 help="CSV: keep the times' own spacing, so many times faster; 1 is as it was."),
)  # fmt: skip
