"""The options that choose letters: what each takes, what it refuses and in which words."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import click
import pytest
from click.testing import CliRunner
from usage_events.contract import Reason

from worker.commands.dead_letters import command as group
from worker.commands.dead_letters import options
from worker.commands.dead_letters.options import confirm_bulk, filter_options, parse_moment
from worker.commands.options import MONTHS_MAX, json_option
from worker.postgres.dead_letters.table import Filter, Status
from worker.retention import months

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ID = UUID("0190a1b2-7c11-7d3e-8f00-5d6a3f0b9c2e")


def chosen_by(*arguments: str) -> Filter:
    """The filter that these arguments make."""
    found: list[Filter] = []

    @click.command()
    @filter_options
    def show(chosen: Filter) -> None:
        found.append(chosen)

    result = CliRunner().invoke(show, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found[0]


def refused(*arguments: str) -> str:
    """What is said of wrong ones; the exit status is 2."""

    @click.command()
    @filter_options
    def show(chosen: Filter) -> None:
        raise AssertionError(f"{chosen} should have been refused")

    result = CliRunner().invoke(show, arguments)
    assert result.exit_code == 2
    return result.output


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("30m", NOW - timedelta(minutes=30)),
        ("2h", NOW - timedelta(hours=2)),
        ("3d", NOW - timedelta(days=3)),
        ("1w", NOW - timedelta(weeks=1)),
        ("2026-01-31T08:00:00Z", datetime(2026, 1, 31, 8, tzinfo=UTC)),
        ("2026-01-31T08:00:00.25+02:00", datetime(2026, 1, 31, 6, 0, 0, 250_000, tzinfo=UTC)),
    ],
)
def test_a_moment(text: str, moment: datetime) -> None:
    """An age counts back from now; a time is taken with its offset."""
    assert parse_moment(text, NOW) == moment


@pytest.mark.parametrize(
    "text",
    ["", "h", "2", "2H", "-2h", "2 h", "1.5h", "yesterday", "2026-01-31", "2026-01-31T08:00:00", "2026-02-30T08:00:00Z",
     "999999999w", "0001-01-01T00:00:00+23:59", "٢h"],
)  # fmt: skip
def test_no_moment(text: str) -> None:
    """Whatever else, times without an offset and moments before the year 1 among it, is named in the error."""
    with pytest.raises(ValueError, match=r"moment|neither") as caught:
        parse_moment(text, NOW)
    assert repr(text) in str(caught.value)


def test_nothing_given_means_all_open_letters() -> None:
    """The default is every open letter."""
    assert chosen_by() == Filter(status=Status.OPEN)


def test_each_option_has_its_place() -> None:
    """Every option of the filter reaches it with the right type."""
    arguments: list[str] = []
    given: dict[str, Any] = {
        "reason": "invalid", "field": "model", "organization": str(ID), "user": str(ID), "model": "m",
        "producer": "billing", "since": "2026-01-31T08:00:00Z", "until": "2026-02-01T08:00:00Z", "status": "discarded",
        "id": str(ID), "limit": "7",
    }  # fmt: skip
    for name, value in given.items():
        arguments += [f"--{name}", value]
    assert chosen_by(*arguments) == Filter(
        reason=Reason.INVALID,
        field="model",
        organization=ID,
        user=ID,
        model="m",
        producer="billing",
        since=datetime(2026, 1, 31, 8, tzinfo=UTC),
        until=datetime(2026, 2, 1, 8, tzinfo=UTC),
        status=Status.DISCARDED,
        ids=(ID,),
        limit=7,
    )


def test_any_status() -> None:
    """`any` leaves the status open to all."""
    assert chosen_by("--status", "any").status is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--reason", "nope"), ["'nope'", *Reason]),
        (("--status", "gone"), ["'gone'", *Status, "any"]),
        (("--since", "soon"), ["'soon'", "2h", "2026-01-31T08:00:00Z"]),
        (("--user", "5"), ["'5'", "UUID"]),
        (("--limit", "0"), ["0", "x>=1"]),
        (("--producer", "\udcff"), ["'\\udcff'", "UTF-8"]),
    ],
)
def test_a_wrong_value(arguments: tuple[str, ...], said: list[str]) -> None:
    """Exit status 2; the value is named, and what is possible."""
    output = refused(*arguments)
    assert [part for part in said if part not in output] == []


def test_the_lists_are_the_contracts() -> None:
    """What stands in the options so that --help is quick is what the contract and the table have."""
    assert set(options.REASONS) == set(Reason)
    assert set(options.STATUSES) == {*Status, options.ANY_STATUS}
    assert MONTHS_MAX == months.MONTHS_MAX


@pytest.mark.parametrize(("count", "yes"), [(0, False), (5, True)])
def test_no_question(count: int, yes: bool) -> None:  # noqa: FBT001 - a case of the table
    """With --yes, or nothing to do, nobody is asked."""
    confirm_bulk(count, yes=yes)


def test_nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal and without --yes it is wrong usage, and says how many letters it was about."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(click.UsageError, match=r"change 1,000 letters.*--yes") as caught:
        confirm_bulk(1000, yes=False)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("arguments", [[], ["--json"], ["summary", "--json"]])
def test_summary_is_the_default(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    """Without a command it is summary that takes the arguments."""
    seen: list[bool] = []

    @click.command("summary")
    @json_option
    def summary(*, as_json: bool) -> None:
        seen.append(as_json)

    monkeypatch.setattr("worker.commands.dead_letters.summary.command", summary)
    assert CliRunner().invoke(group, arguments, catch_exceptions=False).exit_code == 0
    assert seen == ["--json" in arguments]
