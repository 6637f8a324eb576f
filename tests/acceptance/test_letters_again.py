"""A settled letter whose body is sent again, through the real queue: open again, unless its event is stored."""

from typing import Any
from uuid import UUID, uuid4

from harness import System, event, message
from operating import dead_letters


async def refuse(system: System, body: dict[str, Any], occurrences: int) -> None:
    """The body is published; the letter has then been seen so often."""
    await system.publish(message(body))

    async def seen() -> bool:
        return bool(await system.value("SELECT occurrences FROM ai_usage_dead_letters") == occurrences)

    await system.until(seen, "the letter counts the delivery")


async def test_a_discarded_letter_that_is_sent_again(system: System) -> None:
    """It is open again, its reason is today's, and its history says who discarded it and that it came again."""
    late = event(user_id=str(uuid4()), tokens_used=1, input_tokens=5, output_tokens=5)
    await system.start_worker(USAGE_SELF_HEAL="false")
    await refuse(system, late, 1)
    assert (await dead_letters(system, "discard", "--why", "known", "--yes")).status == 0
    assert await system.value("SELECT status FROM ai_usage_dead_letters") == "discarded"
    await refuse(system, late, 2)
    assert await system.value("SELECT status FROM ai_usage_dead_letters") == "open"
    actions = await system.database.fetch(
        "SELECT action, from_status, to_status FROM ai_usage_dead_letter_actions ORDER BY at"
    )
    assert [tuple(action) for action in actions] == [
        ("discard", "open", "discarded"),
        ("refused_again", "discarded", "open"),
    ]
    await system.settle()
    (await system.books()).check()


async def test_a_recovered_letter_that_is_sent_again(system: System) -> None:
    """While its event is stored it stays recovered, whatever the body's second delivery is refused for."""
    late = event(user_id=str(uuid4()))
    await system.start_worker(USAGE_SELF_HEAL="false")
    await refuse(system, late, 1)
    await system.database.execute("INSERT INTO users VALUES ($1)", UUID(late["user_id"]))
    assert (await dead_letters(system, "replay", "--yes")).status == 0
    await system.publish(message(late))  # taken, and known: it never gets near its letter
    await system.settle()
    assert await system.stored() == 1
    (letter,) = await system.database.fetch("SELECT status, occurrences FROM ai_usage_dead_letters")
    assert tuple(letter) == ("recovered", 1)
    (await system.books()).check()


async def test_a_recovered_letter_whose_event_is_gone(system: System) -> None:
    """Its row was removed with its user: the body that is refused anew opens its letter."""
    late = event(user_id=str(uuid4()))
    user = UUID(late["user_id"])
    await system.start_worker(USAGE_SELF_HEAL="false")
    await refuse(system, late, 1)
    await system.database.execute("INSERT INTO users VALUES ($1)", user)
    assert (await dead_letters(system, "replay", "--yes")).status == 0
    await system.database.execute("DELETE FROM users WHERE id = $1", user)
    assert await system.stored() == 0
    await refuse(system, late, 2)
    assert await system.value("SELECT status FROM ai_usage_dead_letters") == "open"
    await system.settle()
    (await system.books()).check()


async def test_an_edited_letter_that_is_sent_again_as_it_was(system: System) -> None:
    """The wrong body comes once more after its edited event was stored: it is counted, and stays recovered."""
    wrong = event(input_tokens="many")
    await system.start_worker(USAGE_SELF_HEAL="false")
    await refuse(system, wrong, 1)
    assert (await dead_letters(system, "edit", "--set", "input_tokens=7", "--reason", "invalid", "--yes")).status == 0
    assert (await dead_letters(system, "replay", "--yes")).status == 0
    assert await system.stored() == 1
    await refuse(system, wrong, 2)
    assert await system.value("SELECT status FROM ai_usage_dead_letters") == "recovered"
    assert await system.value("SELECT input_tokens FROM ai_usage_logs") == 7
