"""`usage-worker dead-letters show`: all about one letter."""

import asyncio
import base64
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import click

from worker.commands.dead_letters.options import redact_option
from worker.commands.options import json_option
from worker.errors import UsageWorkerError

EXAMPLE = """
\b
Example:
$ usage-worker dead-letters show 0190a1b2-7c11-7d3e-8f00-5d6a3f0b9c2e
$ usage-worker dead-letters show --redact 0190a1b2-7c11-7d3e-8f00-5d6a3f0b9c2e
"""
FACTS = (
    ("status", "status"),
    ("event", "event_id"),
    ("user", "user_id"),
    ("organization", "organization_id"),
    ("model", "model"),
    ("producer", "app_id"),
    ("RabbitMQ user", "amqp_user"),
    ("exchange", "exchange"),
    ("routing key", "routing_key"),
    ("queue", "queue"),
    ("content type", "content_type"),
    ("worker", "worker"),
)


@click.command("show", epilog=EXAMPLE)
@click.argument("some_id", metavar="ID", type=click.UUID)
@redact_option
@json_option
def command(*, some_id: UUID, redact: bool | None, as_json: bool) -> None:
    """Show the letter with this ID, or the letters of the event with this ID.

    Everything that is known: where it came from, each error with field, message and input, the body (as hexadecimal
    digits where it is not text), the edited body and what differs, and what was done to it by whom.
    """
    from worker.commands.dead_letters.showing import print_json

    letters = asyncio.run(_read(some_id, redact))
    if not letters:
        raise UsageWorkerError(
            f"no letter, and no event of one, has the id {some_id}; `usage-worker find {some_id}` says where it is"
        )
    if as_json:
        print_json(_facts(letter) for letter in letters)
        return
    click.echo("\n\n".join("\n".join(_lines(letter)) for letter in letters))


async def _read(some_id: UUID, redact: bool | None) -> list[dict[str, Any]]:  # noqa: FBT001 - see is_redacted
    from worker.commands.dead_letters.showing import is_redacted
    from worker.commands.session import session
    from worker.postgres.dead_letters.reading import find_letters, letter_history

    async with session("dead-letters show") as (connection, settings):
        letters = await find_letters(connection, some_id)
        for letter in letters:
            letter["history"] = await letter_history(connection, letter["id"])
    return [_redacted(letter) for letter in letters] if is_redacted(redact, settings) else letters


def _redacted(letter: dict[str, Any]) -> dict[str, Any]:
    from worker.dead_letters.redaction import redact_body, redact_errors, redact_note

    body, edited = letter["body"], letter["edited_body"]
    return letter | {
        "errors": redact_errors(letter["errors"]),
        "body": None if body is None else redact_body(body),
        "edited_body": None if edited is None else redact_body(edited),
        "history": [action | {"note": redact_note(action["action"], action["note"])} for action in letter["history"]],
    }


def _facts(letter: dict[str, Any]) -> dict[str, Any]:
    """For `--json`: a body as text where it is UTF-8, and always as base64."""
    facts = dict(letter)
    for name in ("body", "edited_body"):
        body: bytes | None = facts.pop(name)
        facts[name] = None if body is None else _text(body)
        facts[f"{name}_base64"] = None if body is None else base64.b64encode(body).decode()
    return facts


def _text(body: bytes) -> str | None:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _lines(letter: dict[str, Any]) -> Iterator[str]:
    from worker.commands.dead_letters.showing import moment
    from worker.dead_letters.text import one_line

    yield f"letter {letter['id']}: {letter['reason']}"
    for label, name in FACTS:
        if letter[name] is not None:
            yield f"  {label:<14} {one_line(str(letter[name]))}"
    yield f"  {'first seen':<14} {moment(letter['first_seen'])}"
    times = "once" if letter["occurrences"] == 1 else f"{letter['occurrences']:,} times in all"
    yield f"  {'last seen':<14} {moment(letter['last_seen'])}, {times}"
    for name, value in (letter["headers"] or {}).items():
        yield f"  {'header':<14} {one_line(f'{name}: {value}')}"
    yield "errors"
    for error in letter["errors"]:
        yield from _error_lines(error)
    yield from _body_lines(letter["body"], letter["edited_body"])
    yield "history"
    yield f"  {moment(letter['first_seen'])}  first seen"
    for action in letter["history"]:
        yield _indented(_action(action))


def _body_lines(body: bytes | None, edited: bytes | None) -> Iterator[str]:
    from worker.dead_letters.text import BODY_GIVEN_UP, difference, readable

    if body is None:
        yield f"no body: {BODY_GIVEN_UP}"
    else:
        yield f"body, {len(body):,} bytes"
        yield _indented(readable(body))
    if edited is not None:
        yield f"edited body, {len(edited):,} bytes"
        yield _indented(readable(edited))
    if body is not None and edited is not None:
        yield "what differs"
        yield _indented(difference(body, edited))


def _error_lines(error: dict[str, Any]) -> Iterator[str]:
    from worker.dead_letters.text import one_line

    yield "  " + one_line(": ".join(str(part) for part in (error.get("field"), error.get("message")) if part))
    if error.get("input") is not None:
        yield f"    input: {one_line(str(error['input']))}"


def _action(action: dict[str, Any]) -> str:
    from worker.commands.dead_letters.showing import moment, transition
    from worker.dead_letters.text import printable

    line = "  ".join(
        part for part in (moment(action["at"]), action["who"], action["action"], transition(action)) if part
    )
    return printable(f"{line}\n{action['note']}" if action["note"] else line).replace("\n", "\n  ")


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.split("\n"))
