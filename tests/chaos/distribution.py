"""Erlang's port mapper (epmd) with a wire between each pair of nodes, so that they can be parted.

Nodes of a cluster ask the mapper for each other's ports. This one gives out ports of its own, and carries what comes
there to the node: every connection between two nodes goes through it, without rights and on any system. The node that
connects says its name first, so both ends are known.

Nodes that are apart: nothing passes between them in either direction and no side is told, as where packets are lost;
what was under way comes after, if both sides still have their connection by then.

Run as a program it takes lines of JSON from its standard input and answers each with a line.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from random import SystemRandom
from typing import Any, Self

from chaos.home import TESTS
from chaos.proxy import LOOPBACK, READ_BYTES_MAX
from worker.demo.hosts import free_ports

# Of the mapper's protocol.
_REGISTER, _FIND, _LIST = 120, 122, 110
_REGISTERED, _FOUND = 118, 119
_NOT_THERE = bytes([_FOUND, 1])
_PORT_AT = slice(1, 3)
_TYPE_TO_VERSIONS_AT = slice(3, 9)  # node type, protocol, highest and lowest version
_NAME_LENGTH_AT = slice(9, 11)
_NAME_AT = 11
# Of the handshake: the connecting node's name stands behind its flags and its creation, since OTP 23 with its length.
_NEW_HELLO = ord("N")
_NEW_NAME_LENGTH_AT, _NEW_NAME_AT = slice(13, 15), 15
_OLD_NAME_AT = 7


class Parting:
    """Which nodes reach each other."""

    def __init__(self) -> None:
        self._sides: list[set[str]] = []
        self._changed = asyncio.Event()

    def part(self, sides: Sequence[Sequence[str]]) -> None:
        """From now on nodes of different sides do not reach each other; those of none, such as tools, reach all."""
        self._sides = [set(side) for side in sides]
        self._changed.set()
        self._changed = asyncio.Event()

    def is_between(self, one: str, other: str) -> bool:
        """Whether two nodes are on different sides."""
        sides = [next((place for place, side in enumerate(self._sides) if name in side), None) for name in (one, other)]
        return None not in sides and sides[0] != sides[1]

    async def until_joined(self, one: str, other: str) -> None:
        """At once where nothing is between them."""
        while self.is_between(one, other):
            await self._changed.wait()


class Mapper:
    """Answers the nodes on its port, and carries what they say to each other."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.parting = Parting()
        self.held = 0  # pieces that came while their way was parted
        self._answers: dict[str, bytes] = {}  # to whoever looks for the node
        self._ports: dict[str, int] = {}  # of the wires
        self._chance = SystemRandom()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection to the mapper: a question, or a node for as long as it runs."""
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                request = await _read_with_length(reader)
                if request[0] == _REGISTER:
                    await self._register(request, reader, writer)
                else:
                    writer.write(self._answer(request))
                    await writer.drain()
        finally:
            writer.close()

    def _answer(self, request: bytes) -> bytes:
        if request[0] == _FIND:
            return self._answers.get(request[1:].decode(), _NOT_THERE)
        assert request[0] == _LIST, f"the mapper was asked {request!r}"
        names = "".join(f"name {name} at port {port}\n" for name, port in self._ports.items())
        return self.port.to_bytes(4, "big") + names.encode()

    async def _register(self, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A node has started: its name is known until it closes this connection."""
        name_end = _NAME_AT + int.from_bytes(request[_NAME_LENGTH_AT], "big")
        name = request[_NAME_AT:name_end].decode()
        node_port = int.from_bytes(request[_PORT_AT], "big")

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._carry(name, node_port, reader, writer)

        wire = await asyncio.start_server(carry, LOOPBACK, 0)
        port = wire.sockets[0].getsockname()[1]
        versions = request[_TYPE_TO_VERSIONS_AT]
        found = bytes([_FOUND, 0]) + port.to_bytes(2, "big") + versions + request[_NAME_LENGTH_AT] + name.encode()
        answer = found + bytes(2)  # nothing extra
        self._answers[name], self._ports[name] = answer, port
        try:
            writer.write(bytes([_REGISTERED, 0]) + self._chance.randrange(4, 2**31).to_bytes(4, "big"))
            await writer.drain()
            await reader.read()
        finally:
            wire.close()
            if self._answers.get(name) is answer:  # and not already that of the node's next start
                del self._answers[name], self._ports[name]

    async def _carry(
        self, name: str, node_port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """A connection to this node's wire."""
        ends = [writer]
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                hello = await _read_with_length(reader)
                other = caller(hello)
                if self.parting.is_between(other, name):
                    await self.parting.until_joined(other, name)
                    return  # it has given up meanwhile, and tries again
                node_reader, node_writer = await asyncio.open_connection(LOOPBACK, node_port)
                ends.append(node_writer)
                node_writer.write(len(hello).to_bytes(2, "big") + hello)
                await asyncio.gather(
                    self._pass_on(other, name, reader, node_writer), self._pass_on(other, name, node_reader, writer)
                )
        finally:
            for end in ends:
                end.transport.abort()

    async def _pass_on(self, one: str, other: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(READ_BYTES_MAX):
                self.held += self.parting.is_between(one, other)
                await self.parting.until_joined(one, other)
                writer.write(data)
                await writer.drain()
        await self.parting.until_joined(one, other)  # before that the other side does not learn of the end, either
        writer.transport.abort()

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Do as told; what there is to say about it."""
        if "part" in order:
            self.parting.part(order["part"])
        return {"nodes": sorted(self._ports), "held": self.held}


def caller(hello: bytes) -> str:
    """The name, without its host, of the node that greets like this."""
    if hello[0] == _NEW_HELLO:
        name = hello[_NEW_NAME_AT : _NEW_NAME_AT + int.from_bytes(hello[_NEW_NAME_LENGTH_AT], "big")]
    else:
        name = hello[_OLD_NAME_AT:]
    return name.decode().partition("@")[0]


async def _read_with_length(reader: asyncio.StreamReader) -> bytes:
    """What is sent behind its length in two bytes; at least one byte.

    Raises:
        IncompleteReadError: the other side has gone.
    """
    length = int.from_bytes(await reader.readexactly(2), "big")
    return await reader.readexactly(max(1, length))


class Wires:
    """The handle: mapper and wires run in a process of their own, and end with this one."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chaos.distribution"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=TESTS,
            text=True,
            start_new_session=True,  # Ctrl-C is for whoever started it: nodes end first
        )
        self.port = int(self._read()["port"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def part(self, *sides: Sequence[str]) -> None:
        """Nodes of different sides do not reach each other from now on; without sides all do."""
        self.tell(part=sides)

    def tell(self, **order: Any) -> dict[str, Any]:
        """Returns the `nodes` that are registered, by their names without host, and how often something was `held`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(order)}\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End it; connections between nodes end with it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


async def _serve() -> None:
    (port,) = free_ports(1)
    mapper = Mapper(port)
    server = await asyncio.start_server(mapper.serve, LOOPBACK, port)
    sys.stdout.write(json.dumps({"port": port}) + "\n")
    sys.stdout.flush()
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while server.is_serving() and (order := await orders.readline()):
        sys.stdout.write(json.dumps(mapper.obey(json.loads(order))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_serve())
