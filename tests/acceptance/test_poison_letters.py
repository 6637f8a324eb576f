"""A letter that kills the command that replays it: marked before, left out the next time, and mended by an edit."""

from pathlib import Path

import pytest
from harness import Message, System, event, message
from operating import dead_letters
from supervision import KILLED, MARK, return_too_often, use_crashing_worker


async def refuse_by_the_broker(system: System, *messages: Message) -> None:
    """These are handed out too often, and a worker writes them to the dead letters."""
    await system.publish(*messages)
    await return_too_often(system, len(messages))
    await system.start_worker()

    async def all_there() -> bool:
        return bool(await system.value("SELECT count(*) FROM ai_usage_dead_letters") == len(messages))

    await system.until(all_there, "all are letters")


async def test_a_letter_that_kills_its_replay(system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The replay dies of it once; the next carries the others and says which it has left out; --id dares it again."""
    use_crashing_worker(tmp_path, monkeypatch)
    poison = message(event(model=MARK.decode()))
    others = [message(event(), event()) for _ in range(3)]
    await refuse_by_the_broker(system, poison, *others)
    letter_id = str(
        await system.value("SELECT id FROM ai_usage_dead_letters WHERE position($1::bytea IN body) > 0", MARK)
    )

    async def marks() -> int:
        return int(
            await system.value(
                "SELECT count(*) FROM ai_usage_dead_letter_actions WHERE letter_id = $1 AND action = 'replay_begun'",
                letter_id,
            )
        )

    assert (await dead_letters(system, "replay", "--yes")).status == KILLED
    assert await marks() == 1
    again = await dead_letters(system, "replay", "--yes")
    assert again.status == 3, again.errors
    assert f"1 left out, since a replay ended in the middle of each; to carry them: --id {letter_id}" in again.output
    assert await marks() == 1
    assert await system.value("SELECT count(*) FROM ai_usage_dead_letters WHERE status = 'open'") == 1
    assert await system.stored() == 6
    assert (await dead_letters(system, "replay", "--yes", "--id", letter_id)).status == KILLED
    assert await marks() == 2
    edited = await dead_letters(system, "edit", letter_id, "--set", "model=mended")
    assert edited.status == 0, edited.errors
    done = await dead_letters(system, "replay", "--yes", "--id", letter_id)
    assert done.status == 0, done.errors
    assert await system.value("SELECT model FROM ai_usage_logs WHERE id = $1", poison.events[0]["id"]) == "mended"
    await system.settle()
    (await system.books()).check()
