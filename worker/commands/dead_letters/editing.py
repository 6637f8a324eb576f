"""What `edit` does: one letter, or all that a filter chooses."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from worker.commands.dead_letters.bulk import Work, working
from worker.commands.dead_letters.edit_report import EditReport
from worker.commands.dead_letters.editor import editor_file, type_body
from worker.commands.dead_letters.options import confirm_bulk
from worker.commands.dead_letters.showing import is_redacted
from worker.commands.options import EXIT_PARTLY
from worker.commands.session import session
from worker.dead_letters.json_edit import Edit
from worker.dead_letters.mending import Change, Mended, Outcome, by_edits
from worker.dead_letters.text import BODY_GIVEN_UP
from worker.errors import UsageWorkerError
from worker.postgres.dead_letters.edit import (
    RIGHTS,
    EditOptions,
    Mending,
    edit_all,
    edit_set,
    judge,
    pick_for_edit,
    preview_all,
)
from worker.postgres.dead_letters.reading import find_letters
from worker.postgres.dead_letters.rights import require
from worker.postgres.dead_letters.table import (
    HAS_BODY,
    HAS_NO_BODY,
    Filter,
    Status,
    StoredLetter,
    count_letters,
    read_letters,
)
from worker.settings import Settings, load_settings

STANDARD_INPUT = "-"


@dataclass(slots=True, frozen=True)
class Request:
    """What was asked for, beside which letters."""

    edits: Sequence[Edit]
    who: str
    is_forced: bool
    is_dry_run: bool
    redact: bool | None
    as_json: bool

    def report(self, settings: Settings) -> EditReport:
        """An empty one."""
        return EditReport(
            as_json=self.as_json, is_dry_run=self.is_dry_run, is_redacted=is_redacted(self.redact, settings)
        )

    def options(self, settings: Settings, change: Change, chosen: Filter | None = None) -> EditOptions:
        """How letters are changed and judged."""
        return EditOptions(
            change,
            self.who,
            max_age_seconds=settings.max_age,
            max_ahead_seconds=settings.max_ahead,
            is_forced=self.is_forced,
            chosen=chosen,
        )


# Many letters.


def edit_many(chosen: Filter, request: Request, *, yes: bool) -> int:
    """Edit all that a filter chooses; the exit status."""
    settings = load_settings()
    options = request.options(settings, by_edits(request.edits), chosen)
    report = request.report(settings)
    if request.is_dry_run:
        asyncio.run(_preview(chosen, options, report))
    else:
        asyncio.run(_edit(chosen, options, report, yes=yes))
    return 0 if report.is_whole else EXIT_PARTLY


async def _preview(chosen: Filter, options: EditOptions, report: EditReport) -> None:
    async with session("dead-letters edit") as (connection, _):
        total = await count_letters(connection, chosen, HAS_BODY)
        report.bodies_given_up = await count_letters(connection, chosen, HAS_NO_BODY)
        async with (
            _reporting(report, "looking", total) as work,
            aclosing(preview_all(connection, chosen, options)) as mendings,
        ):
            async for mending in mendings:
                report.add([mending])
                work.done += 1
                if work.is_stopped:
                    break


async def _edit(chosen: Filter, options: EditOptions, report: EditReport, *, yes: bool) -> None:
    async with session("dead-letters edit") as (connection, _):
        await require(connection, RIGHTS)
        total = await pick_for_edit(connection, chosen)
        report.bodies_given_up = await count_letters(connection, chosen, HAS_NO_BODY)
        confirm_bulk(total, yes=yes, action="edit")
        async with _reporting(report, "editing", total) as work:
            async for done in edit_all(connection, chosen, options):
                report.add(done.mendings)
                report.busy += len(done.busy)
                work.done += len(done.mendings)
                if work.is_stopped:
                    break


@asynccontextmanager
async def _reporting(report: EditReport, what: str, total: int) -> AsyncIterator[Work]:
    """Say what is done, whatever ends it, once the bar is gone."""
    work = Work(what, total)
    try:
        async with working(what, total) as work:
            yield work
    finally:
        report.is_stopped, report.is_failed = work.is_stopped, work.has_failed
        report.end()


# One letter.


def edit_one(some_id: UUID, request: Request, body_file: str | None) -> int:
    """Edit one letter; the exit status."""
    settings = load_settings()
    letter = asyncio.run(_read(some_id))
    if request.edits:
        return _finish(letter, request, settings, by_edits(request.edits))
    if body_file is not None:
        body = _read_file(body_file)
        return _finish(letter, request, settings, lambda _: body)
    return _edit_in_editor(letter, request, settings)


def _edit_in_editor(letter: StoredLetter, request: Request, settings: Settings) -> int:
    def judged(typed: bytes) -> Mended:
        return judge(letter, request.options(settings, lambda _: typed)).mended

    def show(mended: Mended) -> None:
        request.report(settings).explain(Mending(letter, mended))

    with editor_file(letter.id, letter.body) as file:
        typed, is_forced = type_body(file, judged, show)
        request = replace(request, is_forced=request.is_forced or is_forced)
        status = _finish(letter, request, settings, lambda _: typed)
        file.is_saved = status == 0 and not request.is_dry_run
    return status


def _finish(letter: StoredLetter, request: Request, settings: Settings, change: Change) -> int:
    """Judge, save where it may be, and report."""
    options = request.options(settings, change)
    mending = judge(letter, options)
    if mending.mended.outcome is Outcome.EDITED and not request.is_dry_run:
        mending = asyncio.run(_save(letter, options))
    report = request.report(settings)
    report.add([mending])
    report.end_one()
    return 0 if report.is_whole else 1


async def _save(letter: StoredLetter, options: EditOptions) -> Mending:
    """Save the change of a letter that was read before.

    Raises:
        UsageWorkerError: it is no longer what was read.
    """
    wanted = options.change

    def change(body: bytes) -> bytes:
        if body != letter.body:
            raise UsageWorkerError(f"letter {letter.id} was edited by somebody else meanwhile: run this again")
        return wanted(body)

    async with session("dead-letters edit") as (connection, _):
        await require(connection, RIGHTS)
        mendings = await edit_set(connection, Filter(ids=(letter.id,)), replace(options, change=change))
    if not mendings:
        raise UsageWorkerError(
            f"letter {letter.id} is in other hands, or no longer open; nothing is saved: run this again"
        )
    return mendings[0]


async def _read(some_id: UUID) -> StoredLetter:
    async with session("dead-letters edit") as (connection, _):
        found = await find_letters(connection, some_id)
        if not found:
            raise UsageWorkerError(f"no letter, and no event of one, has the id {some_id}")
        if len(found) > 1:
            ids = ", ".join(str(letter["id"]) for letter in found)
            raise UsageWorkerError(f"the event {some_id} has {len(found)} letters; name one of them: {ids}")
        if found[0]["body"] is None and found[0]["edited_body"] is None:
            raise UsageWorkerError(
                f"letter {found[0]['id']} cannot be edited: {BODY_GIVEN_UP}; its producer can publish the event again"
            )
        [letter] = [one async for one in read_letters(connection, Filter(ids=(found[0]["id"],), status=None))]
    if letter.status is Status.RECOVERED:
        raise UsageWorkerError(f"letter {letter.id} is recovered: its event is stored, and cannot be edited here")
    if letter.status is Status.DISCARDED:
        raise UsageWorkerError(
            f"letter {letter.id} is discarded: `usage-worker dead-letters reopen --id {letter.id}` comes first"
        )
    return letter


def _read_file(name: str) -> bytes:
    try:
        if name == STANDARD_INPUT:
            return sys.stdin.buffer.read()
        return Path(name).read_bytes()
    except OSError as error:
        raise UsageWorkerError(f"--body-file {name} cannot be read: {error}") from error
