"""Whatever passes validation is accepted by Postgres, and whatever does not can be written as a dead letter."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from conformance import metadata_value
from event_texts import UUID_TEXT, damaged, event_texts, json_texts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from makers import ORGANIZATION, USER, batch_of
from usage_events.contract import TOKENS_MAX, Event, Reason
from usage_events.judge import Form

from worker.postgres.store import PostgresStore

# One database serves all examples of a test: ids are drawn, so they differ.
on_one_database = settings(
    deadline=None, max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

any_characters = st.characters(exclude_categories=())  # lone surrogates and NUL included


def texts(characters_max: int) -> st.SearchStrategy[str | None]:
    """Texts of every length up to the limit, and a little past it."""
    return st.none() | st.text(any_characters, max_size=8) | st.text(any_characters, max_size=characters_max + 1)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(any_characters, max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(any_characters, max_size=6), inner, max_size=4),
    max_leaves=10,
)
times = st.datetimes(
    timezones=st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
).map(datetime.isoformat)
costs = (
    st.none()
    | st.floats(0, 10_000)
    | st.decimals(0, 10_000, allow_nan=False, allow_infinity=False).map(str)
    | st.decimals(0, 10_000, places=7).map(str)
)


@st.composite
def event_bodies(draw: st.DrawFn) -> bytes:
    """An event that is good or nearly so, with any text, number, time and cost in it."""
    event: dict[str, Any] = {
        "id": str(draw(st.uuids())),
        "user_id": str(USER),
        "organization_id": str(ORGANIZATION),
        "input_tokens": draw(st.integers(0, TOKENS_MAX)),
        "output_tokens": draw(st.sampled_from([None, 0, 1, 1000])),
        "endpoint": draw(texts(255)),
        "model": draw(texts(100)),
        "request_type": draw(texts(50)),
        "request_metadata": draw(st.none() | st.dictionaries(st.text(any_characters, max_size=6), values, max_size=4)),
        "estimated_cost_usd": draw(costs),
        "created_at": draw(times),
    }
    text = json.dumps(event, ensure_ascii=draw(st.booleans()))
    return text.encode("utf-8", "surrogatepass")  # a surrogate in it is no UTF-8: validation has to see that


messages = st.one_of(
    event_bodies(),
    event_texts(Form.NATIVE),
    damaged(event_texts(Form.NATIVE)),
    damaged(event_bodies()),
    json_texts(),
    st.lists(event_bodies() | event_texts(Form.NATIVE), max_size=4).map(lambda some: b"[" + b",".join(some) + b"]"),
    st.binary(max_size=50),
)


@pytest.fixture
async def database(migrated_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection beside the store's; the users and organizations of the generated events exist."""
    connection = await asyncpg.connect(migrated_dsn)
    other = UUID(json.loads(UUID_TEXT))
    await connection.executemany("INSERT INTO users VALUES ($1)", [(USER,), (other,)])
    await connection.executemany("INSERT INTO organizations VALUES ($1)", [(ORGANIZATION,), (other,)])
    yield connection
    await connection.close()


@pytest.fixture
async def store(migrated_dsn: str) -> AsyncIterator[PostgresStore]:
    """A store on that database."""
    opened = PostgresStore(migrated_dsn, "public", worker="test")
    yield opened
    await opened.close()


@pytest.fixture
async def some_are_stored(database: asyncpg.Connection) -> AsyncIterator[None]:
    """The generated events were not all refused: else the test would have shown nothing."""
    yield
    assert await database.fetchval("SELECT count(*) FROM ai_usage_logs") > 20


@pytest.mark.usefixtures("some_are_stored")
@on_one_database
@given(bodies=st.lists(event_bodies(), min_size=1, max_size=8))
async def test_what_passes_is_stored_as_it_was_sent(
    store: PostgresStore, database: asyncpg.Connection, bodies: list[bytes]
) -> None:
    """Every event that validation lets through becomes a row with its values; the database refuses none."""
    batch = batch_of(*bodies)
    written = await store.write(batch)
    accepted = batch.accepted()
    assert written.dead[Reason.REJECTED_BY_DATABASE] == 0
    assert written.stored + written.duplicates + written.dead[Reason.ID_CONFLICT] == len(accepted)

    rows = await database.fetch(
        # As a number: the driver reads no time past the year 9999, which an offset may lead to.
        "SELECT id, input_tokens, output_tokens, tokens_used, endpoint, model, request_type, request_metadata,"
        " estimated_cost_usd, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at_us"
        " FROM ai_usage_logs WHERE id = ANY($1)",
        [UUID(bytes=one.id) for one in accepted],
    )
    found = {row["id"].bytes: _values_of_row(row) for row in rows}
    copies = Counter(one.id for one in accepted)
    assert found.keys() == copies.keys()
    for one in accepted:
        if copies[one.id] == 1 and written.stored == len(accepted):
            assert found[one.id] == _values_of_event(one)


@pytest.mark.usefixtures("some_are_stored")
@on_one_database
@given(bodies=st.lists(messages, min_size=1, max_size=8))
async def test_whatever_comes_gets_an_outcome(store: PostgresStore, bodies: list[bytes]) -> None:
    """Good, bad, damaged or no JSON at all: the batch commits, each event of it counted once, none by the database."""
    batch = batch_of(*bodies)
    written = await store.write(batch)
    assert written.stored + written.duplicates + written.dead.total() == batch.events
    assert written.dead[Reason.REJECTED_BY_DATABASE] == 0


def _values_of_row(row: asyncpg.Record) -> tuple[Any, ...]:
    metadata, cost = row["request_metadata"], row["estimated_cost_usd"]
    return (
        row["input_tokens"],
        row["output_tokens"],
        row["tokens_used"],
        row["endpoint"],
        row["model"],
        row["request_type"],
        None if metadata is None else metadata_value(metadata),
        None if cost is None else int(cost.scaleb(6)),
        row["created_at_us"],
    )


def _values_of_event(event: Event) -> tuple[Any, ...]:
    return (
        event.input_tokens,
        event.output_tokens,
        event.tokens_used,
        event.endpoint,
        event.model,
        event.request_type,
        None if event.metadata_json is None else metadata_value(event.metadata_json),
        event.cost_micro_usd,
        event.created_at_us,
    )
