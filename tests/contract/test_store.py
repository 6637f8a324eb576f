"""One suite for every store: the one in memory, on which the pipeline's tests stand, and the one on Postgres."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from time import monotonic, time
from typing import Protocol
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest
from cancelling import CancelAt
from dividing import divide, owner_session
from fakes import MemoryDatabase, MemoryStore
from makers import ORGANIZATION, USER, array_of, batch_of, body_of
from usage_events.contract import Reason

from worker.errors import SystemUnavailableError
from worker.postgres.store import PostgresStore
from worker.store import Store, Written

Letters = dict[bytes, tuple[str, int]]  # by body: reason and occurrences


class Backend(Protocol):
    """A database with one user and one organization, from outside the store."""

    def store(self) -> Store:
        """A store on it; closed at the end of the test."""

    async def rows(self) -> dict[UUID, int]:
        """The ids that are stored, with their tokens."""

    async def letters(self) -> Letters:
        """The dead letters."""

    async def go_down(self) -> None:
        """Whatever is connected is thrown out; nobody else gets in."""

    async def come_back(self) -> None:
        """It answers again."""


class MemoryBackend:
    """The database in memory."""

    def __init__(self) -> None:
        self._database = MemoryDatabase()

    def store(self) -> Store:
        """See `Backend`."""
        return MemoryStore(self._database)

    async def rows(self) -> dict[UUID, int]:
        """See `Backend`."""
        return {UUID(bytes=one): event.tokens_used for one, event in self._database.rows.items()}

    async def letters(self) -> Letters:
        """See `Backend`."""
        return {letter.body: (letter.reason.value, letter.occurrences) for letter in self._database.letters.values()}

    async def go_down(self) -> None:
        """See `Backend`."""
        self._database.is_down = True

    async def come_back(self) -> None:
        """See `Backend`."""
        self._database.is_down = False


class PostgresBackend:
    """A database of a real server."""

    def __init__(self, dsn: str, database: asyncpg.Connection, server: asyncpg.Connection) -> None:
        self._dsn = dsn
        self._database = database  # of this backend's own: an outage does not reach it
        self._server = server
        self._name = urlsplit(dsn).path.removeprefix("/")
        self.stores: list[PostgresStore] = []

    def store(self) -> Store:
        """See `Backend`."""
        self.stores.append(PostgresStore(self._dsn, "public", worker="contract"))
        return self.stores[-1]

    async def rows(self) -> dict[UUID, int]:
        """See `Backend`."""
        rows = await self._database.fetch("SELECT id, tokens_used FROM ai_usage_logs")
        return {UUID(bytes=row["id"].bytes): row["tokens_used"] for row in rows}

    async def letters(self) -> Letters:
        """See `Backend`."""
        rows = await self._database.fetch("SELECT body, reason, occurrences FROM ai_usage_dead_letters")
        return {row["body"]: (row["reason"], row["occurrences"]) for row in rows}

    async def go_down(self) -> None:
        """See `Backend`."""
        await self._server.execute(f'ALTER DATABASE "{self._name}" ALLOW_CONNECTIONS false')
        await self._server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> $2",
            self._name,
            self._database.get_server_pid(),
        )

    async def come_back(self) -> None:
        """See `Backend`."""
        await self._server.execute(f'ALTER DATABASE "{self._name}" ALLOW_CONNECTIONS true')


class StoreContract:
    """What every store keeps."""

    @pytest.fixture
    async def store(self, backend: Backend) -> AsyncIterator[Store]:
        """The store under test."""
        made = backend.store()
        yield made
        await made.close()

    async def test_stores(self, backend: Backend, store: Store) -> None:
        """Every good event of a batch becomes a row, those of arrays too."""
        ids = [uuid4() for _ in range(5)]
        bodies = [body_of(id=str(one), input_tokens=number) for number, one in enumerate(ids)]
        written = await store.write(batch_of(bodies[0], array_of(bodies[1:4]), bodies[4]))
        assert written == Written(stored=5, duplicates=0)
        assert await backend.rows() == {one: 20 + number for number, one in enumerate(ids)}

    async def test_every_kind_of_value(self, backend: Backend, store: Store) -> None:
        """A full event, one with what is optional left out, and an unpriced one."""
        full = {
            "endpoint": "/é",
            "model": "m",
            "request_type": "chat",
            "request_metadata": {"deep": [1, {"x": None}]},
            "estimated_cost_usd": "1.000001",
        }
        unpriced = {"input_tokens": None, "output_tokens": None, "tokens_used": 7}
        batch = batch_of(body_of(**full), body_of(), body_of(**unpriced))
        assert await store.write(batch) == Written(stored=3, duplicates=0)
        assert await store.write(batch) == Written(stored=0, duplicates=3)
        assert sorted((await backend.rows()).values()) == [7, 30, 30]

    async def test_written_again_all_are_duplicates(self, backend: Backend, store: Store) -> None:
        """A batch whose acknowledgements were lost: nothing is doubled, another store sees it, too."""
        batch = batch_of(*(body_of() for _ in range(10)))
        await store.write(batch)
        assert await store.write(batch) == Written(stored=0, duplicates=10)
        other = backend.store()
        assert await other.write(batch) == Written(stored=0, duplicates=10)
        await other.close()
        assert (len(await backend.rows()), await backend.letters()) == (10, {})

    async def test_duplicates_in_one_batch(self, backend: Backend, store: Store) -> None:
        """The same event twice in a batch, once in an array: one row."""
        body = body_of()
        assert await store.write(batch_of(body, array_of([body, body]))) == Written(stored=1, duplicates=2)
        assert len(await backend.rows()) == 1

    async def test_the_same_content_written_differently(self, backend: Backend, store: Store) -> None:
        """Case of an id, order and blanks of metadata, a time's offset: the content is the same."""
        one = str(uuid4())
        created_at = "2026-01-02T03:04:05.5"
        first = body_of(id=one, created_at=created_at + "Z", request_metadata={"a": 1, "b": [2]})
        again = body_of(id=one.upper(), created_at=created_at + "00+00:00", request_metadata={"b": [2], "a": 1})
        assert await store.write(batch_of(first)) == Written(stored=1, duplicates=0)
        assert await store.write(batch_of(again)) == Written(stored=0, duplicates=1)
        assert await backend.letters() == {}

    async def test_the_cost_is_compared_only_where_it_is_given(self, backend: Backend, store: Store) -> None:
        """A cost that the producer does not name is no other content; one that it names differently is."""
        event = {"id": str(uuid4()), "created_at": "2026-01-02T03:04:05Z"}
        await store.write(batch_of(body_of(**event, estimated_cost_usd=0.5)))
        silent, other = body_of(**event), body_of(**event, estimated_cost_usd=0.6)
        written = await store.write(batch_of(silent, other))
        assert (written.duplicates, dict(written.dead)) == (1, {Reason.ID_CONFLICT: 1})
        assert await backend.letters() == {other: ("id_conflict", 1)}

    async def test_two_contents_in_one_batch(self, backend: Backend, store: Store) -> None:
        """The first of two contents under one id is stored, the other becomes a letter."""
        one = uuid4()
        first, second = body_of(id=str(one), input_tokens=1), body_of(id=str(one), input_tokens=2)
        written = await store.write(batch_of(first, second))
        assert (written.stored, written.duplicates, dict(written.dead)) == (1, 0, {Reason.ID_CONFLICT: 1})
        assert await backend.rows() == {one: 21}
        assert await backend.letters() == {second: ("id_conflict", 1)}

    async def test_two_contents_in_two_batches(self, backend: Backend, store: Store) -> None:
        """What is stored stays as it is; the other content is a letter each time it comes, counted in one row."""
        one = uuid4()
        await store.write(batch_of(body_of(id=str(one), input_tokens=1)))
        second = body_of(id=str(one), input_tokens=2)
        for _ in range(2):
            assert dict((await store.write(batch_of(second))).dead) == {Reason.ID_CONFLICT: 1}
        assert await backend.rows() == {one: 21}
        assert await backend.letters() == {second: ("id_conflict", 2)}

    async def test_dead_by_reason_beside_their_neighbours(self, backend: Backend, store: Store) -> None:
        """A batch with every kind of refusal stores all others, and counts each reason."""
        good = [body_of() for _ in range(3)]
        bad = {
            body_of(input_tokens=-1): "invalid",
            body_of(tokens_used=1): "token_mismatch",
            body_of(user_id=str(uuid4())): "unknown_user",
            body_of(organization_id=str(uuid4())): "unknown_organization",
            body_of(user_id=str(uuid4()), organization_id=str(uuid4())): "unknown_user",
            b"no JSON\x00": "bad_json",
        }
        *elements, whole = bad
        written = await store.write(batch_of(good[0], array_of([good[1], *elements, good[2]]), whole))
        assert (written.stored, written.duplicates) == (3, 0)
        assert dict(written.dead) == {
            Reason.INVALID: 1,
            Reason.TOKEN_MISMATCH: 1,
            Reason.UNKNOWN_USER: 2,
            Reason.UNKNOWN_ORGANIZATION: 1,
            Reason.BAD_JSON: 1,
        }
        assert await backend.letters() == {body: (reason, 1) for body, reason in bad.items()}

    async def test_the_same_letter_twice_in_a_batch(self, backend: Backend, store: Store) -> None:
        """One body is one letter; its deliveries are counted, in one batch and over several."""
        bad = body_of(input_tokens=-1)
        for _ in range(2):
            assert dict((await store.write(batch_of(bad, bad))).dead) == {Reason.INVALID: 2}
        assert await backend.letters() == {bad: ("invalid", 4)}

    async def test_all_bad(self, backend: Backend, store: Store) -> None:
        """A batch without one good event is written like any other."""
        written = await store.write(batch_of(*(body_of(id=f"no id {number}") for number in range(20))))
        assert (written.stored, dict(written.dead)) == (0, {Reason.INVALID: 20})
        assert len(await backend.letters()) == 20

    async def test_what_a_database_cannot_hold_as_text(self, backend: Backend, store: Store) -> None:
        """NUL and lone surrogates in a refused event stop nothing: the letter keeps its bytes."""
        bad = body_of(model="\x00\ud800", endpoint="\x00")
        written = await store.write(batch_of(bad, body_of(), routing_key="k\x00\ud800"))
        assert (written.stored, dict(written.dead)) == (1, {Reason.INVALID: 1})
        assert await backend.letters() == {bad: ("invalid", 1)}

    async def test_gone_and_back(self, backend: Backend, store: Store) -> None:
        """While the server is gone nothing is written and that is said; then the same batch is stored."""
        batch = batch_of(body_of(), body_of(input_tokens=-1))
        await store.ping()
        await backend.go_down()
        for _ in range(2):
            with pytest.raises(SystemUnavailableError):
                await store.write(batch)
            with pytest.raises(SystemUnavailableError):
                await store.ping()
        await backend.come_back()
        await store.ping()
        written = await store.write(batch)
        assert (written.stored, dict(written.dead)) == (1, {Reason.INVALID: 1})
        assert len(await backend.rows()) == len(await backend.letters()) == 1

    async def test_it_tells_the_time(self, backend: Backend, store: Store) -> None:
        """What the database's clock shows, asked for just now; and an outage is one here, too."""
        asked_at = monotonic()
        reading = await store.read_clock()
        assert abs(reading.seconds - time()) < 60, "the server is on this machine"
        assert asked_at <= reading.asked_at <= monotonic()
        await backend.go_down()
        with pytest.raises(SystemUnavailableError):
            await store.read_clock()
        await backend.come_back()
        assert (await store.read_clock()).seconds >= reading.seconds

    async def test_cancelled_at_every_wait(self, backend: Backend, store: Store) -> None:
        """Cancelled wherever it waits, a batch is stored whole or not at all, and can be written again."""
        for at in itertools.count(1):
            one = uuid4()
            batch = batch_of(body_of(id=str(one)), body_of(id=str(uuid4())))
            cancelling = CancelAt(at)
            writing = asyncio.ensure_future(cancelling.run(store.write(batch)))
            await asyncio.wait({writing})
            if cancelling.waits < at:
                assert writing.result() == Written(stored=2, duplicates=0)
                break
            assert writing.cancelled()
            again = await store.write(batch)
            assert again in (Written(stored=2, duplicates=0), Written(stored=0, duplicates=2))
            assert one in await backend.rows()
        assert at > 1

    async def test_close_twice(self, store: Store) -> None:
        """A store can be closed at any time, also twice, and goes on afterwards."""
        await store.close()
        await store.write(batch_of(body_of()))
        await store.close()
        await store.close()


class TestMemoryStore(StoreContract):
    """The store that the pipeline's tests use."""

    @pytest.fixture
    def backend(self) -> Backend:
        """The database in memory."""
        return MemoryBackend()


class TestPostgresStore(StoreContract):
    """The store on a real server."""

    @pytest.fixture
    async def backend(self, migrated_dsn: str) -> AsyncIterator[Backend]:
        """A database with a user and an organization."""
        database = await asyncpg.connect(migrated_dsn)
        server = await asyncpg.connect(urlsplit(migrated_dsn)._replace(path="/postgres").geturl())
        await database.execute("INSERT INTO users (id) VALUES ($1)", USER)
        await database.execute("INSERT INTO organizations (id) VALUES ($1)", ORGANIZATION)
        made = PostgresBackend(migrated_dsn, database, server)
        yield made
        for store in made.stores:
            await store.close()
        await made.come_back()
        await database.close()
        await server.close()


class TestPostgresStoreOnPartitions(TestPostgresStore):
    """The same where the table is divided, half of all random ids in its last partition."""

    @pytest.fixture
    async def migrated_dsn(self, migrated_dsn: str) -> str:
        """Stands for the database of the others."""
        connection = await owner_session(migrated_dsn)
        await divide(connection)
        await connection.close()
        return migrated_dsn
