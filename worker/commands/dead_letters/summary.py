"""`usage-worker dead-letters summary`: what is refused, since when, by whom, and what of it would pass now."""

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from worker.commands.dead_letters.options import filter_options_with
from worker.commands.options import json_option

if TYPE_CHECKING:
    from worker.commands.session import Session
    from worker.postgres.dead_letters.sampling import Passing, Sampling
    from worker.postgres.dead_letters.summary import Group
    from worker.postgres.dead_letters.table import Filter

WATCH_SECONDS_MIN = 2.0
WATCH_SHARE = 4  # a refresh rests four times as long as it took: to watch a flood must not feed it
EXAMPLE = """
\b
Example:
$ usage-worker dead-letters
$ usage-worker dead-letters summary --since 2h --watch
"""
HEADINGS = (
    "reason", "field", "producer", "letters", "times", "last hour", "last minute", "first seen", "last seen",
    "would pass", "a sample",
)  # fmt: skip
NUMBERS = ("letters", "times", "last hour", "last minute", "first seen", "last seen", "would pass", "a sample")


@dataclass(slots=True, frozen=True)
class Summary:
    """The groups that are shown, with what of their samples would pass; and how much there is in all."""

    shown: "list[tuple[Group, Passing]]"
    groups: int
    letters: int
    occurrences: int
    last_minute: int
    last_hour: int
    bodies_given_up: int


@click.command("summary", epilog=EXAMPLE)
@filter_options_with(limit=50)
@click.option("--watch", is_flag=True, help="Refresh until Ctrl-C, every two seconds or slower.")
@json_option
def command(*, chosen: "Filter", watch: bool, as_json: bool) -> None:
    """Add the letters up by reason, field of the first error, and producer; the largest groups first.

    What would pass is judged by a sample of each group, carried through the worker's decoder and merge and rolled
    back: ~75% of 16 says that 12 of 16 letters would be stored now. `try` tries all of them. --limit counts groups.
    """
    try:
        asyncio.run(_run(chosen, watch=watch, as_json=as_json))
    except KeyboardInterrupt:
        if not watch:
            raise


async def _run(chosen: "Filter", *, watch: bool, as_json: bool) -> None:
    from worker.commands.session import session

    async with session("dead-letters summary") as opened:
        shown = _show(opened, chosen, watch=watch, as_json=as_json)
        await asyncio.gather(shown, asyncio.to_thread(_load))


def _load() -> None:
    """Import what the samples and the table need, while the database adds up: both take a while."""
    import rich.table  # noqa: F401

    import worker.postgres.dead_letters.sampling  # noqa: F401


async def _show(opened: "Session", chosen: "Filter", *, watch: bool, as_json: bool) -> None:
    from worker.postgres.dead_letters.summary import read_groups

    sampling: Sampling | None = None
    try:
        while True:
            started = time.monotonic()
            groups = await read_groups(opened.connection, chosen)
            sampling = sampling or _make_sampling(opened)
            shown = groups[: chosen.limit]
            summary = _add_up(groups, list(zip(shown, await sampling.passing(shown), strict=True)))
            if watch and not as_json:
                click.clear()
            _print(summary, as_json=as_json)
            if not watch:
                return
            await asyncio.sleep(max(WATCH_SECONDS_MIN, WATCH_SHARE * (time.monotonic() - started)))
    finally:
        if sampling is not None:
            await sampling.close()


def _make_sampling(opened: "Session") -> "Sampling":
    from worker.postgres.dead_letters.sampling import Sampling

    return Sampling(opened.settings)


def _add_up(groups: "list[Group]", shown: "list[tuple[Group, Passing]]") -> Summary:
    return Summary(
        shown,
        groups=len(groups),
        letters=sum(group.letters for group in groups),
        occurrences=sum(group.occurrences for group in groups),
        last_minute=sum(group.last_minute for group in groups),
        last_hour=sum(group.last_hour for group in groups),
        bodies_given_up=sum(group.bodies_given_up for group in groups),
    )


def _print(summary: Summary, *, as_json: bool) -> None:
    from worker.commands.dead_letters.showing import print_json, print_table

    if as_json:
        print_json(_facts(group, passing) for group, passing in summary.shown)
        print_json([{name: value for name, value in asdict(summary).items() if name != "shown"}])
        return
    if summary.shown:
        print_table(HEADINGS, [_row(group, passing) for group, passing in summary.shown], NUMBERS)
    click.echo(_sentence(summary))


def _facts(group: "Group", passing: "Passing") -> dict[str, Any]:
    facts = asdict(group)
    samples = facts.pop("samples")
    return facts | {
        "sample_id": samples[0] if samples else None,
        "sample_passed": passing.passed,
        "sample_tried": passing.tried,
    }


def _row(group: "Group", passing: "Passing") -> tuple[str, ...]:
    from worker.commands.dead_letters.showing import moment

    share = f"~{100 * passing.passed // passing.tried}% of {passing.tried}" if passing.tried else ""
    return (
        group.reason, group.field or "", group.producer or "", f"{group.letters:,}", f"{group.occurrences:,}",
        f"{group.last_hour:,}", f"{group.last_minute:,}", moment(group.first_seen), moment(group.last_seen), share,
        str(group.samples[0]) if group.samples else "",
    )  # fmt: skip


def _sentence(summary: Summary) -> str:
    from worker.dead_letters.text import BODY_GIVEN_UP

    text = (
        f"{_counted(summary.letters, 'letter')}, seen {_counted(summary.occurrences, 'time')};"
        f" {summary.last_hour:,} new in the last hour, {summary.last_minute:,} in the last minute"
    )
    if summary.bodies_given_up:
        text += f"; {summary.bodies_given_up:,} cannot be replayed; of each, {BODY_GIVEN_UP}"
    left = summary.groups - len(summary.shown)
    return f"{text}; {left:,} smaller groups not shown: raise --limit" if left else text


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
