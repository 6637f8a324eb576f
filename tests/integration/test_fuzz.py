"""Damaged messages through decode and merge into a real database: the short form of `make fuzz`."""

from pathlib import Path
from typing import Any

import pytest
from chaos.fuzz.check import WrongError
from chaos.fuzz.inputs import read
from chaos.fuzz.run import FoundError, Options, fuzz, play_again
from usage_events.contract import Reason

from worker.dead_letters.letters import letters_of_rejects

pytestmark = pytest.mark.timeout(300)  # seconds of work, on a machine that may be busy

INPUTS = 20_000
SEED = "short"


async def test_damaged_messages_end_once_as_the_contract_says(migrated_dsn: str, tmp_path: Path) -> None:
    """No error but the known ones, rows and letters to the letter; and every reason but the broker's comes up."""
    summary = await fuzz(Options(SEED, INPUTS, migrated_dsn, tmp_path, is_quiet=True))
    assert summary.inputs == INPUTS
    assert summary.events == summary.stored + summary.duplicates + summary.letters.total()
    assert summary.stored > INPUTS / 10
    assert summary.duplicates > INPUTS / 100
    assert summary.letters.keys() == {reason.value for reason in Reason} - {Reason.DELIVERY_LIMIT.value}


async def test_a_letter_that_is_lost_is_noticed(
    migrated_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that forgets the letter of the last reject is found out, with one input that shows it again."""

    def all_but_the_last(batch: Any) -> Any:
        return letters_of_rejects(batch)[:-1]

    monkeypatch.setattr("worker.postgres.store.letters_of_rejects", all_but_the_last)
    with pytest.raises(FoundError, match="play again"):
        await fuzz(Options(SEED, INPUTS, migrated_dsn, tmp_path, is_quiet=True))
    (path,) = tmp_path.iterdir()  # noqa: ASYNC240 - a folder of one file
    setting, inputs = read(path)
    assert len(inputs) == 1
    with pytest.raises(WrongError):
        await play_again(setting, inputs, migrated_dsn)
    monkeypatch.undo()
    await play_again(setting, inputs, migrated_dsn)
