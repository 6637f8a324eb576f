"""A TCP proxy in a process of its own, which cuts, freezes, loses, delays, chops and corrupts what it carries.

    proxy = await Proxy.start(port_of_the_server, Protocol.AMQP)
    await proxy.tell(frozen=True)      # until told otherwise
    await proxy.cut()                  # every connection, once

Run as a program it takes lines of JSON from its standard input and answers each with a line.
"""

import asyncio
import json
import random
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from chaos.home import TESTS
from chaos.streams import Framing, Protocol, corrupted

LOOPBACK = "127.0.0.1"
READ_BYTES_MAX = 65_536
ANSWER_SECONDS_MAX = 30.0
PIECES_BYTES = (1, 1, 1, 1, 2, 3, 7, 100, 1000)


@dataclass(slots=True)
class Behaviour:
    """How bytes are carried, until told otherwise.

    `refuses` new connections; `frozen` holds everything back, also ends and new connections; `loses` everything, and
    goes on to do so on the connections that it has met, as where a router has forgotten them; `delay_ms` and as much as
    `jitter_ms` more for each piece; `chopped` into pieces of one byte and more; `corrupts` a byte of the framing of the
    next message of each connection, from the `client` or from the `server`. Of several servers the one on the port that
    it `prefers` is tried first.
    """

    refuses: bool = False
    frozen: bool = False
    loses: bool = False
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    chopped: bool = False
    corrupts: str = ""
    prefers: int = 0


class Link:
    """One connection through the proxy: both ends, and whether it is lost for ever."""

    def __init__(self, carrier: "Carrier", ends: tuple[asyncio.StreamWriter, asyncio.StreamWriter]) -> None:
        self._carrier = carrier
        self.ends = ends
        self.is_lost = False
        self.is_corrupted = False

    def abort(self) -> None:
        """Both sides at once, without a goodbye."""
        for end in self.ends:
            end.transport.abort()

    async def carry(self, side: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What comes from the `client` or from the `server`, to its end."""
        framing = Framing(self._carrier.protocol, from_client=side == "client")
        carrier = self._carrier
        with suppress(OSError):
            while data := await reader.read(READ_BYTES_MAX):
                behaviour = carrier.behaviour
                carrier.touched += behaviour.frozen or behaviour.loses or behaviour.chopped
                await carrier.moving.wait()
                self.is_lost = self.is_lost or behaviour.loses
                places = framing.places(data)
                if self.is_lost:
                    continue
                if behaviour.delay_ms or behaviour.jitter_ms:
                    carrier.touched += 1
                    await asyncio.sleep((behaviour.delay_ms + carrier.chance.uniform(0, behaviour.jitter_ms)) / 1000)
                if behaviour.corrupts == side and places and not self.is_corrupted:
                    self.is_corrupted = True
                    carrier.touched += 1
                    data = corrupted(data, places, carrier.chance)
                await self._write(writer, data)
        await carrier.moving.wait()  # an end is held back as well
        if self.is_lost:
            await asyncio.Event().wait()  # the other side never learns that this one has gone
        writer.close()

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        place = 0
        while place < len(data):
            size = self._carrier.chance.choice(PIECES_BYTES) if self._carrier.behaviour.chopped else len(data)
            writer.write(data[place : place + size])
            await writer.drain()
            place += size


class Carrier:
    """The proxy itself."""

    def __init__(self, server_port: int, protocol: Protocol, seed: int, others: Sequence[int] = ()) -> None:
        self.behaviour = Behaviour()
        self.moving = asyncio.Event()
        self.moving.set()
        self.chance = random.Random(seed)
        self.touched = 0
        self.protocol = protocol
        self._ports = [server_port, *others]
        self._turns = 0
        self._links: set[Link] = set()

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Somebody has connected."""
        if self.behaviour.refuses:
            self.touched += 1
            writer.transport.abort()
            return
        self.touched += self.behaviour.frozen
        await self.moving.wait()
        server = await self._connect_to_a_server()
        if server is None:
            writer.transport.abort()
            return
        server_reader, server_writer = server
        link = Link(self, (writer, server_writer))
        self._links.add(link)
        try:
            await asyncio.gather(
                link.carry("client", reader, server_writer), link.carry("server", server_reader, writer)
            )
        finally:
            link.abort()
            self._links.discard(link)

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Do as told; what there is to say about it."""
        if order.pop("cut", False):
            self.touched += len(self._links)
            for link in list(self._links):
                link.abort()
        for name, value in order.items():
            setattr(self.behaviour, name, value)
        if "corrupts" in order:
            for link in self._links:
                link.is_corrupted = False
        if "loses" in order:
            for link in self._links:  # at once: a connection without traffic is lost, too
                link.is_lost = link.is_lost or self.behaviour.loses
        (self.moving.clear if self.behaviour.frozen else self.moving.set)()
        return {"links": len(self._links), "touched": self.touched}

    async def _connect_to_a_server(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Several take turns, and one that refuses is passed over, as load balancers do it."""
        first = self._turns % len(self._ports)
        self._turns += 1
        if self.behaviour.prefers in self._ports:
            first = self._ports.index(self.behaviour.prefers)
        for port in self._ports[first:] + self._ports[:first]:
            with suppress(OSError):
                return await asyncio.open_connection(LOOPBACK, port)
        return None


class Proxy:
    """The handle: the proxy runs in a process of its own, and ends with this one."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self._lock = asyncio.Lock()
        self.port = port

    @classmethod
    async def start(cls, server_port: int, protocol: Protocol, *, seed: int = 0, others: Sequence[int] = ()) -> Self:
        """Start one in front of this port of the loopback interface; with others it is a load balancer for all."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "chaos.proxy", str(server_port), protocol, str(seed), *map(str, others)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=TESTS,
        )
        assert process.stdout is not None
        return cls(process, json.loads(await process.stdout.readline())["port"])

    async def tell(self, **order: Any) -> dict[str, Any]:
        """Change its behaviour (the fields of `Behaviour`); returns how many `links` it has, and what it has `touched`.

        `touched` counts connections that were cut, refused or corrupted, and pieces that were held back, lost, delayed
        or chopped.

        Raises:
            TimeoutError: it does not answer.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._lock, asyncio.timeout(ANSWER_SECONDS_MAX):
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            await self._process.stdin.drain()
            answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return answer

    async def cut(self) -> None:
        """End every connection that there is."""
        await self.tell(cut=True)

    async def close(self) -> None:
        """End it; its connections end with it."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


async def _serve(server_port: int, protocol: Protocol, seed: int, others: Sequence[int]) -> None:
    carrier = Carrier(server_port, protocol, seed, others)
    server = await asyncio.start_server(carrier.connect, LOOPBACK, 0)
    sys.stdout.write(json.dumps({"port": server.sockets[0].getsockname()[1]}) + "\n")
    sys.stdout.flush()
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while order := await orders.readline():
        sys.stdout.write(json.dumps(carrier.obey(json.loads(order))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    try:
        server_port, protocol, seed, *others = sys.argv[1:]
        asyncio.run(_serve(int(server_port), Protocol(protocol), int(seed), [int(port) for port in others]))
    except KeyboardInterrupt:
        sys.exit(130)
