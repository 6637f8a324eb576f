"""`usage-worker find`: where events are, one by one, or a producer's whole ledger as books."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

if TYPE_CHECKING:
    from worker.postgres.books import Books, Ledger
    from worker.postgres.whereabouts import Letter, Whereabouts

EXIT_PARTLY = 3
LINE_BYTES_MAX = 1000
REFUSED_SHOWN_MAX = 10
EXAMPLE = """
\b
Example:
$ export USAGE_POSTGRES_DSN=postgresql://usage@127.0.0.1:5432/usage
$ usage-worker find 0198c0de-0000-7000-8000-0000000000e1
0198c0de-0000-7000-8000-0000000000e1: never seen
$ usage-worker find --ids-from ledger.txt --missing

\b
Exit status: 0 all are accounted for; 3 an id is missing, or a line is no id;
2 wrong usage; 1 anything else.
"""


def _check_ids(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[UUID, ...]:
    from usage_events.contract import UUID_PATTERN

    for value in values:
        if not re.fullmatch(UUID_PATTERN, value):
            raise click.BadParameter(
                f"{value!r} is no event id: 32 hexadecimal digits as 8-4-4-4-12, such as"
                " 0198c0de-0000-7000-8000-0000000000e1",
                ctx,
                param,
            )
    return tuple(dict.fromkeys(map(UUID, values)))


@click.command("find", epilog=EXAMPLE)
@click.argument("ids", metavar="[ID]...", nargs=-1, callback=_check_ids)
@click.option(
    "--ids-from",
    "path",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True),
    help="Balance the books of these ids, one a line; - reads standard input. Blank lines are skipped.",
)
@click.option("--missing", "shows_missing", is_flag=True, help="With --ids-from: print each missing id too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def command(*, ids: tuple[UUID, ...], path: str | None, shows_missing: bool, as_json: bool) -> int:
    """Say where events are: stored, a dead letter, both, or never seen.

    Needs only Postgres. The ids of a ledger are stored, or have only a dead letter (one that is open counts before one
    that is settled), or are missing; letters that hold a whole message are searched for what is missing. A line that is
    no id is reported and left out: the books of the others hold, but the exit status is 3.
    """
    if bool(ids) == bool(path):
        raise click.UsageError("give event ids, or --ids-from FILE (one of the two)")
    if shows_missing and path is None:
        raise click.UsageError("--missing belongs to --ids-from FILE")
    if path is not None:
        return asyncio.run(_balance(path, shows_missing=shows_missing, as_json=as_json))
    return asyncio.run(_look_up(ids, as_json=as_json))


async def _look_up(ids: tuple[UUID, ...], *, as_json: bool) -> int:
    from worker.commands.session import session
    from worker.postgres.whereabouts import Answer, look_up

    async with session("find") as opened:
        found = await look_up(opened.connection, ids)
    for each in found:
        click.echo(json.dumps(_as_object(each), default=str) if as_json else "\n".join(_lines(each)))
    return EXIT_PARTLY if any(each.answer is Answer.NEVER_SEEN for each in found) else 0


async def _balance(path: str, *, shows_missing: bool, as_json: bool) -> int:
    from worker.commands.dead_letters.showing import say
    from worker.commands.session import session
    from worker.postgres.books import Ledger

    async with session("find") as opened:
        ledger = Ledger(opened.connection)
        await ledger.open()
        given, refused = await _read(path, ledger)
        books = await ledger.balance()
        say(
            json.dumps(_books_as_object(given, refused, books))
            if as_json
            else "\n".join(_books_lines(given, refused, books))
        )
        if shows_missing:
            async for each in ledger.missing():
                say(json.dumps({"id": str(each), "answer": "missing"}) if as_json else str(each))
    return EXIT_PARTLY if books.missing or refused else 0


async def _read(path: str, ledger: "Ledger") -> tuple[int, int]:
    """Hand the file's ids to the ledger; how many there were, and how many lines were none."""
    from usage_events.contract import UUID_PATTERN

    from worker.errors import UsageWorkerError
    from worker.ndjson import read_chunks

    is_id = re.compile(UUID_PATTERN.encode()).fullmatch
    name = "standard input" if path == "-" else path
    given = refused = 0
    chunks = read_chunks(path, LINE_BYTES_MAX)
    while True:
        try:
            chunk = await anext(chunks, None)
        except OSError as error:
            raise UsageWorkerError(f"{name}: cannot be read: {error.strerror}") from error
        if chunk is None:
            break
        ids = []
        for line in chunk.lines:
            text = line.text.strip()
            if is_id(text):
                ids.append(text)
            elif text:
                refused += 1
                if refused <= REFUSED_SHOWN_MAX:
                    click.echo(f"{name}:{line.number}: {text[:60].decode(errors='replace')!r} is no event id", err=True)
        given += len(ids)
        if ids:
            await ledger.add(ids)
    if refused > REFUSED_SHOWN_MAX:
        click.echo(f"{name}: {refused - REFUSED_SHOWN_MAX:,} more lines are no event id", err=True)
    return given, refused


# How it looks.


def _as_object(found: "Whereabouts") -> dict[str, Any]:
    letters = [each.facts | {"whole_message": each.whole, "history": each.history} for each in found.letters]
    return {"id": found.id, "answer": found.answer.value, "row": found.row, "letters": letters}


def _lines(found: "Whereabouts") -> Iterator[str]:
    from worker.dead_letters.text import one_line

    yield f"{found.id}: {found.answer.value}"
    if found.row is not None:
        facts = ", ".join(f"{name} {value}" for name, value in found.row.items() if name != "id" and value is not None)
        yield f"  row: {one_line(facts)}"
    for letter in found.letters:
        yield from _letter_lines(letter)


def _letter_lines(letter: "Letter") -> Iterator[str]:
    from worker.commands.dead_letters.showing import transition
    from worker.dead_letters.text import one_line

    facts = letter.facts
    what = "letter of the whole message" if letter.whole else "letter"
    producer = one_line(facts["producer"] or "nobody named")
    yield f"  {what} {facts['id']}: {facts['reason']}, {facts['status']}, from {producer}"
    yield f"    first seen {facts['first_seen']}, last {facts['last_seen']}, occurrences {facts['occurrences']}"
    for action in letter.history:
        change = transition(action)
        yield "    " + one_line(f"{action['at']} {action['who']}: {action['action']}{f'; {change}' if change else ''}")


def _books_as_object(given: int, refused: int, books: "Books") -> dict[str, Any]:
    return {
        "given": given,
        "refused_lines": refused,
        "distinct": books.distinct,
        "stored": books.stored,
        "letter_only": sum(each.ids for each in books.letters),
        "letters": [
            {"reason": each.reason, "status": each.status, "whole_message": each.whole, "ids": each.ids}
            for each in books.letters
        ],
        "missing": books.missing,
        "open_whole_message_letters": books.whole_open,
    }


def _books_lines(given: int, refused: int, books: "Books") -> Iterator[str]:
    def line(indent: int, name: str, number: int) -> str:
        return f"{' ' * indent}{name:<{44 - indent}}{number:>14,}"

    yield line(0, "given", given)
    if refused:
        yield line(0, "lines that are no id", refused)
    yield line(0, "distinct", books.distinct)
    yield line(2, "stored", books.stored)
    yield line(2, "with a letter only", sum(each.ids for each in books.letters))
    for each in books.letters:
        whole = ", in a whole message" if each.whole else ""
        yield line(4, f"{each.reason}, {each.status}{whole}", each.ids)
    yield line(2, "missing", books.missing)
    if books.missing and books.whole_open:
        counts = ", ".join(f"{number:,} {reason}" for reason, number in books.whole_open.items())
        yield f"open letters of whole messages, in which an id may be unreadable: {counts}"
