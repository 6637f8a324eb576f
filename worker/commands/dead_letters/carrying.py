"""What `try` and `replay` have in common: they run it until it ends or is told to, and say what became of letters."""

import json
from collections.abc import Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from worker.commands.dead_letters.bulk import plural, working
from worker.commands.dead_letters.showing import PIPE_CHARACTERS
from worker.dead_letters.replay_pace import RAMP
from worker.dead_letters.text import BODY_GIVEN_UP, one_line
from worker.errors import UsageWorkerError
from worker.logs import configure_logs
from worker.postgres.dead_letters.carrier import Carrier
from worker.postgres.dead_letters.carry import CarryOptions
from worker.postgres.dead_letters.replay import Replay, ReplayLimits
from worker.postgres.dead_letters.suspects import Suspects
from worker.postgres.dead_letters.table import Filter
from worker.postgres.dead_letters.tally import Ending, Tally
from worker.postgres.writer_session import WriterSession
from worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LEFT_OUT_SHOWN = 5
UUID_CHARACTERS = 36


@asynccontextmanager
async def opened(
    chosen: Filter, limits: ReplayLimits, settings: Settings, *, who: str, is_trial: bool
) -> "AsyncIterator[Replay]":
    """A run that is ready, on sessions of its own."""
    configure_logs(settings.log_level, settings.log_format)
    dsn, schema = settings.postgres_dsn.get_secret_value(), settings.postgres_schema
    options = CarryOptions(who, max_age_seconds=settings.max_age, max_ahead_seconds=settings.max_ahead, chosen=chosen)
    session = WriterSession(dsn, schema, name="usage-worker dead-letters")
    marks = WriterSession(dsn, schema, name="usage-worker dead-letters marks")
    try:
        replay = Replay(
            Carrier(session, options, is_trial=is_trial),
            Suspects(marks, who=who, chosen=chosen),
            chosen,
            limits,
            ramp=RAMP[-1:] if is_trial else RAMP,
        )
        replay.tally.is_redacted = settings.redact
        yield replay
    finally:
        await session.close()
        await marks.close()


async def run_to_the_end(replay: Replay, total: int, what: str) -> None:
    """Run with a bar on a terminal. The first Ctrl-C lets the transaction under way end, a second does not."""
    try:
        async with working(what, total, replay.stop) as work:

            def show(tally: Tally) -> None:
                work.done = tally.carried
                work.note = f"{tally.stayed:,} refused" if tally.stayed else ""

            replay.on_progress = show
            await replay.run()
    except click.Abort:
        replay.tally.ending = Ending.STOPPED
    except UsageWorkerError:
        replay.tally.ending = Ending.FAILED
        raise


def report(tally: Tally, *, as_json: bool, is_trial: bool) -> None:
    """What became of the letters: a line a group, then the totals."""
    if as_json:
        for facts in _facts(tally):
            click.echo(json.dumps(facts))
        click.echo(json.dumps(_totals(tally)))
        return
    if tally.groups:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = PIPE_CHARACTERS
        console.print(_table(tally))
    click.echo(_sentence(tally, is_trial=is_trial))
    for line in _warnings(tally, is_trial=is_trial):
        click.echo(line)


def _facts(tally: Tally) -> Iterator[dict[str, Any]]:
    for group, sample in tally.groups.items():
        yield {
            "reason": group.reason.value,
            "answer": group.answer.value,
            "to_reason": group.to_reason.value if group.to_reason else None,
            "letters": sample.letters,
            "sample_id": str(sample.letter_id),
            "sample_error": sample.error,
        }


def _totals(tally: Tally) -> dict[str, Any]:
    return {
        "ending": tally.ending.value,
        "carried": tally.carried,
        "recovered": tally.recovered,
        "refused": tally.stayed,
        "refused_in_arrays": tally.apart,
        "busy": tally.busy,
        "bodies_given_up": tally.bodies_given_up,
        "left_out": [str(letter_id) for letter_id in tally.left_out],
    }


def _table(tally: Tally) -> Table:
    table = Table("reason", "answer", "now", box=None, pad_edge=False)
    table.add_column("letters", justify="right")
    table.add_column("a sample", no_wrap=True, min_width=UUID_CHARACTERS)
    table.add_column("its error", overflow="fold")
    for facts in sorted(_facts(tally), key=lambda facts: (facts["reason"], facts["answer"])):
        to_reason = facts["to_reason"] if facts["to_reason"] != facts["reason"] else None
        table.add_row(
            facts["reason"],
            facts["answer"],
            to_reason or "",
            f"{facts['letters']:,}",
            facts["sample_id"],
            Text(one_line(facts["sample_error"])),
        )
    return table


def _sentence(tally: Tally, *, is_trial: bool) -> str:
    letters = plural(tally.carried)
    if is_trial:
        return f"tried {letters}: {tally.recovered:,} would be recovered, {tally.stayed:,} refused; nothing was changed"
    return f"carried {letters}: {tally.recovered:,} recovered, {tally.stayed:,} refused"


def _warnings(tally: Tally, *, is_trial: bool) -> Iterator[str]:
    if tally.apart:
        verb = "would get" if is_trial else "got"
        yield f"of the events in arrays {tally.apart:,} {verb} a letter each: they are refused"
    if tally.ending is Ending.FAILING:
        yield "ended early: too many were refused; look at the samples, mend what is wrong, run this again"
    if tally.ending is Ending.STOPPED:
        yield "stopped: nothing is half done; run this again to go on"
    if tally.ending is Ending.FAILED:
        yield "ended early: the database could not go on; nothing is half done; run this again to go on"
    if tally.busy:
        yield f"{tally.busy:,} were in other hands all the time; run this again"
    if tally.bodies_given_up:
        yield f"{tally.bodies_given_up:,} cannot be replayed; of each, {BODY_GIVEN_UP}"
    if tally.left_out:
        named = " ".join(f"--id {letter_id}" for letter_id in tally.left_out[:LEFT_OUT_SHOWN])
        more = len(tally.left_out) - LEFT_OUT_SHOWN
        yield (
            f"{len(tally.left_out):,} left out, since a replay ended in the middle of each; to carry them: {named}"
            f"{f' and {more:,} more' if more > 0 else ''}"
        )
