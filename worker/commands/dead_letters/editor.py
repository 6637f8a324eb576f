"""A body in the operator's editor: what was typed is saved, or kept in a file, and never lost."""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import click
from usage_events.json_text import NotJsonError

from worker.dead_letters.json_layout import in_layout_of, indented
from worker.dead_letters.mending import Mended, Outcome
from worker.errors import UsageWorkerError

DEFAULT_EDITOR = "vi"


class EditorFile:
    """The file that an editor opens; `is_saved` says that what was typed is safe elsewhere."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._shown = indented(body) or body
        descriptor, name = tempfile.mkstemp(prefix="dead-letter-", suffix=".json")  # for its owner's eyes only
        self.path = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self._shown)
        self.is_saved = False

    def edit(self) -> bytes:
        """Open the editor, wait until it is closed, and give the body that was typed.

        Raises:
            NotJsonError: the body was JSON, and this is not.
            UsageWorkerError: there is no such editor, or it failed.
        """
        _run_editor(self.path)
        typed = self.path.read_bytes()
        if _is_same(typed, self._shown):
            return self._body
        if indented(self._body) is None:
            return typed if self._body.endswith(b"\n") else typed.removesuffix(b"\n")  # editors add a last one
        return in_layout_of(self._body, typed)

    @property
    def is_touched(self) -> bool:
        """Whether anything was typed."""
        return not _is_same(self.path.read_bytes(), self._shown)


@contextmanager
def editor_file(letter_id: UUID, body: bytes) -> Iterator[EditorFile]:
    """Room for an editor. What was typed and is not saved at the end is kept, and its file named.

    Raises:
        UsageWorkerError: no editor can show this body.
    """
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise UsageWorkerError(
            f"letter {letter_id} is not UTF-8 (byte {body[error.start]:#04x} at byte {error.start}), and an editor"
            f" would spoil it: `dead-letters export --no-redact --id {letter_id} FILE` writes its bytes in base64;"
            f" mend them, then `dead-letters edit {letter_id} --body-file FILE`"
        ) from error
    file = EditorFile(body)
    try:
        yield file
    finally:
        if file.is_saved or not file.is_touched:
            file.path.unlink()
        else:
            again = f"usage-worker dead-letters edit {letter_id} --body-file {file.path}"
            click.echo(f"what you typed is in {file.path}; `{again}` takes it", err=True)


def type_body(file: EditorFile, judge: Callable[[bytes], Mended], show: Callable[[Mended], None]) -> tuple[bytes, bool]:
    """The body that the operator has typed, and whether it is to be saved although it is refused.

    Where it cannot be saved as it is, they are asked: edit again, save anyway, give up.

    Raises:
        UsageWorkerError: it is no JSON, and there is no terminal to ask on.
        click.Abort: they gave up.
    """
    while True:
        try:
            typed = file.edit()
        except NotJsonError as error:
            click.echo(f"this is not JSON: {error}", err=True)
            if not sys.stdin.isatty():
                raise UsageWorkerError(f"nothing is saved: what was typed is not JSON: {error}") from error
            _ask({"e": "edit again", "g": "give up"})
            continue
        mended = judge(typed)
        if mended.outcome in {Outcome.EDITED, Outcome.UNCHANGED} or not sys.stdin.isatty():
            return typed, False
        show(mended)
        choices = {"e": "edit again", "s": "save anyway", "g": "give up"}
        if mended.outcome is Outcome.IMPOSSIBLE:
            del choices["s"]
        if _ask(choices) == "s":
            return typed, True


def _ask(choices: dict[str, str]) -> str:
    listed = ", ".join(f"{letter}: {what}" for letter, what in choices.items())
    answer: str = click.prompt(f"What now ({listed})", type=click.Choice(list(choices)), default="e", err=True)
    if answer == "g":
        raise click.Abort
    return answer


def _is_same(typed: bytes, shown: bytes) -> bool:
    return typed.removesuffix(b"\n") == shown.removesuffix(b"\n")


def _run_editor(path: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or DEFAULT_EDITOR
    ways = "set VISUAL or EDITOR, or use --set, --unset, --rename or --body-file"
    # Ctrl-C is the editor's while it is open; a handler of Python's own is not inherited.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        done = subprocess.run([*shlex.split(editor), path], check=False)  # noqa: S603 - the operator's own
    except (OSError, ValueError) as error:
        raise UsageWorkerError(f"the editor {editor!r} cannot be run: {error}; {ways}") from error
    finally:
        signal.signal(signal.SIGINT, before)
    if done.returncode != 0:
        raise UsageWorkerError(f"the editor {editor!r} ended with status {done.returncode}: nothing is saved")
