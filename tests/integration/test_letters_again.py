"""A letter whose body comes again: what was not known of it is filled in, so that it is found by its event."""

import asyncpg
from batches import host
from makers import ANY_TIME, body_of, entry_of
from usage_events.ids import uuid7

from worker.app import keep_undecoded
from worker.batch import Batch, Entry
from worker.delivery import Delivery
from worker.postgres.store import PostgresStore


async def test_a_letter_of_the_dead_queue_that_is_read_later(migrated_dsn: str) -> None:
    """What went unread through the dead queue and comes again has its event's id, user and organization."""
    event, stranger = uuid7(), uuid7()
    body = body_of(id=str(event), user_id=str(stranger), model="m")
    dead = Batch(0.0)
    delivery = Delivery(1, 1, body)
    dead.add(Entry(delivery, keep_undecoded(delivery, ANY_TIME)))
    again = Batch(0.0)
    again.add(entry_of(body))
    store = PostgresStore(migrated_dsn, "public", worker="test")
    async with host(migrated_dsn) as connection:
        try:
            await store.write(dead)
            unread = await _the_letter(connection)
            await store.write(again)
            read = await _the_letter(connection)
        finally:
            await store.close()
    assert (unread["reason"], unread["event_id"]) == ("delivery_limit", None)
    assert (read["reason"], read["occurrences"]) == ("unknown_user", 2)
    assert (str(read["event_id"]), str(read["user_id"]), read["model"]) == (str(event), str(stranger), "m")
    assert read["organization_id"] is not None


async def _the_letter(connection: asyncpg.Connection) -> asyncpg.Record:
    (letter,) = await connection.fetch("SELECT * FROM ai_usage_dead_letters")
    return letter
