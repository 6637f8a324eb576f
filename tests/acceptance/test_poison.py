"""Messages that kill or confuse their consumer: each becomes a letter, and none takes an innocent one with it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import aio_pika
import aiormq
import pytest
from delivery_paths import both_paths, both_paths_at_length
from harness import System, event, message
from operating import dead_letters
from supervision import DELIVERIES_MAX, MARK, killer, return_too_often, supervised, use_crashing_worker

HELD_BYTES_MAX = 8 * 2**20


class _Letter(NamedTuple):
    reason: str
    body: bytes
    queue: str
    headers: dict[str, Any]


async def _letters(system: System) -> list[_Letter]:
    rows = await system.database.fetch("SELECT reason, body, queue, headers FROM ai_usage_dead_letters")
    return [_Letter(row["reason"], row["body"], row["queue"], json.loads(row["headers"])) for row in rows]


async def _until_dead(system: System, letters: int, seconds_max: float = 60.0) -> None:
    async def enough() -> bool:
        return int(await system.value("SELECT count(*) FROM ai_usage_dead_letters")) >= letters

    await system.until(enough, f"{letters} letters are written", seconds_max=seconds_max)


async def _check_books(system: System, good: int, killers: int) -> None:
    """All good ones are stored, each killer has one letter, and nothing else has."""
    found = await system.books()
    found.check()
    assert len(found.stored) == good
    assert found.letters == {"delivery_limit": killers}


@both_paths_at_length
async def test_a_message_that_kills_its_consumer_at_the_head_of_500(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends as one letter with its bytes as they came; the 500 behind it are stored. It can be shown and replayed."""
    use_crashing_worker(tmp_path, monkeypatch)
    poison = message(event(model=MARK.decode()))
    await system.publish(poison, *(message(event()) for _ in range(500)))
    async with supervised(system):
        await _until_dead(system, 1, seconds_max=100)
        await system.until_stored(500)
    await system.settle()
    await _check_books(system, good=500, killers=1)
    (letter,) = await _letters(system)
    assert (letter.body, letter.queue) == (poison.body, f"{system.queue}.dead")
    assert len([worker for worker in system.workers if worker.status == -9]) == DELIVERIES_MAX
    shown = await dead_letters(system, "show", poison.events[0]["id"])
    assert shown.status == 1, "nobody has read its event's id"
    letter_id = str(await system.value("SELECT id FROM ai_usage_dead_letters"))
    shown = await dead_letters(system, "show", letter_id)
    assert (shown.status, shown.output.splitlines()[0]) == (0, f"letter {letter_id}: delivery_limit")
    assert MARK.decode() in shown.output
    monkeypatch.undo()  # a version that survives it
    replayed = await dead_letters(system, "replay", "--reason", "delivery_limit", "--yes")
    assert replayed.status == 0, replayed
    assert await system.stored() == 501
    assert await system.value("SELECT status FROM ai_usage_dead_letters") == "recovered"


@pytest.mark.slow
@pytest.mark.timeout(600)
@both_paths
@pytest.mark.parametrize("workers", [1, 4])
async def test_a_message_that_kills_its_consumers_in_the_middle_of_20000(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Where thousands are held with it, its crashes bring none of them to the delivery limit."""
    use_crashing_worker(tmp_path, monkeypatch)
    messages = [message(event()) for _ in range(20_000)]
    await system.publish(*messages[:10_000], killer(), *messages[10_000:])
    async with supervised(system, workers):
        await _until_dead(system, 1, seconds_max=400)
        await system.until_stored(20_000, seconds_max=200)
    await system.settle()
    await _check_books(system, good=20_000, killers=1)


@both_paths_at_length
async def test_the_dead_queue_is_drained(system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the broker dead-letters becomes a letter with its bytes, headers and origin, and is decoded by nobody."""
    use_crashing_worker(tmp_path, monkeypatch)
    killers = [killer(number) for number in range(5)]
    await system.publish(*killers)
    await return_too_often(system, len(killers))
    await system.start_worker()
    await _until_dead(system, len(killers))
    await system.settle()
    await _check_books(system, good=0, killers=len(killers))
    letters = await _letters(system)
    assert {letter.body for letter in letters} == {sent.body for sent in killers}
    assert {letter.queue for letter in letters} == {f"{system.queue}.dead"}
    assert all(letter.headers["x-death"][0]["queue"] == system.queue for letter in letters)
    assert [worker.status for worker in system.workers] == [0]


@pytest.mark.slow  # the broker tries again what it could not route after three minutes
@pytest.mark.timeout(400)
async def test_a_dead_exchange_without_a_binding_loses_nothing(system: System) -> None:
    """While nothing is bound the broker keeps the message; a worker declares the binding, and gets it."""
    await system.publish(killer())
    connection = await aio_pika.connect(system.amqp_url)
    async with connection, connection.channel() as channel:
        dead_queue = await channel.get_queue(f"{system.queue}.dead")
        await dead_queue.unbind(f"{system.exchange}.dead", system.queue)
    await return_too_often(system, 1)
    assert await system.ready_messages(f"{system.queue}.dead") == 0
    await system.start_worker()
    await _until_dead(system, 1, seconds_max=300)
    await system.settle()
    await _check_books(system, good=0, killers=1)


class _Bytes(str):
    """A text that the AMQP library writes out as bytes that are not UTF-8."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        """What goes out."""
        return b"text/\xff\xfe\x00plain"


_NO_TEXT = _Bytes("written out as other bytes")


@pytest.mark.parametrize(
    ("properties", "is_refused"),
    [
        pytest.param(aiormq.spec.Basic.Properties(content_type=_NO_TEXT), True, id="content_type"),
        pytest.param(aiormq.spec.Basic.Properties(content_encoding=_NO_TEXT), True, id="content_encoding"),
        pytest.param(aiormq.spec.Basic.Properties(app_id=_NO_TEXT), False, id="app_id"),
        pytest.param(aiormq.spec.Basic.Properties(message_type=_NO_TEXT), False, id="type"),
        pytest.param(aiormq.spec.Basic.Properties(headers={_NO_TEXT: "value"}), False, id="header"),
        pytest.param(aiormq.spec.Basic.Properties(headers={"name": _NO_TEXT}), False, id="header value"),
    ],
)
async def test_properties_that_are_no_text(
    system: System, properties: aiormq.spec.Basic.Properties, *, is_refused: bool
) -> None:
    """Bytes that are not UTF-8 in a property that matters end in a letter, elsewhere in nothing; the worker lives."""
    odd, bad = message(event()), message(event(input_tokens=-1))  # the letter of the bad one keeps its properties
    for sent in (odd, bad):
        system.ledger.note_sent(sent)
        await _publish(system, sent.body, properties)
        system.ledger.note_confirmed(sent)
    await system.publish(message(event()))
    worker = await system.start_worker()
    await system.settle()
    found = await system.books()
    found.check()
    assert found.letters == ({"unsupported_content_type": 2} if is_refused else {"invalid": 1})
    assert len(found.stored) == (1 if is_refused else 2)
    assert not worker.has_logged("lost the broker")


@pytest.mark.slow  # a broken connection, 21 times
@pytest.mark.parametrize("delivery_path", ["library"])
async def test_what_the_library_cannot_read(system: System) -> None:
    """On the library's path such a message breaks the connection until it is in the dead queue: one letter, of it."""
    before, odd, after = message(event()), message(event()), message(event())
    await system.publish(before)
    await _publish(system, odd.body, aiormq.spec.Basic.Properties(content_type=_NO_TEXT))
    await system.publish(after)
    worker = await system.start_worker(wait_ready=False)
    await _until_dead(system, 1)
    await system.until_stored(2)
    await system.settle()
    (letter,) = await _letters(system)
    assert (letter.reason, letter.body, letter.queue) == ("delivery_limit", odd.body, f"{system.queue}.dead")
    losses = [line["why"] for line in worker.log_lines() if line["event"] == "lost the broker"]
    assert len(losses) == DELIVERIES_MAX
    assert all("USAGE_DELIVERY_PATH=fast can read it" in why for why in losses)


async def _publish(system: System, body: bytes, properties: aiormq.spec.Basic.Properties) -> None:
    connection = await aio_pika.connect(system.amqp_url)
    async with connection, connection.channel() as channel:
        underlay = await channel.get_underlay_channel()
        await underlay.basic_publish(
            body, exchange=system.exchange, routing_key="usage.recorded", properties=properties
        )


@both_paths_at_length
@pytest.mark.parametrize("place", [0, 250, 499], ids=["first", "middle", "last"])
async def test_a_poison_event_at_any_place_of_a_batch(system: System, place: int) -> None:
    """An event that the host's trigger refuses is a letter; the others of its message and its batch are stored."""
    await system.database.execute(
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'no poison here'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON ai_usage_logs FOR EACH ROW WHEN (NEW.model = 'poison')
        EXECUTE FUNCTION refuse()
        """
    )
    events = [event() for _ in range(500)]
    events[place]["model"] = "poison"
    await system.publish(message(*events))
    await system.start_worker()
    await system.settle()
    found = await system.books()
    found.check()
    assert (len(found.stored), found.letters) == (499, {"rejected_by_database": 1})
    assert found.letter_bodies == {json.dumps(events[place]).encode()}


@both_paths_at_length
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's peak memory")
async def test_large_messages_among_small_ones(system: System) -> None:
    """Messages of 1 MiB in the middle of small ones: bytes bound what is held, whatever the prefetch has grown to."""
    filler = {"text": "x" * 16_000}
    large = [message(*(event(request_metadata=filler) for _ in range(63))) for _ in range(150)]
    assert all(2**20 * 0.95 < len(sent.body) <= 2**20 for sent in large)
    small = [message(event()) for _ in range(3000)]
    await system.publish(*small[:1500])
    worker = await system.start_worker(USAGE_HELD_BYTES_MAX=str(HELD_BYTES_MAX))
    await system.until_stored(1500)
    before = _peak_bytes(worker.pid)
    await system.publish(*large, *small[1500:])
    await system.until_stored(3000 + 150 * 63, seconds_max=60)
    # A body is there up to five times: held, its metadata cut out, in the rows, joined for COPY, and in its socket.
    # The backlog is nearly four times that.
    assert _peak_bytes(worker.pid) - before < 5 * HELD_BYTES_MAX
    await system.settle()
    found = await system.books()
    found.check()
    assert found.letters == {}


def _peak_bytes(pid: int) -> int:
    """The most memory that a process has had so far."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    (peak,) = [line.split() for line in lines if line.startswith("VmHWM:")]
    return int(peak[1]) * 1024
