"""The options of `dead-letters edit`, and the editor: what is wrong usage, in what order changes are made."""

import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import click
import pytest
from click.testing import CliRunner
from usage_events.json_text import NotJsonError

from worker.commands.dead_letters import command as group
from worker.commands.dead_letters import editing
from worker.commands.dead_letters.edit import command
from worker.commands.dead_letters.editor import editor_file, type_body
from worker.commands.options import default_who
from worker.dead_letters.json_edit import Verb
from worker.dead_letters.mending import Mended, Outcome
from worker.errors import UsageWorkerError
from worker.postgres.dead_letters.table import Filter

ID = UUID("0190a1b2-7c11-7d3e-8f00-5d6a3f0b9c2e")


def test_changes_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes of different kinds are made in the order in which they stand on the command line."""
    asked: list[editing.Request] = []

    def edit_many(chosen: Filter, request: editing.Request, *, yes: bool) -> int:
        assert (chosen, yes) == (Filter(), True)
        asked.append(request)
        return 3

    monkeypatch.setattr(editing, "edit_many", edit_many)
    arguments = ["--rename", "a=b", "--set=b=1", "--unset", "c", "--yes", "--rename", "d=e", "--set", "f=x"]
    done = CliRunner().invoke(command, arguments, standalone_mode=False)
    assert done.return_value == 3
    assert [(edit.verb, edit.path, edit.text) for edit in asked[0].edits] == [
        (Verb.RENAME, ("a",), b'"b"'),
        (Verb.SET, ("b",), b"1"),
        (Verb.UNSET, ("c",), b""),
        (Verb.RENAME, ("d",), b'"e"'),
        (Verb.SET, ("f",), b'"x"'),
    ]
    assert asked[0].who == default_who()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name the ID of a letter to open it in an editor"),
        (["--body-file", "x"], "name the ID of a letter"),
        ([str(ID), "--set", "a=1", "--body-file", "x"], "--body-file replaces the whole body"),
        ([str(ID), "--reason", "invalid"], "ID names one letter"),
        (["--set", "a=1", "--status", "any"], "open letters alone can be edited"),
        (["--set", "a"], "'a' has no =: write path=value"),
        (["--unset", "a..b"], "'a..b' has an empty step"),
        (["--rename", "a.b=c.d"], "would move a value"),
        (["--set", "a=\udcff"], "is not UTF-8"),
        (["nonsense", "--set", "a=1"], "'nonsense' is not a valid UUID"),
    ],
)
def test_wrong_usage(arguments: Sequence[str], said: str) -> None:
    """Each ends with 2 before anything is read, and says what is wrong."""
    done = CliRunner().invoke(group, ["edit", *arguments])
    assert done.exit_code == 2
    assert said in done.output.replace("\n", " ")


# The editor.


def use(monkeypatch: pytest.MonkeyPatch, folder: Path, *scripts: str) -> Path:
    """An editor that runs these, one each time it is opened, on the file as `$1`; the folder for its files."""
    lines = ["#!/bin/sh", f"echo >> {folder}/opened", f"case $(wc -l < {folder}/opened) in"]
    lines += [f"{number}) {script};;" for number, script in enumerate(scripts, 1)]
    path = folder / "an editor"
    path.write_text("\n".join([*lines, "esac"]), encoding="utf-8")
    path.chmod(0o755)
    monkeypatch.setenv("VISUAL", f"'{path}'")
    (folder / "files").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "files"))
    return folder / "files"


def judge_not_refused(typed: bytes) -> Mended:
    """Whatever holds `bad` is refused."""
    outcome = Outcome.REFUSED if b"bad" in typed else Outcome.EDITED
    return Mended(outcome, b"", typed)


def answer(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """A terminal on which these are answered; what was asked."""
    asked: list[str] = []
    left = iter(answers)

    def prompt(text: str, **_: object) -> str:
        asked.append(text)
        return next(left)

    monkeypatch.setattr(click, "prompt", prompt)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    return asked


def test_an_editor_that_is_closed_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The very body comes back; the file, which nobody else could read, is gone."""
    files = use(monkeypatch, tmp_path, f'stat -c %a "$1" > {tmp_path}/mode; echo >> "$1"')
    body = b'{"a" :1.10,"b":2}'
    with editor_file(ID, body) as file:
        assert type_body(file, judge_not_refused, print) == (body, False)
    assert (tmp_path / "mode").read_text(encoding="utf-8") == "600\n"
    assert list(files.iterdir()) == []


def test_typed_again_until_it_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is no JSON, or refused, is shown and opened again as it was typed."""
    use(
        monkeypatch,
        tmp_path,
        """sed -i 's/}//' "$1" """,
        """printf '"b": "bad"}' >> "$1"; sed -i 's/1.10/1.10,/' "$1" """,
        """sed -i s/bad/good/ "$1" """,
    )
    asked = answer(monkeypatch, "e", "e")
    shown: list[Mended] = []
    with editor_file(ID, b'{"a" :1.10}') as file:
        assert type_body(file, judge_not_refused, shown.append) == (b'{"a" :1.10, "b": "good"}', False)
        file.is_saved = True
    assert asked == [
        "What now (e: edit again, g: give up)",
        "What now (e: edit again, s: save anyway, g: give up)",
    ]
    assert [mended.outcome for mended in shown] == [Outcome.REFUSED]


def test_saved_anyway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a terminal the operator may insist."""
    use(monkeypatch, tmp_path, """sed -i s/1.10/bad/ "$1" """)
    answer(monkeypatch, "s")
    with editor_file(ID, b'"1.10"') as file:
        assert type_body(file, judge_not_refused, lambda _: None) == (b'"bad"', True)


def test_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was typed stays in a file that is named; so it does without a terminal."""
    files = use(monkeypatch, tmp_path, 'echo typed > "$1"', 'echo again > "$1"')
    answer(monkeypatch, "g")
    with pytest.raises(click.Abort), editor_file(ID, b"{}") as file:
        type_body(file, judge_not_refused, print)
    assert file.path.read_text(encoding="utf-8") == "typed\n"
    assert f"--body-file {file.path}" in capsys.readouterr().err
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(UsageWorkerError, match="nothing is saved"), editor_file(ID, b"{}") as second:
        type_body(second, judge_not_refused, print)
    assert sorted(files.iterdir()) == sorted([file.path, second.path])


@pytest.mark.parametrize(
    ("value", "said"),
    [("/nowhere/editor", "cannot be run"), ("'unbalanced", "cannot be run"), ("false", "ended with status 1")],
)
def test_an_editor_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: str, said: str) -> None:
    """It is named, nothing is saved, no file stays."""
    files = use(monkeypatch, tmp_path)
    monkeypatch.setenv("VISUAL", value)
    with pytest.raises(UsageWorkerError, match=said) as caught, editor_file(ID, b"{}") as file:
        type_body(file, judge_not_refused, print)
    assert repr(value) in str(caught.value)
    assert list(files.iterdir()) == []


def test_a_body_that_is_no_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is shown as it is; where it becomes no JSON either, only the newline that editors add is taken away."""
    use(monkeypatch, tmp_path, """sed -i 's/^{/{}/' "$1"; echo >> "$1" """, """echo x > "$1" """)
    with editor_file(ID, b"{") as file:
        assert type_body(file, judge_not_refused, print) == (b"{}", False)
        file.is_saved = True
    with editor_file(ID, b"{\n") as file:
        assert type_body(file, judge_not_refused, print) == (b"x\n", False)
        file.is_saved = True


def test_bytes_that_no_editor_could_show() -> None:
    """Where they are, and the way around."""
    with pytest.raises(UsageWorkerError, match=r"byte 0xff at byte 1.*--body-file"), editor_file(ID, b"{\xff"):
        raise AssertionError("it was opened")


def test_json_that_becomes_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file says so itself: its caller decides."""
    use(monkeypatch, tmp_path, """echo '{"a":' > "$1" """)
    with editor_file(ID, b"{}") as file:
        with pytest.raises(NotJsonError):
            file.edit()
        file.is_saved = True


def test_a_body_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--body-file -` takes bytes as they are."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\r\n")))
    assert editing._read_file("-") == b"\xff\r\n"
