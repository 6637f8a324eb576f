"""Editing letters on a real database: what is saved, what is noted, what stays as it was."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from batches import host
from harness import event
from usage_events.contract import FieldError, Reason, Refusal
from usage_events.rules import Window

from worker.batch import Batch, Entry
from worker.dead_letters.json_edit import parse_rename, parse_set, parse_unset
from worker.dead_letters.mending import Outcome, by_edits
from worker.decode import WHOLE_MESSAGE, Decoded, Reject, decode
from worker.delivery import Delivery, PlainProperties
from worker.postgres.dead_letters import picked, table
from worker.postgres.dead_letters.edit import EditOptions, Mending, edit_all, edit_set, pick_for_edit, preview_all
from worker.postgres.dead_letters.table import Filter
from worker.postgres.store import PostgresStore

DAY_SECONDS = 86_400
RENAME = by_edits([parse_rename("input_token=input_tokens")])
OPTIONS = EditOptions(RENAME, "ada", max_age_seconds=35 * DAY_SECONDS, max_ahead_seconds=300)
CLOUDS = "application/cloudevents-batch+json"


class Desk:
    """A database with letters, and edits on it."""

    def __init__(self, dsn: str, database: asyncpg.Connection) -> None:
        self.dsn = dsn
        self.database = database

    async def refuse(
        self, *bodies: Mapping[str, Any] | bytes, seen_at: datetime | None = None, content_type: str | None = None
    ) -> None:
        """The worker gets these, each in a message; what it refuses becomes a letter."""
        now = seen_at or datetime.now(UTC)
        window = Window.around(round(now.timestamp() * 1e6), max_age_seconds=35 * DAY_SECONDS, max_ahead_seconds=300)
        properties = PlainProperties(content_type=content_type, app_id=None, user_id=None, headers={})
        batch = Batch(0.0)
        for tag, body in enumerate(bodies):
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            batch.add(Entry(Delivery(tag, 1, raw, properties=properties), decode(raw, content_type, None, window)))
        await self._write(batch, now)

    async def refuse_whole(self, body: bytes) -> None:
        """This comes from the dead queue, undecoded."""
        batch = Batch(0.0)
        refusal = Refusal(Reason.DELIVERY_LIMIT, [FieldError(field="", message="too often", input=None)])
        batch.add(Entry(Delivery(0, 1, body), Decoded([], range(0), [Reject(WHOLE_MESSAGE, body, refusal)])))
        await self._write(batch, datetime.now(UTC))

    async def _write(self, batch: Batch, now: datetime) -> None:
        store = PostgresStore(self.dsn, "public", worker="refuser", utcnow=lambda: now)
        try:
            await store.write(batch)
        finally:
            await store.close()

    async def edit(self, options: EditOptions = OPTIONS, chosen: Filter | None = None) -> dict[Outcome, int]:
        """Edit all letters; how many had which outcome."""
        counts: dict[Outcome, int] = {}
        await self.database.execute("DROP TABLE IF EXISTS picked_letters")  # as in a session of its own
        await pick_for_edit(self.database, chosen or Filter())
        async for done in edit_all(self.database, chosen or Filter(), options):
            assert done.busy == []
            for mending in done.mendings:
                counts[mending.mended.outcome] = counts.get(mending.mended.outcome, 0) + 1
        return counts

    async def letters(self) -> list[asyncpg.Record]:
        """All of them, in the order of work."""
        letters: list[asyncpg.Record] = await self.database.fetch(
            "SELECT * FROM ai_usage_dead_letters ORDER BY first_seen, id"
        )
        return letters

    async def actions(self) -> list[asyncpg.Record]:
        """The history, oldest first."""
        actions: list[asyncpg.Record] = await self.database.fetch(
            "SELECT * FROM ai_usage_dead_letter_actions ORDER BY at"
        )
        return actions

    async def contents(self) -> list[Any]:
        """All that stands in the tables."""
        tables = ("ai_usage_logs", "ai_usage_dead_letters", "ai_usage_dead_letter_actions")
        return [await self.database.fetch(f"SELECT t::text FROM {table} t ORDER BY 1") for table in tables]


@pytest.fixture
async def desk(migrated_dsn: str) -> AsyncIterator[Desk]:
    """A database with a user and an organization, and no letter yet."""
    async with host(migrated_dsn) as database:
        yield Desk(migrated_dsn, database)


def misnamed(**changes: Any) -> dict[str, Any]:
    """An event with a field that the contract does not know."""
    made = event(**changes)
    made["input_token"] = made.pop("input_tokens")
    return made


async def test_what_is_saved(desk: Desk) -> None:
    """The edited body stands beside the original; the history says who, and what differs; nothing else changes."""
    await desk.refuse(misnamed())
    [before] = await desk.letters()
    assert await desk.edit(replace(OPTIONS, chosen=Filter())) == {Outcome.EDITED: 1}
    [after] = await desk.letters()
    changed = {name for name in before.keys() if before[name] != after[name]}  # noqa: SIM118 - a record's iterator gives values
    assert changed == {"edited_body"}
    assert after["edited_body"] == before["body"].replace(b"input_token", b"input_tokens")
    [action] = await desk.actions()
    assert (action["who"], action["action"], action["letter_id"]) == ("ada", "edit", after["id"])
    assert '-  "input_token": 100' in action["note"]
    assert '+  "input_tokens": 100' in action["note"]
    assert json.loads(action["filter"]) == {"status": "open"}


async def test_edits_go_on_from_the_edited_body(desk: Desk) -> None:
    """A second edit starts where the first ended; the same one again writes nothing."""
    await desk.refuse(misnamed())
    await desk.edit()
    model = replace(OPTIONS, change=by_edits([parse_set("model=gpt-4o")]))
    assert await desk.edit(model) == {Outcome.EDITED: 1}
    before = await desk.contents()
    assert await desk.edit(model) == {Outcome.UNCHANGED: 1}
    assert await desk.edit() == {Outcome.UNCHANGED: 1}
    assert await desk.contents() == before
    [letter] = await desk.letters()
    edited = json.loads(letter["edited_body"])
    assert (edited["model"], edited["input_tokens"]) == ("gpt-4o", 100)
    assert "input_token" in json.loads(letter["body"])


async def test_filters_find_what_it_says_now(desk: Desk) -> None:
    """User, organization and model are the edited event's; so is an id that could not be read, and it stays."""
    identifier, user, organization = uuid4(), uuid4(), uuid4()
    await desk.refuse(event(id="call-7", model=7, user_id="ada", organization_id=str(organization)))
    [letter] = await desk.letters()
    assert (letter["event_id"], letter["user_id"], letter["model"]) == (None, None, None)
    edits = [parse_set(f"id={identifier}"), parse_set(f"user_id={user}"), parse_set("model=gpt-4o")]
    assert await desk.edit(replace(OPTIONS, change=by_edits(edits))) == {Outcome.EDITED: 1}
    assert [one["model"] for one in await desk.letters()] == ["gpt-4o"]
    chosen = Filter(user=user, organization=organization, model="gpt-4o")
    assert await table.count_letters(desk.database, chosen) == 1
    assert [one["event_id"] for one in await desk.letters()] == [identifier]
    other = replace(OPTIONS, change=by_edits([parse_set(f"id={uuid4()}")]), is_forced=True)
    assert await desk.edit(other) == {Outcome.IMPOSSIBLE: 1}
    wrong = replace(OPTIONS, change=by_edits([parse_set("user_id=ada")]), is_forced=True)
    assert await desk.edit(wrong) == {Outcome.EDITED: 1}
    assert [(one["user_id"], one["event_id"]) for one in await desk.letters()] == [(None, identifier)]


async def test_what_would_still_be_refused_is_left(desk: Desk) -> None:
    """Of many letters only those are saved that the contract takes; the others where it is forced, under that name."""
    await desk.refuse(misnamed(), misnamed(output_tokens=-1), event(model=7), b"garbage")
    assert await desk.edit() == {
        Outcome.EDITED: 1,
        Outcome.REFUSED: 1,
        Outcome.UNCHANGED: 1,
        Outcome.IMPOSSIBLE: 1,
    }
    assert sum(letter["edited_body"] is not None for letter in await desk.letters()) == 1
    await desk.edit(replace(OPTIONS, is_forced=True))
    assert [action["action"] for action in await desk.actions()] == ["edit", "edit_forced"]


async def test_a_letter_is_judged_at_its_time(desk: Desk) -> None:
    """What was in time when it came is in time now, however long ago that is."""
    seen_at = datetime.now(UTC) - timedelta(days=90)
    await desk.refuse(misnamed(created_at=seen_at.isoformat()), seen_at=seen_at)
    assert await desk.edit() == {Outcome.EDITED: 1}


async def test_cloud_events(desk: Desk) -> None:
    """Their fields are under `data`; id and source stay."""
    data = misnamed()
    envelope = {
        "specversion": "1.0", "type": "usage", "source": "/a", "id": "call-7", "time": data.pop("created_at"),
        "data": {name: value for name, value in data.items() if name != "id"},
    }  # fmt: skip
    await desk.refuse(json.dumps([envelope]).encode(), content_type=CLOUDS)
    change = by_edits([parse_rename("data.input_token=input_tokens")])
    source = by_edits([parse_set("source=/b")])
    assert await desk.edit(replace(OPTIONS, change=source, is_forced=True)) == {Outcome.IMPOSSIBLE: 1}
    assert await desk.edit(replace(OPTIONS, change=change)) == {Outcome.EDITED: 1}


async def test_a_whole_message(desk: Desk) -> None:
    """A message of the dead queue is edited by index or all at once; no element is dropped."""
    await desk.refuse_whole(json.dumps([misnamed(), event(), misnamed()]).encode())
    drop = by_edits([parse_unset("0")])
    assert await desk.edit(replace(OPTIONS, change=drop, is_forced=True)) == {Outcome.IMPOSSIBLE: 1}
    first = by_edits([parse_rename("0.input_token=input_tokens")])
    assert await desk.edit(replace(OPTIONS, change=first)) == {Outcome.REFUSED: 1}
    each = by_edits([parse_rename("*.input_token=input_tokens")])
    assert await desk.edit(replace(OPTIONS, change=each)) == {Outcome.EDITED: 1}
    [letter] = await desk.letters()
    assert all("input_tokens" in one for one in json.loads(letter["edited_body"]))
    assert (letter["event_id"], letter["user_id"]) == (None, None)


async def test_settled_letters_are_left(desk: Desk) -> None:
    """Whatever the filter says, an edit touches open letters only."""
    await desk.refuse(misnamed(), misnamed(), misnamed())
    first, second, _ = [letter["id"] for letter in await desk.letters()]
    await desk.database.execute("UPDATE ai_usage_dead_letters SET status = 'recovered' WHERE id = $1", first)
    await desk.database.execute("UPDATE ai_usage_dead_letters SET status = 'discarded' WHERE id = $1", second)
    assert await desk.edit(chosen=Filter(status=None)) == {Outcome.EDITED: 1}
    assert [letter["edited_body"] is None for letter in await desk.letters()] == [True, True, False]


async def test_a_preview_changes_nothing(desk: Desk) -> None:
    """It says what would become of each letter, also of one that somebody works on; no table changes."""
    await desk.refuse(misnamed(), misnamed(output_tokens=-1), event(model=7))
    before = await desk.contents()
    async with host(desk.dsn) as other, other.transaction():
        await table.lock_letters(other, Filter(), 10)
        seen: list[Mending] = [one async for one in preview_all(desk.database, Filter(), OPTIONS)]
    assert sorted(one.mended.outcome for one in seen) == [Outcome.EDITED, Outcome.REFUSED, Outcome.UNCHANGED]
    assert await desk.contents() == before


async def test_letters_in_other_hands(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are passed over, tried again at the end, and named where somebody has them still."""
    monkeypatch.setattr(picked, "LOT_LETTERS_MAX", 2)
    await desk.refuse(*(misnamed() for _ in range(7)))
    ids = [letter["id"] for letter in await desk.letters()]
    async with host(desk.dsn) as other:
        transaction = other.transaction()
        await transaction.start()
        held = await table.lock_letters(other, Filter(ids=(ids[1], ids[6])), 10)
        edited: list[UUID] = []
        busy: list[UUID] = []
        assert await pick_for_edit(desk.database, Filter()) == 7
        async for done in edit_all(desk.database, Filter(), OPTIONS):
            edited += [one.letter.id for one in done.mendings]
            busy += done.busy
        await transaction.rollback()
    assert {letter.id for letter in held} == set(busy) == {ids[1], ids[6]}
    assert edited == [ids[0], ids[2], ids[3], ids[4], ids[5]]
    assert await desk.edit() == {Outcome.EDITED: 2, Outcome.UNCHANGED: 5}


async def test_those_that_come_free_are_edited(desk: Desk) -> None:
    """What somebody held at first, and let go meanwhile, is done in the same run; what they settled is not."""
    await desk.refuse(*(misnamed() for _ in range(4)))
    ids = [letter["id"] for letter in await desk.letters()]
    async with host(desk.dsn) as other:
        transaction = other.transaction()
        await transaction.start()
        await table.lock_letters(other, Filter(ids=(ids[0], ids[1])), 2)
        await other.execute("UPDATE ai_usage_dead_letters SET status = 'discarded' WHERE id = $1", ids[1])
        edited: list[UUID] = []
        await pick_for_edit(desk.database, Filter())
        await desk.refuse(misnamed())  # comes later, and was not agreed to
        async for done in edit_all(desk.database, Filter(), OPTIONS):
            assert done.busy == []
            if not edited:
                await transaction.commit()
            edited += [one.letter.id for one in done.mendings]
    assert edited == [ids[2], ids[3], ids[0]]


async def test_a_body_that_was_given_up(desk: Desk) -> None:
    """There is nothing to edit: such letters are passed over, by the preview too."""
    await desk.refuse(misnamed(), misnamed())
    first = (await desk.letters())[0]["id"]
    await desk.database.execute("UPDATE ai_usage_dead_letters SET body = NULL WHERE id = $1", first)
    seen = [one async for one in preview_all(desk.database, Filter(), OPTIONS)]
    assert [one.mended.outcome for one in seen] == [Outcome.EDITED]
    assert await pick_for_edit(desk.database, Filter()) == 1
    assert await desk.edit() == {Outcome.EDITED: 1}
    assert [letter["edited_body"] is None for letter in await desk.letters()] == [True, False]


async def test_a_set_is_whole_or_not_at_all(desk: Desk) -> None:
    """Where the history cannot be written, no body is changed either."""
    await desk.refuse(misnamed(), misnamed())
    await desk.database.execute(
        "ALTER TABLE ai_usage_dead_letter_actions ADD CONSTRAINT nothing_more CHECK (action <> 'edit')"
    )
    before = await desk.contents()
    with pytest.raises(asyncpg.CheckViolationError):
        await edit_set(desk.database, Filter(), OPTIONS)
    assert await desk.contents() == before
