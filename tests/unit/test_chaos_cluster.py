"""The chaos suite's cluster, without servers: load balancer, port mapper and wires, what is played on which."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import chaos.__main__ as command
import pytest
from chaos import cluster
from chaos.arrangement import Arrangement
from chaos.distribution import Mapper, caller
from chaos.proxy import LOOPBACK, Carrier
from chaos.registry import Fault, NotHereError
from chaos.run import Outcome
from chaos.streams import Protocol
from harness import until

from worker.demo.hosts import free_ports

SECONDS_MAX = 30.0
FLAGS, CREATION = bytes(8), bytes(4)
VERSIONS = bytes([77, 0, 0, 6, 0, 5])  # a node as others are, on TCP


def new_hello(name: str) -> bytes:
    """How a node greets the one that it connects to, since OTP 23."""
    return b"N" + FLAGS + CREATION + len(name).to_bytes(2, "big") + name.encode()


def old_hello(name: str) -> bytes:
    """The same before."""
    return b"n" + b"\0\x05" + bytes(4) + name.encode()


def with_length(data: bytes) -> bytes:
    """As the mapper's requests and greetings are sent."""
    return len(data).to_bytes(2, "big") + data


@pytest.mark.parametrize("hello", [new_hello("one@host"), old_hello("one@host"), new_hello("one@host") + b"extra"])
def test_a_greeting_names_who_connects(hello: bytes) -> None:
    """Both forms of the handshake are read, and the host is left out."""
    assert caller(hello) == "one"


# The load balancer.


@asynccontextmanager
async def balanced(servers: int) -> AsyncIterator[tuple[Carrier, list[int], Any]]:
    """So many servers that send their port, one more that refuses, a carrier before all, and how to ask it."""
    dead, *ports = free_ports(servers + 1)

    def answering(port: int) -> Any:
        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"%d\n" % port)
            await writer.drain()
            writer.close()

        return answer

    carrier = Carrier(dead, Protocol.AMQP, seed=1, others=ports)
    started = [await asyncio.start_server(answering(port), LOOPBACK, port) for port in ports]
    front = await asyncio.start_server(carrier.connect, LOOPBACK, 0)

    async def ask() -> int:
        reader, writer = await asyncio.open_connection(LOOPBACK, front.sockets[0].getsockname()[1])
        answer = await reader.readline()
        writer.close()
        return int(answer)

    async with asyncio.timeout(SECONDS_MAX):
        try:
            yield carrier, ports, ask
        finally:
            for server in (front, *started):
                server.close()


async def test_servers_take_turns_and_one_that_refuses_is_passed_over() -> None:
    """Nobody is sent to a server that is not there, and each other one is met."""
    async with balanced(2) as (_, ports, ask):
        assert {await ask() for _ in range(3)} == set(ports)


async def test_a_server_that_is_preferred_is_met_first_until_told_otherwise() -> None:
    """Every new connection goes there, and then they take turns again."""
    async with balanced(3) as (carrier, ports, ask):
        carrier.obey({"prefers": ports[1]})
        assert {await ask() for _ in range(5)} == {ports[1]}
        carrier.obey({"prefers": 0})
        assert {await ask() for _ in range(4)} == set(ports)


# The port mapper and the wires.


class Registered:
    """A node that does nothing but take connections."""

    def __init__(self, name: str, mapper_port: int) -> None:
        self.name = name
        self.accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._mapper_port = mapper_port
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        """Register with the mapper, as a node does."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.append(writer)
            await self.accepted.put((reader, writer))

        self._server = await asyncio.start_server(accept, LOOPBACK, 0)
        reader, registration = await asyncio.open_connection(LOOPBACK, self._mapper_port)
        port = self._server.sockets[0].getsockname()[1].to_bytes(2, "big")
        self._writers.append(registration)
        registration.write(
            with_length(b"\x78" + port + VERSIONS + len(self.name).to_bytes(2, "big") + self.name.encode() + b"\0\0")
        )
        answer = await reader.readexactly(6)
        assert answer[:2] == b"\x76\0"

    def stop(self) -> None:
        """As one that is killed."""
        self._server.close()
        for writer in self._writers:
            writer.close()


async def ask_mapper(port: int, request: bytes) -> bytes:
    """One question to the mapper."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    writer.write(with_length(request))
    answer = await reader.read()
    writer.close()
    return answer


async def wire_of(port: int, name: str) -> int | None:
    """Where the mapper sends those who look for a node."""
    answer = await ask_mapper(port, b"\x7a" + name.encode())
    return int.from_bytes(answer[2:4], "big") if answer[1] == 0 else None


@asynccontextmanager
async def mapped(*names: str) -> AsyncIterator[tuple[Mapper, list[Registered]]]:
    """A mapper, and nodes of these names."""
    (port,) = free_ports(1)
    mapper = Mapper(port)
    server = await asyncio.start_server(mapper.serve, LOOPBACK, port)
    nodes = [Registered(name, port) for name in names]
    async with asyncio.timeout(SECONDS_MAX):
        try:
            for node in nodes:
                await node.start()
            yield mapper, nodes
        finally:
            for node in nodes:
                node.stop()
            server.close()


@asynccontextmanager
async def connected(mapper: Mapper, caller_name: str, node: Registered) -> AsyncIterator[tuple[Any, Any, Any, Any]]:
    """A connection from one node to another, each side's reader and writer, the greeting read."""
    port = await wire_of(mapper.port, node.name)
    assert port is not None
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    hello = with_length(new_hello(f"{caller_name}@host"))
    writer.write(hello)
    far_reader, far_writer = await node.accepted.get()
    assert await far_reader.readexactly(len(hello)) == hello
    yield reader, writer, far_reader, far_writer
    writer.close()
    far_writer.close()


async def test_nodes_find_each_other_through_wires() -> None:
    """The mapper's port for a node is not the node's own, leads to it, and is known for as long as the node runs."""
    async with mapped("a", "b") as (mapper, (a, b)):
        async with connected(mapper, "b", a) as (reader, writer, far_reader, far_writer):
            writer.write(b"there")
            assert await far_reader.readexactly(5) == b"there"
            far_writer.write(b"back")
            assert await reader.readexactly(4) == b"back"
        names = await ask_mapper(mapper.port, b"\x6e")
        assert int.from_bytes(names[:4], "big") == mapper.port
        assert names[4:].decode().split()[1::5] == ["a", "b"]
        b.stop()
        await until(lambda: mapper.obey({})["nodes"] == ["a"], "the mapper knows that b has gone")
        assert await wire_of(mapper.port, "b") is None


async def test_a_node_that_starts_again_is_found_where_it_is_now() -> None:
    """Also where the mapper learns of its end only after its new start."""
    async with mapped("a") as (mapper, (old,)):
        new = Registered("a", mapper.port)
        await new.start()
        old.stop()
        async with connected(mapper, "b", new):
            assert old.accepted.empty()
        new.stop()


async def test_nothing_passes_between_nodes_that_are_apart_and_all_of_it_after() -> None:
    """In both directions, and what was sent comes in its order once they are joined."""
    async with (
        mapped("a", "b") as (mapper, (a, _)),
        connected(mapper, "b", a) as (reader, writer, far_reader, far_writer),
    ):
        mapper.obey({"part": [["a"], ["b", "c"]]})
        writer.write(b"there")
        far_writer.write(b"back")
        reading = [asyncio.ensure_future(far_reader.readexactly(10)), asyncio.ensure_future(reader.readexactly(4))]
        await until(lambda: mapper.obey({})["held"] == 2, "both directions are held back")
        writer.write(b"again")
        assert not any(one.done() for one in reading)
        mapper.obey({"part": []})
        assert await asyncio.gather(*reading) == [b"thereagain", b"back"]


async def test_nobody_learns_of_an_end_while_apart() -> None:
    """A side that gives its connection up is not seen to do so from the other."""
    async with (
        mapped("a", "b") as (mapper, (a, _)),
        connected(mapper, "b", a) as (_, writer, far_reader, far_writer),
    ):
        mapper.obey({"part": [["a"], ["b"]]})
        writer.close()
        reading = asyncio.ensure_future(far_reader.read())
        far_writer.write(b"back")
        await until(lambda: mapper.obey({})["held"] == 1, "what the other side says is held back")
        assert not reading.done()
        mapper.obey({"part": []})
        with suppress(ConnectionResetError):
            assert await reading == b""


async def test_those_on_one_side_and_tools_pass() -> None:
    """A parting is between nodes of different sides only."""
    async with mapped("a", "b", "c") as (mapper, (a, b, _)):
        mapper.obey({"part": [["a"], ["b", "c"]]})
        for name, node in (("c", b), ("rabbitmqcli-1-rabbit", a)):
            async with connected(mapper, name, node) as (_, writer, far_reader, _):
                writer.write(b"there")
                assert await far_reader.readexactly(5) == b"there"


# What is played on which servers.


def fault_of(name: str, arrangement: Arrangement) -> Fault:
    """One that does nothing."""

    async def act(*_: object) -> None:
        """Nothing happens."""

    return Fault(name, "test", "", act, arrangement=arrangement)


def test_runs_are_grouped_by_the_servers_that_they_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each arrangement is started once, for all its runs; one that this machine cannot have is left out."""
    happened: list[str] = []
    counts = dict.fromkeys(("lost", "doubled", "wrongly_dead", "misread", "made_up"), 0)

    @contextmanager
    def starting(arrangement: Arrangement) -> Iterator[str]:
        if arrangement is Arrangement.CLUSTER and not has_cluster:
            raise NotHereError("no cluster")
        happened.append(f"+{arrangement}")
        yield arrangement
        happened.append(f"-{arrangement}")

    async def play(servers: str, faults: list[Fault], seed: int) -> Outcome:
        happened.append(f"{faults[0].name} on {servers}")
        return Outcome([faults[0].name], seed, 1, 1, counts, 1.0, 0, {}, {})

    faults = {
        name: fault_of(name, arrangement)
        for name, arrangement in (("a", Arrangement.CLUSTER), ("b", Arrangement.SINGLE), ("c", Arrangement.CLUSTER))
    }
    monkeypatch.setattr(command, "FAULTS", faults)
    monkeypatch.setattr(command, "chaos_servers", starting)
    monkeypatch.setattr(command, "play", play)
    options = command.parse(["--json", str(tmp_path / "runs")])
    has_cluster = True
    assert command.play_all(options)
    single = ["+single", "b on single", "-single"]
    assert happened == [*single, "+cluster", "a on cluster", "c on cluster", "-cluster"]
    happened.clear()
    has_cluster = False
    assert command.play_all(options)
    assert happened == single


def test_a_cluster_is_not_to_be_had_without_rabbitmq(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its faults are left out, and the reader is told what to install."""
    monkeypatch.setattr(cluster, "find_script", lambda: None)
    with pytest.raises(NotHereError, match="apt-get install rabbitmq-server"), cluster.rabbitmq_cluster():
        pass
