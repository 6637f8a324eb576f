"""The command line in-process: what is listed, how errors end, what each help shows."""

import pkgutil
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

import worker.commands
from worker.cli import COMMANDS, cli, main
from worker.errors import ConfigurationError, UsageWorkerError

SHARED = {"options", "session"}  # by several commands
MODULES = sorted(
    module.name.replace("_", "-")
    for module in pkgutil.iter_modules(worker.commands.__path__)
    if module.name not in SHARED
)


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """A command that ends with this error."""

    @click.command("migrate")
    def command() -> None:
        raise error

    monkeypatch.setattr("worker.commands.migrate.command", command)


def test_every_command_is_listed() -> None:
    """The folder of commands and the list are the same: none is hidden, none is announced and missing."""
    assert sorted(COMMANDS) == MODULES


@pytest.mark.parametrize("name", MODULES)
def test_each_help_has_an_example(name: str) -> None:
    """Each help says what the command does and shows one that can be pasted."""
    shown = CliRunner().invoke(cli, [name, "--help"])
    assert shown.exit_code == 0
    assert "Example:" in shown.output
    assert f"$ usage-worker {name}" in shown.output


def test_the_list_shows_every_command() -> None:
    """`usage-worker -h` lists all with one line each."""
    shown = CliRunner().invoke(cli, ["-h"], terminal_width=110).output
    for name, line in COMMANDS.items():
        assert f"{name}" in shown
        assert line in shown


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ConfigurationError("USAGE_WRITERS='0': no"), 2, "usage-worker: USAGE_WRITERS='0': no\n"),
        (UsageWorkerError("the database is away"), 1, "usage-worker: the database is away\n"),
        (KeyboardInterrupt(), 1, "stopped\n"),
    ],
)
def test_how_an_error_ends(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    message: str,
) -> None:
    """The project's own errors are one line on standard error and a status, without a traceback."""
    raising(monkeypatch, error)
    assert main(["migrate"]) == status
    shown = capsys.readouterr()
    assert (shown.out, shown.err.lstrip()) == ("", message)


def test_a_bug_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody expected comes out as it is, with its traceback."""
    raising(monkeypatch, ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        main(["migrate"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["migrate", "--nonsense"], "No such option"),
        (["migrate", "surplus"], "Got unexpected extra argument (surplus)"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    """Wrong usage is named on standard error and ends with status 2."""
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""


def test_a_command_gives_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command returns is the exit status: 3 says that it did only a part."""

    @click.command("migrate")
    def command() -> int:
        return 3

    monkeypatch.setattr("worker.commands.migrate.command", command)
    assert main(["migrate"]) == 3


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` names the program and its version, and is a success."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("usage-worker, version ")


def test_python_m_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m worker` leaves with the command's status."""
    from worker.__main__ import main as leave

    monkeypatch.setattr(sys, "argv", ["usage-worker", "nonsense"])
    with pytest.raises(SystemExit) as caught:
        leave()
    assert caught.value.code == 2


_SIGNAL_IN_A_LIBRARY = """
from worker.commands.run import _leave
try:
    _leave(15, None)
except BaseException as error:
    raise RuntimeError("a library's own") from error
"""


def test_a_signal_while_the_worker_is_imported_is_a_clean_stop_whatever_runs_then() -> None:
    """A library that makes an error of its own of whatever it meets does not turn the stop into a failure."""
    done = subprocess.run([sys.executable, "-c", _SIGNAL_IN_A_LIBRARY], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
