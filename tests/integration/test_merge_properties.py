"""Rules of decode → merge on any events: the order of batches, how messages are cut into them, what comes again.

A small world, so that all meets: four ids with three contents each, users that exist or not, events that are bad.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from makers import ORGANIZATION, USER, array_of, batch_of
from usage_events.contract import Reason

from worker.batch import Batch
from worker.postgres.store import PostgresStore, Shared
from worker.store import Written

# One database serves all examples of a test: it is emptied before each playing.
on_one_database = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
NOBODY = UUID("0198c0de-0000-7000-8000-00000000dead")


class Drawn(NamedTuple):
    """An event: which id, which content, and whether it can be stored."""

    number: int
    content: int
    user: UUID
    is_bad: bool

    @property
    def is_acceptable(self) -> bool:
        """Whether it is stored where nothing stands under its id."""
        return self.user == USER and not self.is_bad

    def body(self) -> bytes:
        """As it stands in a message."""
        event = {
            "id": str(UUID(int=self.number)),
            "user_id": str(self.user),
            "organization_id": str(ORGANIZATION),
            "input_tokens": -1 - self.content if self.is_bad else self.content,
            "created_at": "2026-06-01T12:00:00Z",
            "request_metadata": {"content": self.content},
        }
        return json.dumps(event).encode()


drawn_events = st.builds(
    Drawn,
    st.integers(1, 4),
    st.integers(0, 2),
    st.sampled_from([USER, USER, USER, USER, NOBODY]),
    st.sampled_from([False, False, False, False, True]),
)
drawn_messages = st.lists(drawn_events, min_size=1, max_size=4)
drawn_batches = st.lists(st.lists(drawn_messages, min_size=1, max_size=3), min_size=1, max_size=4)
Messages = list[list[Drawn]]


class Tables(NamedTuple):
    """What both hold: the content under each id; the reason, id and deliveries of each letter, by its body."""

    rows: dict[UUID, int]
    letters: dict[bytes, tuple[str, UUID | None, int]]

    def contents(self) -> set[tuple[UUID | None, int]]:
        """Every content that came under an id and could be stored: in its row, or as a conflict beside it."""
        conflicts = {
            (key, json.loads(body)["request_metadata"]["content"])
            for body, (reason, key, _) in self.letters.items()
            if reason == Reason.ID_CONFLICT
        }
        return {*self.rows.items()} | conflicts

    def others(self) -> dict[bytes, tuple[str, UUID | None, int]]:
        """The letters that have another reason than a conflict."""
        return {body: letter for body, letter in self.letters.items() if letter[0] != Reason.ID_CONFLICT}


class World:
    """A database with one user and one organization, and the stores of three workers, one of them with two writers."""

    def __init__(self, dsn: str, database: asyncpg.Connection) -> None:
        self._database = database
        shared = Shared()
        self.stores = [
            PostgresStore(dsn, "public", worker="one", shared=shared),
            PostgresStore(dsn, "public", worker="one", shared=shared),
            PostgresStore(dsn, "public", worker="two"),
            PostgresStore(dsn, "public", worker="three"),
        ]

    async def empty(self) -> None:
        """No rows, no letters."""
        await self._database.execute("TRUNCATE ai_usage_logs, ai_usage_dead_letters")

    async def play(self, batches: Sequence[Messages]) -> Written:
        """One after another, by one writer."""
        written = Written(0, 0)
        for messages in batches:
            written += await self.stores[0].write(batch(messages))
        return written

    async def tables(self) -> Tables:
        """What stands there now."""
        rows = await self._database.fetch("SELECT id, request_metadata ->> 'content' FROM ai_usage_logs")
        letters = await self._database.fetch("SELECT body, reason, event_id, occurrences FROM ai_usage_dead_letters")
        return Tables(
            {_uuid(row[0]): int(row[1]) for row in rows},
            {body: (reason, _uuid(key), occurrences) for body, reason, key, occurrences in letters},
        )


def _uuid(value: UUID) -> UUID:
    return UUID(bytes=value.bytes)  # asyncpg's are of a class of its own


def batch(messages: Messages) -> Batch:
    """One batch: an array for each message."""
    return batch_of(*(array_of(event.body() for event in message) for message in messages))


def events_of(batches: Sequence[Messages]) -> list[Drawn]:
    """All events in order."""
    return [event for messages in batches for message in messages for event in message]


@pytest.fixture
async def world(migrated_dsn: str) -> AsyncIterator[World]:
    """The world of one test."""
    database = await asyncpg.connect(migrated_dsn)
    await database.execute("INSERT INTO users VALUES ($1)", USER)
    await database.execute("INSERT INTO organizations VALUES ($1)", ORGANIZATION)
    made = World(migrated_dsn, database)
    yield made
    for store in made.stores:
        await store.close()
    await database.close()


@on_one_database
@given(batches=drawn_batches)
async def test_the_first_writer_of_an_id_wins(world: World, batches: list[Messages]) -> None:
    """The first content that can be stored is the row; the same again is a duplicate, another one is a conflict."""
    await world.empty()
    written = await world.play(batches)
    rows: dict[UUID, int] = {}
    duplicates = conflicts = 0
    for event in events_of(batches):
        if event.is_acceptable:
            known = rows.setdefault(UUID(int=event.number), event.content)
            duplicates += known == event.content
            conflicts += known != event.content
    assert (await world.tables()).rows == rows
    assert (written.stored, written.duplicates) == (len(rows), duplicates - len(rows))
    assert written.dead[Reason.ID_CONFLICT] == conflicts
    assert written.stored + written.duplicates + written.dead.total() == len(events_of(batches))


@on_one_database
@given(batches=drawn_batches, data=st.data())
async def test_the_order_of_batches_decides_nothing_but_who_is_first(
    world: World, batches: list[Messages], data: st.DataObject
) -> None:
    """The same ids are stored, and each content stands in its row or in a letter; all other letters are the same."""
    await world.empty()
    await world.play(batches)
    before = await world.tables()
    await world.empty()
    await world.play(data.draw(st.permutations(batches)))
    after = await world.tables()
    assert after.rows.keys() == before.rows.keys()
    assert after.contents() == before.contents()
    assert after.others() == before.others()


@on_one_database
@given(messages=st.lists(drawn_messages, min_size=1, max_size=8), cuts=st.sets(st.integers(1, 7)))
async def test_how_messages_are_cut_into_batches_decides_nothing(
    world: World, messages: Messages, cuts: set[int]
) -> None:
    """Messages in one batch, or in several in the same order: the same rows, letters and counts."""
    await world.empty()
    together = await world.play([messages])
    before = await world.tables()
    await world.empty()
    places = [0, *sorted(cut for cut in cuts if cut < len(messages)), len(messages)]
    apart = await world.play([messages[begin:end] for begin, end in pairwise(places)])
    assert await world.tables() == before
    assert apart == together


@on_one_database
@given(batches=drawn_batches)
async def test_what_comes_again_changes_nothing_but_its_count(world: World, batches: list[Messages]) -> None:
    """Everything again, as after a lost acknowledgement: no row more, no letter more, each letter delivered twice."""
    await world.empty()
    first = await world.play(batches)
    before = await world.tables()
    again = await world.play(batches)
    after = await world.tables()
    assert again.stored == 0
    assert again.duplicates == first.stored + first.duplicates
    assert again.dead == first.dead
    assert after.rows == before.rows
    assert after.letters == {body: (*letter[:2], 2 * letter[2]) for body, letter in before.letters.items()}


@on_one_database
@given(batches=st.lists(st.lists(drawn_messages, min_size=1, max_size=6), min_size=2, max_size=4), data=st.data())
async def test_several_writers_at_once_do_what_one_does(
    world: World, batches: list[Messages], data: st.DataObject
) -> None:
    """Two writers of a worker and two other workers at once, with ids in common: the same ids, contents and letters."""
    await world.empty()
    await world.play(batches)
    before = await world.tables()
    await world.empty()
    stores = data.draw(st.permutations(world.stores))[: len(batches)]
    written = await asyncio.gather(
        *(store.write(batch(messages)) for store, messages in zip(stores, batches, strict=True))
    )
    after = await world.tables()
    assert after.rows.keys() == before.rows.keys()
    assert after.contents() == before.contents()
    assert after.others() == before.others()
    dead = sum((one.dead for one in written), Counter[Reason]())
    assert sum(one.stored for one in written) == len(after.rows)
    assert sum(one.stored + one.duplicates for one in written) + dead.total() == len(events_of(batches))
