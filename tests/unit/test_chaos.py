"""The chaos suite's own parts, without servers: its streams, proxy, runs and their table."""

import asyncio
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import chaos.faults  # noqa: F401 - fills the registry
import pytest
from chaos.home import TESTS
from chaos.proxy import LOOPBACK, Carrier
from chaos.registry import FAULTS
from chaos.report import GROUPS, MARKS, PAGE, README, README_MARKS, how_played, summary, table
from chaos.run import Outcome, mix
from chaos.streams import WRONG_CHANNEL_MIN, WRONG_TYPE, Field, Framing, Place, Protocol, corrupted
from harness import until

from worker.demo.hosts import free_ports

GREETING = b"AMQP\x00\x00\x09\x01"
SECONDS_MAX = 30.0


def frame(payload: bytes, kind: int = 1) -> bytes:
    """A frame of AMQP 0-9-1."""
    return bytes([kind, 0, 1]) + len(payload).to_bytes(4, "big") + payload + b"\xce"


def typed(kind: bytes, payload: bytes) -> bytes:
    """A message of Postgres's protocol."""
    return kind + (len(payload) + 4).to_bytes(4, "big") + payload


def untyped(payload: bytes) -> bytes:
    """What a Postgres client says before it may do anything."""
    return (len(payload) + 4).to_bytes(4, "big") + payload


STARTUP = b"\0\3\0\0user\0me\0\0"
TLS_REQUEST = untyped(b"\x04\xd2\x16\x2f")
STREAMS = {
    "AMQP client": (Protocol.AMQP, True, [GREETING, frame(b"start"), frame(b""), frame(bytes(300), 3)], 1),
    "AMQP server": (Protocol.AMQP, False, [frame(b"start"), frame(bytes(300), 3)], 0),
    "Postgres client": (Protocol.POSTGRES, True, [untyped(STARTUP), typed(b"p", b"secret"), typed(b"X", b"")], 1),
    "Postgres client that asks for TLS": (
        Protocol.POSTGRES,
        True,
        [TLS_REQUEST, untyped(STARTUP), typed(b"Q", b"SELECT 1")],
        2,
    ),
    "Postgres server": (Protocol.POSTGRES, False, [typed(b"R", bytes(4)), typed(b"Z", b"I")], 0),
    "Postgres server that refuses TLS": (Protocol.POSTGRES, False, [b"N", typed(b"R", bytes(4)), typed(b"Z", b"I")], 1),
}


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("seed", range(20))
def test_framing_is_found_however_the_stream_is_cut(stream: str, seed: int) -> None:
    """Whatever pieces a stream comes in, the framing of its messages is found, and nothing else."""
    protocol, from_client, parts, untyped_parts = STREAMS[stream]
    expected, place = set(), 0
    for number, part in enumerate(parts):
        if number >= untyped_parts:
            expected |= framing_of(protocol, place, len(part))
        place += len(part)
    data = b"".join(parts)
    chance = random.Random(seed)
    framing = Framing(protocol, from_client=from_client)
    found, place = set(), 0
    while place < len(data):
        piece = data[place : place + (1 if seed == 0 else chance.randint(1, 40))]
        found |= {(place + at, field) for at, field in framing.places(piece)}
        place += len(piece)
    assert found == expected


def framing_of(protocol: Protocol, start: int, length: int) -> set[tuple[int, Field]]:
    """Of a message that stands there."""
    if protocol is Protocol.POSTGRES:
        return {(start, Field.TYPE), *((start + at, Field.LENGTH) for at in range(1, 5))}
    lengths = ((start + at, Field.LENGTH) for at in range(3, 7))
    return {(start, Field.TYPE), (start + 1, Field.CHANNEL), *lengths, (start + length - 1, Field.END)}


def test_corruption_overwrites_any_field_and_makes_nothing_that_is_valid() -> None:
    """One byte of the first frame, of any field; a type and a channel that nobody has, and an end that is none."""
    sent = frame(b"payload") + frame(b"next")
    places = Framing(Protocol.AMQP, from_client=False).places(sent)
    changed: dict[Field, set[int]] = {field: set() for field in Field}
    fields = dict(places)
    for seed in range(200):
        damaged = corrupted(sent, places, random.Random(seed))
        (at,) = (at for at in range(len(sent)) if damaged[at] != sent[at])
        changed[fields[at]].add(at)
        assert fields[at] is not Field.TYPE or damaged[at] == WRONG_TYPE
        assert fields[at] is not Field.CHANNEL or damaged[at] >= WRONG_CHANNEL_MIN
    assert changed == {Field.TYPE: {0}, Field.CHANNEL: {1}, Field.LENGTH: {3, 4, 5, 6}, Field.END: {14}}


def test_corruption_takes_what_there_is() -> None:
    """The last byte of a frame comes alone: it is its end."""
    assert corrupted(b"\xce", [Place(0, Field.END)], random.Random(1))[0] != 0xCE


class Wire:
    """Two ends of a connection through a proxy whose behaviour a test may change."""

    def __init__(self, carrier: Carrier, client: Any, server: Any) -> None:
        self.carrier = carrier
        self.client_reader, self.client_writer = client
        self.server_reader, self.server_writer = server

    async def pass_on(self, data: bytes) -> bytes:
        """Sent by the client: what the server has of it."""
        self.client_writer.write(data)
        received: bytes = await self.server_reader.readexactly(len(data))
        return received


@asynccontextmanager
async def wire(protocol: Protocol = Protocol.AMQP) -> AsyncIterator[Wire]:
    """A server, a proxy in this process and a client of it."""
    (port,) = free_ports(1)
    carrier = Carrier(port, protocol, seed=1)
    accepted: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set_result((reader, writer))

    async with asyncio.timeout(SECONDS_MAX):
        server = await asyncio.start_server(accept, LOOPBACK, port)
        proxy = await asyncio.start_server(carrier.connect, LOOPBACK, 0)
        client = await asyncio.open_connection(LOOPBACK, proxy.sockets[0].getsockname()[1])
        made = Wire(carrier, client, await accepted)
        await until(lambda: carrier.obey({})["links"] == 1, "the proxy knows the connection")
        try:
            yield made
        finally:
            carrier.obey({"cut": True, "frozen": False, "loses": False})
            made.client_writer.close()
            made.server_writer.close()
            proxy.close()
            server.close()
            await proxy.wait_closed()


async def test_a_proxy_carries_what_it_is_given_in_pieces_and_late() -> None:
    """Chopped and delayed, the bytes are the same and in their order."""
    data = random.Random(2).randbytes(5000)
    async with wire() as through:
        assert await through.pass_on(data) == data
        through.carrier.obey({"chopped": True, "delay_ms": 1, "jitter_ms": 1})
        assert await through.pass_on(data) == data


async def test_a_frozen_proxy_holds_everything_back() -> None:
    """Nothing passes and nobody is told; then all of it does."""
    async with wire() as through:
        through.carrier.obey({"frozen": True})
        passing = asyncio.ensure_future(through.pass_on(b"held"))
        await asyncio.wait({passing}, timeout=0.2)
        assert not passing.done()
        through.carrier.obey({"frozen": False})
        assert await passing == b"held"


async def test_a_connection_that_was_lost_stays_lost() -> None:
    """What was sent meanwhile never comes, nor does what is sent after, nor the news that the other side has gone."""
    async with wire() as through:
        through.carrier.obey({"loses": True})
        through.carrier.obey({"loses": False})
        through.client_writer.write(b"lost")
        through.client_writer.close()
        waiting = asyncio.ensure_future(through.server_reader.read(1))
        await asyncio.wait({waiting}, timeout=0.2)
        assert not waiting.done()
        through.carrier.obey({"cut": True})
        assert await waiting == b""


async def test_a_cut_ends_both_sides() -> None:
    """Both see the end, and a proxy that refuses lets nobody in."""
    async with wire() as through:
        through.carrier.obey({"cut": True})
        assert await through.server_reader.read() == b""
        assert await through.client_reader.read() == b""


async def test_a_frozen_proxy_holds_back_an_end_with_nothing_before_it() -> None:
    """The other side learns of it when all moves again."""
    async with wire() as through:
        through.carrier.obey({"frozen": True})
        through.client_writer.close()
        ending = asyncio.ensure_future(through.server_reader.read(1))
        await asyncio.wait({ending}, timeout=0.2)
        assert not ending.done()
        through.carrier.obey({"frozen": False})
        assert await ending == b""


async def test_a_frozen_proxy_opens_no_connection_to_its_server() -> None:
    """Who connects meanwhile is let through afterwards, with what was sent until then."""
    (port,) = free_ports(1)
    carrier = Carrier(port, Protocol.AMQP, seed=1)
    accepted: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set_result((reader, writer))

    carrier.obey({"frozen": True})
    server = await asyncio.start_server(accept, LOOPBACK, port)
    proxy = await asyncio.start_server(carrier.connect, LOOPBACK, 0)
    async with asyncio.timeout(SECONDS_MAX), server, proxy:
        _, writer = await asyncio.open_connection(LOOPBACK, proxy.sockets[0].getsockname()[1])
        writer.write(GREETING)
        await asyncio.wait({accepted}, timeout=0.2)
        assert not accepted.done()
        assert carrier.obey({"frozen": False})["touched"] == 1
        server_reader, server_writer = await accepted
        assert await server_reader.readexactly(len(GREETING)) == GREETING
        await until(lambda: carrier.obey({})["links"] == 1, "the proxy knows the connection")
        writer.close()
        server_writer.close()
        await until(lambda: carrier.obey({"cut": True})["links"] == 0, "the proxy has let go")


async def test_corruption_is_of_one_byte() -> None:
    """Of the next message of each connection; its body and the messages behind are whole."""
    async with wire() as through:
        assert await through.pass_on(GREETING) == GREETING
        through.carrier.obey({"corrupts": "client"})
        sent = frame(b"payload") + frame(b"next")
        received = await through.pass_on(sent)
        assert [at for at in range(len(sent)) if received[at] != sent[at]] in ([0], [1], [3], [4], [5], [6], [14])
        assert through.carrier.obey({})["touched"] == 1


# Workers that are not the product's.

_APPLY = """
from chaos import broken_worker, dying_worker, poisoned_worker
for broken in broken_worker.MISTAKES.values():
    broken()
for deadly in dying_worker.POINTS.values():
    deadly(dying_worker.Point(1))
poisoned_worker.die_of_a_mark()
"""


def test_what_the_suites_own_workers_replace_is_there() -> None:
    """Every point and every mistake finds in the product what it takes the place of."""
    subprocess.run([sys.executable, "-c", _APPLY], cwd=TESTS, check=True, timeout=90)


# Runs and their table.


def outcome(*faults: str, lost: int = 0, seconds: float | None = 1.0) -> Outcome:
    """A run."""
    counts = {"lost": lost, "doubled": 0, "wrongly_dead": 0, "misread": 0, "made_up": 0}
    return Outcome(list(faults), 1, 1000, 1000, counts, seconds, 0, {}, {})


@pytest.mark.parametrize("seed", range(50))
def test_a_mix_is_of_different_kinds_and_the_seeds_own(seed: int) -> None:
    """Two faults that would stand in each other's way are not drawn, and a seed draws the same again."""
    drawn = mix(FAULTS, seed)
    assert len({fault.kind for fault in drawn}) == len(drawn) in {2, 3}
    assert all(fault.mixes for fault in drawn)
    assert drawn == mix(FAULTS, seed)


def test_a_run_is_right_only_where_all_is() -> None:
    """One lost event, or a recovery that has not come, and it is wrong."""
    assert outcome("RabbitMQ killed").is_right
    assert not outcome("RabbitMQ killed", lost=1).is_right
    assert not outcome("RabbitMQ killed", seconds=None).is_right


def test_the_table_adds_up_runs_by_fault() -> None:
    """A row a fault, one for several at once, one for all."""
    made = table(
        [outcome("RabbitMQ killed"), outcome("RabbitMQ killed", seconds=None), outcome("a", "b", lost=2)], FAULTS
    )
    rows = {cells[1].strip(): [cell.strip() for cell in cells[3:-1]] for cells in map(_cells, made.splitlines()[2:])}
    assert rows == {
        "RabbitMQ killed": ["2", "2,000", "0", "0", "0", "1", "1.0, 1 too late"],
        "several at once": ["1", "1,000", "2", "0", "0", "0", "1.0"],
        "**all**": ["3", "3,000", "2", "0", "0", "1", "1.0, at most 1.0, 1 too late"],
    }


def test_the_summary_adds_up_runs_by_kind() -> None:
    """README has a row for some kinds together, and each kind of fault is in one of them."""
    assert {fault.kind for fault in FAULTS.values()} == {kind for kinds, _ in GROUPS.values() for kind in kinds}
    made = summary(
        [outcome("RabbitMQ killed"), outcome("RabbitMQ frozen", lost=1), outcome("Postgres killed"), outcome("a", "b")],
        FAULTS,
    )
    rows = {cells[1].strip(): [cell.strip() for cell in cells[3:-2]] for cells in map(_cells, made.splitlines()[2:])}
    assert rows == {
        "Postgres": ["1", "1,000", "0", "0", "0", "0"],
        "RabbitMQ": ["2", "2,000", "1", "0", "0", "0"],
        "several at once": ["1", "1,000", "0", "0", "0", "0"],
        "**all**": ["4", "4,000", "1", "0", "0", "0"],
    }


def test_the_page_says_how_the_runs_were_played() -> None:
    """By which path, on which loop, with which broker."""
    runs = [outcome("RabbitMQ killed"), outcome("RabbitMQ killed"), outcome("RabbitMQ killed")]
    runs[0].delivery_path, runs[1].event_loop = "library", "asyncio"
    for run in runs:
        run.rabbitmq = "4.3.1"
    faults = {name: FAULTS[name] for name in ("RabbitMQ killed", "Postgres killed")}
    failed = Outcome.failed([FAULTS["RabbitMQ killed"]], 7, "TimeoutError: it does not end")
    said = how_played([*runs, failed], faults).splitlines()
    assert said[0] == (
        "Of these 3 runs: 2 by the fast delivery path, 1 by the library delivery path; "
        "2 on uvloop, 1 on asyncio; 3 with RabbitMQ 4.3.1."
    )
    assert said[1:] == ["Not as promised: RabbitMQ killed (seed 7).", "Not played: Postgres killed."]


def test_a_run_that_failed_has_a_row() -> None:
    """It is wrong, and no figure of it is taken for one of a run that ended."""
    failed = Outcome.failed([FAULTS["RabbitMQ killed"]], 7, "TimeoutError: it does not end")
    assert not failed.is_right
    row = next(line for line in table([failed], FAULTS).splitlines() if line.startswith("| RabbitMQ killed"))
    assert [cell.strip() for cell in _cells(row)[3:-1]] == ["1", "0", "0", "0", "0", "1", "1 too late"]


def _cells(row_text: str) -> list[str]:
    return row_text.split("|")


def test_the_page_has_room_for_the_table_and_knows_only_faults_that_exist() -> None:
    """Both pages keep their marks, and no row is of a fault that was renamed since."""
    shown = README_MARKS.shown(README.read_text(encoding="utf-8"))
    assert "| **all** |" in shown
    shown = MARKS.shown(PAGE.read_text(encoding="utf-8"))
    named = {_cells(line)[1].strip() for line in shown.splitlines()[2:] if line.startswith("|")}
    assert named <= {*FAULTS, "several at once", "**all**"}


def test_each_fault_says_what_happens() -> None:
    """The table shows it."""
    assert all(fault.what.endswith(".") and len(fault.what) > 20 for fault in FAULTS.values())
