"""Replaying: letters go through decoder and merge, and each is settled in the transaction that stores its event."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from batches import events, host, ids
from harness import event
from usage_events.contract import FieldError, Reason, Refusal
from usage_events.rules import Window

from worker.batch import Batch, Entry
from worker.decode import WHOLE_MESSAGE, Decoded, Reject, decode
from worker.delivery import Delivery
from worker.errors import SystemUnavailableError
from worker.postgres.dead_letters import table as letter_table
from worker.postgres.dead_letters.carrier import Carrier, Lot
from worker.postgres.dead_letters.carry import Answer, CarryOptions
from worker.postgres.dead_letters.replay import Replay, ReplayLimits
from worker.postgres.dead_letters.suspects import Suspects
from worker.postgres.dead_letters.table import Filter, Status
from worker.postgres.dead_letters.tally import Ending, Tally
from worker.postgres.store import PostgresStore
from worker.postgres.writer_session import WriterSession

DAY_SECONDS = 86_400
OPTIONS = CarryOptions("tester", max_age_seconds=35 * DAY_SECONDS, max_ahead_seconds=300)
POISON_CHECK = "ALTER TABLE ai_usage_logs ADD CONSTRAINT no_poison CHECK (model <> 'poison')"


class Desk:
    """A database with letters, and replays on it."""

    def __init__(self, dsn: str, database: asyncpg.Connection) -> None:
        self.dsn = dsn
        self.database = database

    async def refuse(self, *bodies: Mapping[str, Any] | bytes, seen_at: datetime | None = None) -> None:
        """The worker gets these, each in a message; what it refuses becomes a letter."""
        now = seen_at or datetime.now(UTC)
        window = Window.around(
            round(now.timestamp() * 1e6), max_age_seconds=OPTIONS.max_age_seconds, max_ahead_seconds=300
        )
        batch = Batch(0.0)
        for tag, body in enumerate(bodies):
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            batch.add(Entry(Delivery(tag, 1, raw), decode(raw, None, None, window)))
        await self._write(batch, now)

    async def refuse_whole(self, *bodies: bytes) -> None:
        """These come from the dead queue, undecoded."""
        batch = Batch(0.0)
        for tag, body in enumerate(bodies):
            refusal = Refusal(Reason.DELIVERY_LIMIT, [FieldError(field="", message="too often", input=None)])
            batch.add(Entry(Delivery(tag, 1, body), Decoded([], range(0), [Reject(WHOLE_MESSAGE, body, refusal)])))
        await self._write(batch, datetime.now(UTC))

    async def _write(self, batch: Batch, now: datetime) -> None:
        store = PostgresStore(self.dsn, "public", worker="refuser", utcnow=lambda: now)
        try:
            await store.write(batch)
        finally:
            await store.close()

    async def replay(self, chosen: Filter | None = None, *, is_trial: bool = False, **limits: Any) -> Tally:
        """Run one to its end."""
        chosen = chosen or Filter()
        sessions = [WriterSession(self.dsn, "public", name="tests") for _ in range(2)]
        carrier = Carrier(sessions[0], replace(OPTIONS, chosen=chosen), is_trial=is_trial)
        try:
            suspects = Suspects(sessions[1], who="tester", chosen=chosen)
            return await Replay(carrier, suspects, chosen, ReplayLimits(**limits)).run()
        finally:
            for session in sessions:
                await session.close()

    async def stored(self) -> set[UUID]:
        """The ids of all rows."""
        return {UUID(bytes=row["id"].bytes) for row in await self.database.fetch("SELECT id FROM ai_usage_logs")}

    async def letters(self) -> list[tuple[str, str]]:
        """Reason and status of all letters, sorted."""
        rows = await self.database.fetch("SELECT reason, status FROM ai_usage_dead_letters")
        return sorted((row["reason"], row["status"]) for row in rows)

    async def actions(self) -> list[dict[str, Any]]:
        """The history, oldest first."""
        return [
            dict(row) for row in await self.database.fetch("SELECT * FROM ai_usage_dead_letter_actions ORDER BY at")
        ]

    async def everything(self) -> dict[str, Any]:
        """The content of all tables and the state of all sequences."""
        tables = await self.database.fetch(
            "SELECT c.oid::regclass::text AS name FROM pg_class c"
            " WHERE c.relkind IN ('r', 'S') AND c.relnamespace = 'public'::regnamespace"
        )
        return {
            row["name"]: sorted(map(repr, await self.database.fetch(f"SELECT * FROM {row['name']}"))) for row in tables
        }


@pytest.fixture
async def desk(migrated_dsn: str) -> AsyncIterator[Desk]:
    """A database with a user and an organization, and no letter yet."""
    async with host(migrated_dsn) as database:
        yield Desk(migrated_dsn, database)


def answers(tally: Tally) -> dict[tuple[str, str, str | None], int]:
    """How many letters got which answer: reason, answer, new reason."""
    return {
        (group.reason.value, group.answer.value, group.to_reason and group.to_reason.value): sample.letters
        for group, sample in tally.groups.items()
    }


async def late_user(desk: Desk, bodies: Sequence[Mapping[str, Any]]) -> None:
    """The user of these events comes to be."""
    await desk.database.execute("INSERT INTO users VALUES ($1)", UUID(bodies[0]["user_id"]))


async def test_letters_come_home(desk: Desk) -> None:
    """Letters whose user exists by now are stored and recovered; each has one line of history, with the filter."""
    bodies = events(1200, user_id=str(uuid4()))
    await desk.refuse(*bodies)
    assert await desk.stored() == set()
    await late_user(desk, bodies)
    tally = await desk.replay(Filter(reason=Reason.UNKNOWN_USER))
    assert answers(tally) == {("unknown_user", "stored", None): 1200}
    assert (tally.ending, tally.is_whole) == (Ending.DONE, True)
    assert await desk.stored() == ids(bodies)
    assert set(await desk.letters()) == {("unknown_user", "recovered")}
    actions = await desk.actions()
    assert len({action["letter_id"] for action in actions}) == len(actions) == 1200
    assert {(action["who"], action["action"], action["from_status"], action["to_status"]) for action in actions} == {
        ("tester", "replay", "open", "recovered")
    }
    assert json.loads(actions[0]["filter"]) == {"reason": "unknown_user", "status": "open"}


async def test_a_trial_changes_nothing(desk: Desk) -> None:
    """A trial answers what a replay would, and leaves every table and every sequence as it was."""
    bodies = events(30, user_id=str(uuid4()))
    unknown = event(organization_id=str(uuid4()))
    await desk.refuse(*bodies, unknown, b"{", json.dumps(events(1)).encode())
    await desk.refuse_whole(json.dumps([event(), event(input_tokens=-1)]).encode())
    await late_user(desk, bodies)
    before = await desk.everything()
    tried = await desk.replay(is_trial=True)
    assert await desk.everything() == before
    assert answers(tried) == {
        ("unknown_user", "stored", None): 30,
        ("unknown_organization", "same reason", "unknown_organization"): 1,
        ("bad_json", "same reason", "bad_json"): 1,
        ("delivery_limit", "stored", None): 1,
    }
    assert answers(await desk.replay()) == answers(tried)


async def test_a_trial_hears_deferred_constraints(desk: Desk) -> None:
    """A host's rule that speaks at the commit is part of the answer of a trial, which has none."""
    await desk.database.execute(
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no poison'; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON ai_usage_logs DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (NEW.model = 'poison') EXECUTE FUNCTION refuse()
        """
    )
    bodies = [*events(3, user_id=str(uuid4())), event(model="poison")]
    bodies[3]["user_id"] = bodies[0]["user_id"]
    await desk.refuse(*bodies)
    await late_user(desk, bodies)
    before = await desk.everything()
    tally = await desk.replay(is_trial=True)
    assert answers(tally) == {
        ("unknown_user", "stored", None): 3,
        ("unknown_user", "other reason", "rejected_by_database"): 1,
    }
    assert await desk.everything() == before


async def test_what_is_known_already_is_a_duplicate(desk: Desk) -> None:
    """A letter whose event is stored meanwhile, and a second letter of one event, are recovered as duplicates."""
    user = str(uuid4())
    sent_again, twice = event(user_id=user), event(user_id=user)
    spaced = json.dumps(twice, indent=1).encode()
    await desk.refuse(sent_again, twice, spaced)
    await late_user(desk, [twice])
    await desk.refuse(sent_again)
    tally = await desk.replay()
    assert answers(tally) == {("unknown_user", "stored", None): 1, ("unknown_user", "duplicate", None): 2}
    assert await desk.stored() == ids([sent_again, twice])


async def test_a_conflict_of_ids_stays(desk: Desk) -> None:
    """The id of another content that is stored: the letter stays open, whatever is replayed, and the row as it is."""
    first = event()
    await desk.refuse(first, first | {"input_tokens": 7})
    tally = await desk.replay()
    assert answers(tally) == {("id_conflict", "same reason", "id_conflict"): 1}
    assert not tally.is_whole
    assert await desk.letters() == [("id_conflict", "open")]
    assert [(each["from_reason"], each["to_reason"]) for each in await desk.actions()] == [("id_conflict",) * 2]
    assert await desk.database.fetchval("SELECT input_tokens FROM ai_usage_logs") == first["input_tokens"]


async def test_another_reason_is_recorded(desk: Desk) -> None:
    """What fails for something else now stays open with its new reason and errors; the history has the old one."""
    body = event(user_id=str(uuid4()), organization_id=str(uuid4()))
    await desk.refuse(body)
    await late_user(desk, [body])
    tally = await desk.replay()
    assert answers(tally) == {("unknown_user", "other reason", "unknown_organization"): 1}
    assert await desk.letters() == [("unknown_organization", "open")]
    (action,) = await desk.actions()
    assert (action["from_reason"], action["to_reason"]) == ("unknown_user", "unknown_organization")
    errors = json.loads(await desk.database.fetchval("SELECT errors FROM ai_usage_dead_letters"))
    assert errors[0]["field"] == "organization_id"


async def test_the_edited_body_is_taken(desk: Desk) -> None:
    """A letter that was mended is stored as it was mended; the body as it came stays."""
    wrong = event(input_token=1)
    mended = {name: value for name, value in wrong.items() if name != "input_token"} | {"input_tokens": 11}
    await desk.refuse(wrong)
    await desk.database.execute("UPDATE ai_usage_dead_letters SET edited_body = $1", json.dumps(mended).encode())
    assert answers(await desk.replay()) == {("invalid", "stored", None): 1}
    assert await desk.database.fetchval("SELECT input_tokens FROM ai_usage_logs") == 11
    assert await desk.database.fetchval("SELECT body FROM ai_usage_dead_letters") == json.dumps(wrong).encode()


async def test_an_old_letter_is_judged_when_it_was_seen(desk: Desk) -> None:
    """An event that was young enough when its letter was written is stored a hundred days later, an older one not."""
    seen_at = datetime.now(UTC) - timedelta(days=100)
    young = event(user_id=str(uuid4()), created_at=(seen_at - timedelta(days=34)).isoformat())
    old = event(user_id=young["user_id"], created_at=(seen_at - timedelta(days=36)).isoformat())
    await desk.refuse(young, old, seen_at=seen_at)
    await late_user(desk, [young])
    tally = await desk.replay()
    assert answers(tally) == {("unknown_user", "stored", None): 1, ("too_old", "same reason", "too_old"): 1}
    assert await desk.stored() == ids([young])


async def test_a_settled_letter_that_comes_again(desk: Desk) -> None:
    """A body that is sent again opens its settled letter, unless its event is stored."""
    lost, home = event(user_id=str(uuid4())), event(user_id=str(uuid4()))
    await desk.refuse(lost, home)
    await late_user(desk, [home])
    await desk.replay()
    await desk.database.execute("UPDATE ai_usage_dead_letters SET status = 'discarded' WHERE status = 'open'")
    await desk.database.execute("DELETE FROM users WHERE id <> $1 AND id <> $2", UUID(home["user_id"]), UUID(int=0))
    await desk.refuse(lost, home)
    rows = await desk.database.fetch("SELECT event_id, status, occurrences FROM ai_usage_dead_letters")
    assert {(str(row["event_id"]), row["status"], row["occurrences"]) for row in rows} == {
        (lost["id"], "open", 2),
        (home["id"], "recovered", 1),
    }


async def test_a_whole_message_comes_apart(desk: Desk) -> None:
    """Of an array its good events are stored, its known one is a duplicate, each bad one gets a letter of its own."""
    known, good, bad, late = event(), event(), event(input_tokens=-1), event(user_id=str(uuid4()))
    await desk.refuse(known)
    await desk.refuse_whole(json.dumps([known, good, bad, late]).encode())
    first_seen = await desk.database.fetchval("SELECT first_seen FROM ai_usage_dead_letters")
    assert answers(await desk.replay()) == {("delivery_limit", "stored", None): 1}
    assert await desk.stored() == ids([known, good])
    assert await desk.letters() == [("delivery_limit", "recovered"), ("invalid", "open"), ("unknown_user", "open")]
    rows = await desk.database.fetch("SELECT body, first_seen FROM ai_usage_dead_letters WHERE status = 'open'")
    assert {row["first_seen"] for row in rows} == {first_seen}
    assert sorted(json.loads(row["body"])["id"] for row in rows) == sorted([bad["id"], late["id"]])


async def test_a_letter_that_can_be_read_by_now_has_its_events_id(desk: Desk) -> None:
    """One event, handed out too often and never read: refused for its user, it is found by id and waits for it."""
    late = event(user_id=str(uuid4()))
    await desk.refuse_whole(json.dumps(late).encode())
    assert answers(await desk.replay()) == {("delivery_limit", "other reason", "unknown_user"): 1}
    (row,) = await desk.database.fetch("SELECT event_id, user_id, organization_id FROM ai_usage_dead_letters")
    assert [str(value) for value in row] == [late["id"], late["user_id"], late["organization_id"]]
    await late_user(desk, [late])
    assert answers(await desk.replay()) == {("unknown_user", "stored", None): 1}


async def test_a_row_that_the_database_refuses_is_set_aside(desk: Desk) -> None:
    """A host's constraint costs its own letters, of the others and of a whole message's other events none."""
    await desk.database.execute(POISON_CHECK)
    user = str(uuid4())
    bodies = [event(user_id=user, model="poison" if number % 40 == 7 else "good") for number in range(300)]
    array = [event(), event(model="poison")]
    await desk.refuse(*bodies)
    await desk.refuse_whole(json.dumps(array).encode())
    await late_user(desk, bodies)
    tally = await desk.replay()
    bad = [body for body in bodies if body["model"] == "poison"]
    assert answers(tally) == {
        ("unknown_user", "stored", None): 300 - len(bad),
        ("unknown_user", "other reason", "rejected_by_database"): len(bad),
        ("delivery_limit", "stored", None): 1,
    }
    assert await desk.stored() == ids(bodies) - ids(bad) | ids(array[:1])
    letters = await desk.letters()
    assert letters.count(("rejected_by_database", "open")) == len(bad) + 1
    assert letters.count(("unknown_user", "recovered")) == 300 - len(bad)


async def test_a_database_that_refuses_everything_blames_no_letter(desk: Desk) -> None:
    """Where a row that nothing is wrong with would fail too, the replay ends and no letter is changed."""
    await desk.refuse_whole(json.dumps(event()).encode())
    bodies = events(5, user_id=str(uuid4()))
    await desk.refuse(*bodies)
    await late_user(desk, bodies)
    await desk.database.execute("ALTER TABLE ai_usage_logs ADD CONSTRAINT closed CHECK (false)")
    with pytest.raises(SystemUnavailableError, match="refuses every row"):
        await desk.replay()
    assert set(await desk.letters()) == {("delivery_limit", "open"), ("unknown_user", "open")}
    assert await desk.actions() == []


async def test_most_and_failing(desk: Desk) -> None:
    """A run ends at its maximum; one that fails too often ends after the first sets, and the rest is untouched."""
    bodies = events(200, user_id=str(uuid4()))
    await desk.refuse(*bodies)
    failing = await desk.replay(failing_percent_max=50)
    assert (failing.ending, failing.carried, failing.is_whole) == (Ending.FAILING, 11, False)
    await late_user(desk, bodies)
    most = await desk.replay(letters_max=42)
    assert (most.ending, most.carried, most.recovered) == (Ending.MAX, 42, 42)
    assert len(await desk.stored()) == 42
    assert (await desk.replay(failing_percent_max=50)).recovered == 158


async def test_letters_in_other_hands_are_left_to_them(desk: Desk) -> None:
    """A locked letter is passed over without waiting, told as busy, and carried by the next run."""
    bodies = events(20, user_id=str(uuid4()))
    await desk.refuse(*bodies)
    await late_user(desk, bodies)
    async with host(desk.dsn) as other, other.transaction():
        held = await letter_table.lock_letters(other, Filter(), 5)
        tally = await desk.replay()
        assert (tally.recovered, tally.busy, tally.is_whole) == (15, 5, False)
        assert len(held) == 5
    assert (await desk.replay()).recovered == 5
    assert await desk.stored() == ids(bodies)


async def test_bodies_bound_a_set(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set holds no more than so many bytes, and one letter at least; none is lost by that."""
    bodies = events(50, user_id=str(uuid4()))
    await desk.refuse(*bodies)
    await late_user(desk, bodies)
    size = len(json.dumps(bodies[0]).encode())
    async with desk.database.transaction():
        monkeypatch.setattr(letter_table, "LOCKED_BYTES_MAX", 7 * size)
        assert len(await letter_table.lock_letters(desk.database, Filter(), 50)) == 7
        monkeypatch.setattr(letter_table, "LOCKED_BYTES_MAX", 1)
        assert len(await letter_table.lock_letters(desk.database, Filter(), 50)) == 1
    monkeypatch.setattr(letter_table, "LOCKED_BYTES_MAX", 7 * size)
    assert (await desk.replay()).recovered == 50


async def test_what_ended_a_replay_is_left_out_unless_it_is_named(desk: Desk) -> None:
    """A mark is committed before a suspect is carried; where one ends with it, the next run leaves the letter out."""
    await desk.refuse_whole(json.dumps(event()).encode())
    letter_id = await desk.database.fetchval("SELECT id FROM ai_usage_dead_letters")
    await desk.database.execute("ALTER TABLE ai_usage_logs ADD CONSTRAINT closed CHECK (false)")
    with pytest.raises(SystemUnavailableError):
        await desk.replay()
    assert [action["action"] for action in await desk.actions()] == ["replay_begun"]
    await desk.database.execute("ALTER TABLE ai_usage_logs DROP CONSTRAINT closed")
    tally = await desk.replay()
    assert (tally.carried, tally.left_out) == (0, [letter_id])
    assert not tally.is_whole
    tally = await desk.replay(Filter(ids=(letter_id,)))
    assert (tally.recovered, tally.left_out) == (1, [])
    assert [action["action"] for action in await desk.actions()] == ["replay_begun", "replay_begun", "replay"]


async def test_a_suspect_that_came_home_is_none(desk: Desk) -> None:
    """A suspect whose replay ended well is carried again when its body comes again and is refused again."""
    body = json.dumps([event(user_id=str(uuid4()))]).encode()
    await desk.refuse_whole(body)
    assert (await desk.replay(Filter(reason=Reason.DELIVERY_LIMIT))).recovered == 1
    await desk.refuse_whole(body)
    tally = await desk.replay(Filter(reason=Reason.DELIVERY_LIMIT))
    assert (tally.recovered, tally.left_out) == (1, [])


async def test_discarded_letters_can_be_replayed(desk: Desk) -> None:
    """A filter that names another status brings those home, too, and the history says from where."""
    bodies = events(1, user_id=str(uuid4()))
    await desk.refuse(*bodies)
    await late_user(desk, bodies)
    await desk.database.execute("UPDATE ai_usage_dead_letters SET status = 'discarded'")
    assert (await desk.replay()).carried == 0
    assert (await desk.replay(Filter(status=Status.DISCARDED))).recovered == 1
    (action,) = await desk.actions()
    assert (action["from_status"], action["to_status"]) == ("discarded", "recovered")


async def test_a_deadlock_is_tried_again(desk: Desk) -> None:
    """A worker that stores a letter's event while it waits for the letter costs the replay a try, and no letter."""
    body = event(user_id=str(uuid4()))
    await desk.refuse(body)
    await late_user(desk, [body])
    session = WriterSession(desk.dsn, "public", name="tests")
    failures = 0

    async def before(letters: Sequence[letter_table.StoredLetter]) -> None:
        nonlocal failures
        failures += 1
        if failures == 1:
            raise asyncpg.DeadlockDetectedError("deadlock detected")
        assert len(letters) == 1

    carriage = await Carrier(session, OPTIONS).carry_next(Lot(Filter(), 10, before=before))
    await session.close()
    assert [each.answer for each in carriage.carried] == [Answer.STORED]
    assert failures == 2
