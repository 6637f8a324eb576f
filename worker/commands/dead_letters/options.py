"""The options of commands on letters: which of them, and what is said before many are changed."""

import functools
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from worker.commands.options import ask, check_text

if TYPE_CHECKING:
    from worker.postgres.dead_letters.table import Filter

Command = Callable[..., Any]

# The contract's; written here so that --help need not load it.
REASONS = (
    "unsupported_content_type",
    "too_large",
    "bad_json",
    "invalid",
    "token_mismatch",
    "in_future",
    "too_old",
    "unknown_user",
    "unknown_organization",
    "id_conflict",
    "rejected_by_database",
    "delivery_limit",
)
ANY_STATUS = "any"
WORDS_CHARACTERS_MAX = 2000  # of a note
STATUSES = ("open", "recovered", "discarded", ANY_STATUS)

_FILTER_NAMES = (
    "reason", "field", "organization", "user", "model", "producer", "since", "until", "status", "ids", "limit",
)  # fmt: skip
_AGE = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_moment(text: str, now: datetime | None = None) -> datetime:
    """A moment from an age such as `90s`, `30m`, `2h`, `3d` or `1w`, or from an RFC 3339 time with its offset.

    Raises:
        ValueError: it is neither, or lies before the year 1.
    """
    age = _AGE.fullmatch(text)
    try:
        if age is not None:
            return (now or datetime.now(UTC)) - timedelta(**{_UNITS[age[2]]: int(age[1])})
        if _RFC3339.fullmatch(text) is not None:
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is no moment: {error}") from error
    raise ValueError(
        f"{text!r} is neither an age (a number and one of s, m, h, d, w, such as 2h or 3d)"
        " nor a time with its offset (such as 2026-01-31T08:00:00Z)"
    )


def check_moment(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """The callback of an option that is a moment; see `parse_moment`."""
    try:
        return None if value is None else parse_moment(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from error


def check_words(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """The callback of a text for people: not blank, and short enough to be shown in a table."""
    text = check_text(ctx, param, value)
    if text is None:
        return None
    if not text.strip():
        raise click.BadParameter("is blank: say it in a few words", ctx, param)
    if len(text) > WORDS_CHARACTERS_MAX:
        raise click.BadParameter(f"{len(text):,} characters; the limit is {WORDS_CHARACTERS_MAX:,}", ctx, param)
    return text.strip()


def filter_options_with(*, status: str = "open", limit: int | None = None) -> Callable[[Command], Command]:
    """`filter_options` with other defaults."""
    options = (
        click.option("--reason", type=click.Choice(REASONS), metavar="REASON", help="Why they were refused."),
        click.option("--field", callback=check_text, help="A field that an error names."),
        click.option("--organization", type=click.UUID, help="The event's organization."),
        click.option("--user", type=click.UUID, help="The event's user."),
        click.option("--model", callback=check_text, help="The event's model."),
        click.option("--producer", callback=check_text, help="The AMQP app_id that it came with."),
        click.option(
            "--since",
            metavar="MOMENT",
            callback=check_moment,
            help="Seen since then: a time, or an age such as 2h or 3d.",
        ),
        click.option("--until", metavar="MOMENT", callback=check_moment, help="Seen before then: the same."),
        click.option("--status", type=click.Choice(STATUSES), default=status, show_default=True),
        click.option("--id", "ids", type=click.UUID, multiple=True, help="A letter's id; can be repeated."),
        click.option(
            "--limit",
            type=click.IntRange(min=1),
            default=limit,
            show_default=limit is not None,
            help="At most so many.",
        ),
    )

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def wrapper(**values: Any) -> Any:
            given = {name: values.pop(name) for name in _FILTER_NAMES}
            return function(chosen=_filter(given), **values)

        for option in reversed(options):
            option(wrapper)
        return wrapper

    return decorate


# Gives a command every option that chooses letters, and hands it the `Filter` as `chosen`.
filter_options = filter_options_with()

redact_option = click.option(
    "--redact/--no-redact",
    default=None,
    help="Hide what may be request_metadata in bodies and errors.  [default: USAGE_REDACT]",
)


def confirm_bulk(count: int, *, yes: bool, action: str = "change", more: str = "") -> None:
    """Say how many letters would be touched, and ask; `--yes` skips the question.

    Raises:
        click.UsageError: nobody can be asked: exit status 2.
        click.Abort: the answer is no.
    """
    if yes or count == 0:
        return
    letters = f"{count:,} letter{'' if count == 1 else 's'}{more}"
    if not sys.stdin.isatty():
        raise click.UsageError(f"this would {action} {letters}, and there is no terminal to ask on: add --yes")
    ask(f"This would {action} {letters}. Go on?")


def _filter(given: dict[str, Any]) -> "Filter":
    from usage_events.contract import Reason

    from worker.postgres.dead_letters.table import Filter, Status

    reason, status = given.pop("reason"), given.pop("status")
    since, until = given["since"], given["until"]
    if since is not None and until is not None and since > until:
        raise click.BadParameter(
            f"begins at {since:%Y-%m-%d %H:%M:%SZ}, after --until, {until:%Y-%m-%d %H:%M:%SZ}: no letter is between",
            param_hint="--since",
        )
    return Filter(
        reason=None if reason is None else Reason(reason),
        status=None if status == ANY_STATUS else Status(status),
        **given,
    )
