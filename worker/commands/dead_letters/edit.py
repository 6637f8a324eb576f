"""`usage-worker dead-letters edit`: mend letters, so that a replay stores them."""

from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from worker.commands.dead_letters.options import filter_options, redact_option
from worker.commands.options import json_option, who_option, yes_option

if TYPE_CHECKING:
    from worker.dead_letters.json_edit import Edit
    from worker.postgres.dead_letters.table import Filter

VERBS = ("set", "unset", "rename")
_ORDER = "worker.edit.order"
EXAMPLE = """
\b
Example:
$ usage-worker dead-letters edit 0190a1b2-7c11-7d3e-8f00-5d6a3f0b9c2e
$ usage-worker dead-letters edit 0190a1b2-7c11-7d3e-8f00-5d6a3f0b9c2e --set input_tokens=374 --unset tokens
$ usage-worker dead-letters edit --reason invalid --rename input_token=input_tokens --dry-run
$ usage-worker dead-letters edit --reason invalid --rename input_token=input_tokens
$ usage-worker dead-letters replay --reason invalid

\b
Exit status: 0 all are mended, or need no change; 3 some of many are left as they
were; 1 the one letter is; 2 wrong usage.
"""


class EditCommand(click.Command):
    """Remembers in which order changes were given: click itself keeps it within one option only."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Note the order, then parse as ever."""
        if not ctx.resilient_parsing:
            _, _, order = self.make_parser(ctx).parse_args(args=list(args))
            ctx.meta[_ORDER] = [param.name for param in order if param.name in VERBS]
        return super().parse_args(ctx, args)


@click.command("edit", cls=EditCommand, epilog=EXAMPLE)
@click.argument("some_id", metavar="[ID]", type=click.UUID, required=False)
@click.option(
    "--set", multiple=True, metavar="PATH=VALUE", help="Set a value: JSON where it is JSON, else a text; repeatable."
)
@click.option("--unset", multiple=True, metavar="PATH", help="Remove what is at a path; repeatable.")
@click.option("--rename", multiple=True, metavar="OLD=NEW", help="Give the value at a path another name; repeatable.")
@click.option("--body-file", type=click.Path(dir_okay=False, allow_dash=True), help="Replace the body of ID by a file.")
@click.option("--force", is_flag=True, help="Save also what would still be refused.")
@click.option("--dry-run", is_flag=True, help="Show what would change; change nothing.")
@filter_options
@who_option
@yes_option
@redact_option
@json_option
@click.pass_context
def command(  # noqa: PLR0913 - click hands over one argument for each option
    ctx: click.Context,
    /,
    *,
    some_id: UUID | None,
    body_file: str | None,
    chosen: "Filter",
    who: str,
    yes: bool,
    force: bool,
    dry_run: bool,
    redact: bool | None,
    as_json: bool,
    **changes: tuple[str, ...],
) -> int:
    r"""Change the letter with this ID, or of the event with this ID; or every open letter that the options choose.

    With ID alone, $VISUAL or $EDITOR opens. A PATH is keys joined by dots, such as data.model, a dot in a key as \.;
    in an array it begins with an index, or * for each element: 0.model, *.model. Changes are made in the order given;
    a path to unset or rename that a letter does not have leaves it as it is.

    The original body stays, and so does each byte that is not touched: the result is kept beside it, what differs in
    the history. An edit of an edited letter goes on from there. Ids of events stay, and a CloudEvent's source. The
    worker's own rules judge the result: what they would still refuse is shown, and saved with --force only.
    """
    from worker.commands.dead_letters.editing import Request, edit_many, edit_one

    edits = _edits(ctx.meta[_ORDER], changes)
    _check(some_id, chosen, edits, body_file)
    request = Request(tuple(edits), who=who, is_forced=force, is_dry_run=dry_run, redact=redact, as_json=as_json)
    if some_id is None:
        return edit_many(chosen, request, yes=yes)
    return edit_one(some_id, request, body_file)


def _edits(order: list[str], changes: dict[str, tuple[str, ...]]) -> "list[Edit]":
    from worker.dead_letters.json_edit import EditError, parse_rename, parse_set, parse_unset

    parsers = {"set": parse_set, "unset": parse_unset, "rename": parse_rename}
    left = {verb: iter(changes[verb]) for verb in VERBS}
    edits = []
    for verb in order:
        text = next(left[verb])
        try:
            edits.append(parsers[verb](text))
        except EditError as error:
            raise click.BadParameter(str(error), param_hint=f"--{verb}") from error
        except UnicodeEncodeError as error:
            raise click.BadParameter(f"{text!r} is not UTF-8", param_hint=f"--{verb}") from error
    return edits


def _check(some_id: UUID | None, chosen: "Filter", edits: "list[Edit]", body_file: str | None) -> None:
    from worker.postgres.dead_letters.table import Filter, Status

    any_way: Any = "--set, --unset or --rename"
    if edits and body_file is not None:
        raise click.UsageError(f"--body-file replaces the whole body: leave out {any_way}")
    if some_id is None and not edits:
        raise click.UsageError(f"name the ID of a letter to open it in an editor, or say by {any_way} what to change")
    if some_id is not None and chosen != Filter():
        raise click.UsageError("ID names one letter: leave out the options that choose letters")
    if chosen.status is not Status.OPEN:
        raise click.UsageError(
            "open letters alone can be edited: leave out --status; a discarded letter must be reopened first"
        )
