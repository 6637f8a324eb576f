"""`dead-letters try` and `replay` from outside: what they say, their exit status, and that dying harms nothing."""

import asyncio
import json
import os
import random
import signal
from typing import Any
from uuid import UUID, uuid4

import pytest
from harness import System, event, message, raw
from harness.worker import COMMAND


class Command:
    """A `dead-letters` command as a process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, system: System, *arguments: str) -> "Command":
        """Start it; standard input is no terminal."""
        process = await asyncio.create_subprocess_exec(
            COMMAND,
            "dead-letters",
            *arguments,
            env=os.environ | system.environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        return cls(process)

    async def end(self) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        output, errors = await asyncio.wait_for(self.process.communicate(), 60)
        assert self.process.returncode is not None
        return self.process.returncode, output.decode(), errors.decode()


async def run(system: System, *arguments: str) -> tuple[int, str, str]:
    """Run a command to its end."""
    return await (await Command.start(system, *arguments)).end()


async def refuse(system: System, count: int) -> list[dict[str, Any]]:
    """So many events of a user that does not exist become letters; a worker that does not heal stays up."""
    user = str(uuid4())
    bodies = [event(user_id=user) for _ in range(count)]
    await system.start_worker(USAGE_SELF_HEAL="false")
    for start in range(0, count, 500):
        await system.publish(message(*bodies[start : start + 500]))

    async def refused() -> bool:
        return bool(await system.value("SELECT count(*) FROM ai_usage_dead_letters") == count)

    await system.until(refused, "all are refused")
    return bodies


async def come_late(system: System, bodies: list[dict[str, Any]]) -> None:
    """The user of these events comes to be."""
    await system.database.execute("INSERT INTO users VALUES ($1)", UUID(bodies[0]["user_id"]))


async def statuses(system: System) -> dict[str, int]:
    """How many letters there are, by status."""
    rows = await system.database.fetch("SELECT status, count(*) AS letters FROM ai_usage_dead_letters GROUP BY status")
    return {row["status"]: row["letters"] for row in rows}


async def test_a_session_of_an_operator(system: System) -> None:
    """Try says what replay will do; replay does it, exits 3 for what stays, and says how to go on."""
    bodies = await refuse(system, 30)
    await system.publish(raw(b"{"))
    await system.until(lambda: _count(system, 31), "the broken one is refused")
    await come_late(system, bodies)
    status, output, _ = await run(system, "try")
    assert status == 0
    assert "tried 31 letters: 30 would be recovered, 1 refused; nothing was changed" in output
    assert await statuses(system) == {"open": 31}
    status, output, _ = await run(system, "replay", "--yes")
    assert status == 3
    assert "carried 31 letters: 30 recovered, 1 refused" in output
    assert "bad_json" in output
    assert await statuses(system) == {"open": 1, "recovered": 30}
    assert await system.stored() == 30
    status, output, _ = await run(system, "replay", "--reason", "unknown_user", "--yes")
    assert (status, output) == (0, "carried 0 letters: 0 recovered, 0 refused\n")
    who = await system.value("SELECT DISTINCT who FROM ai_usage_dead_letter_actions")
    assert "@" in who
    await system.settle()
    (await system.books()).check()


async def _count(system: System, letters: int) -> bool:
    return bool(await system.value("SELECT count(*) FROM ai_usage_dead_letters") == letters)


async def test_answers_as_json(system: System) -> None:
    """One object a line: a line a group, then the totals; nothing else on standard output."""
    bodies = await refuse(system, 3)
    await come_late(system, bodies)
    status, output, _ = await run(system, "replay", "--yes", "--json", "--who", "ada", "--max", "2")
    group, totals = map(json.loads, output.splitlines())
    assert status == 0
    assert (group["reason"], group["answer"], group["letters"]) == ("unknown_user", "stored", 2)
    assert totals == {
        "ending": "max", "carried": 2, "recovered": 2, "refused": 0, "busy": 0, "bodies_given_up": 0, "left_out": [],
        "refused_in_arrays": 0,
    }  # fmt: skip
    assert await system.value("SELECT DISTINCT who FROM ai_usage_dead_letter_actions") == "ada"


async def test_nobody_to_ask(system: System) -> None:
    """Without a terminal and without --yes nothing is replayed: exit 2, and how many it would have been."""
    bodies = await refuse(system, 3)
    await come_late(system, bodies)
    status, _, errors = await run(system, "replay")
    assert status == 2
    assert "3 letters" in errors
    assert "--yes" in errors
    assert await statuses(system) == {"open": 3}


async def test_a_wrong_guess_costs_little(system: System) -> None:
    """Where too many are refused again it ends after the first sets, and exits 3."""
    await refuse(system, 600)
    status, output, _ = await run(system, "replay", "--yes", "--abort-if-failing", "50")
    assert status == 3
    assert "carried 11 letters: 0 recovered, 11 refused\nended early" in output


async def test_a_database_that_cannot_go_on(system: System) -> None:
    """Where the system fails it exits 1 with the cause and what is done so far; no letter is changed by the rest."""
    bodies = await refuse(system, 50)
    await come_late(system, bodies)
    await system.database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF (SELECT count(*) FROM ai_usage_logs) > 5 THEN RAISE disk_full USING MESSAGE = 'no space left'; END IF;"
        " RETURN NULL; END $$"
    )
    await system.database.execute(
        "CREATE TRIGGER refuse AFTER INSERT ON ai_usage_logs FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
    )
    status, output, errors = await run(system, "replay", "--yes", "--limit", "12", "--json")
    assert status == 1
    assert "no space left" in errors
    totals = json.loads(output.splitlines()[-1])
    assert (totals["ending"], totals["carried"]) == ("failed", 1)
    assert await statuses(system) == {"open": 49, "recovered": 1}


async def test_interrupted_it_ends_in_order(system: System) -> None:
    """Ctrl-C ends it after the transaction under way: exit 3, the sum is told, the next run does the rest."""
    bodies = await refuse(system, 500)
    await come_late(system, bodies)
    command = await Command.start(system, "replay", "--yes", "--rate", "20")
    await system.until_stored(11)
    command.process.send_signal(signal.SIGINT)
    status, output, _ = await command.end()
    assert status == 3
    assert "stopped: nothing is half done; run this again to go on" in output
    done = await system.stored()
    assert 11 <= done < 500
    assert await statuses(system) == {"open": 500 - done, "recovered": done}
    assert (await run(system, "replay", "--yes"))[0] == 0
    assert await system.stored() == 500


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
async def test_killed_at_random_instants(system: System, kills: int) -> None:
    """Replays that are killed, while a worker stores new events and some of the letters': each once, nothing lost."""
    bodies = await refuse(system, 1000 + kills * 400)
    await come_late(system, bodies)
    chance = random.Random(kills)
    for _ in range(kills):
        before = await system.stored()
        command = await Command.start(system, "replay", "--yes", "--rate", "400")
        again = [message(body) for body in chance.sample(bodies, 20)]
        await system.publish(*again, *(message(event()) for _ in range(20)))
        await system.until_stored(before + chance.randrange(1, 150))
        await asyncio.sleep(chance.uniform(0, 0.3))  # anywhere in a transaction, or between two
        command.process.kill()
        assert (await command.end())[0] == -signal.SIGKILL
        assert await _each_once(system)
    status, output, errors = await run(system, "replay", "--yes")
    assert status == 0, output + errors
    assert await statuses(system) == {"recovered": len(bodies)}
    await system.settle()
    assert await system.stored() == len(bodies) + kills * 20
    (await system.books()).check()


async def _each_once(system: System) -> bool:
    """Every letter that is recovered has its event stored, and one line in the history; no other has one."""
    return not await system.value(
        """
        SELECT count(*) FROM ai_usage_dead_letters l
        WHERE (l.status = 'recovered') <> (
            SELECT count(*) = 1 FROM ai_usage_dead_letter_actions a WHERE a.letter_id = l.id
        ) OR (l.status = 'recovered' AND NOT EXISTS (SELECT FROM ai_usage_logs e WHERE e.id = l.event_id))
        """
    )


async def test_two_operators_share_the_work(system: System) -> None:
    """Two replays of one filter at once: every letter is carried by one of them, and both carry some."""
    bodies = await refuse(system, 6000)
    await come_late(system, bodies)
    commands = [
        await Command.start(system, "replay", "--yes", "--json", "--rate", "1500", "--who", who)
        for who in ("ada", "bob")
    ]
    totals = []
    for command in commands:
        status, output, errors = await command.end()
        assert status in (0, 3), errors  # 3: what the other had locked in the end was left to it
        totals.append(json.loads(output.splitlines()[-1]))
    assert sum(total["recovered"] for total in totals) == 6000
    assert all(total["recovered"] for total in totals)
    assert await statuses(system) == {"recovered": 6000}
    assert await system.value("SELECT count(*) FROM ai_usage_dead_letter_actions") == 6000
    assert await system.stored() == 6000
