"""The delivery path: however a stream of frames is cut into pieces, the same deliveries come out of it."""

import asyncio
import itertools
from collections import Counter
from contextlib import suppress
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from chaos.streams import WRONG_CHANNEL_MIN, Field, Framing, Protocol
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, frame
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader, ProtocolHeader
from pamqp.heartbeat import Heartbeat

from worker.rabbitmq.deliveries import Gapless, from_frames
from worker.rabbitmq.frames import FrameSplitter, RawDelivery
from worker.rabbitmq.transport import DeliveryReader

EXCHANGES = st.text("abc-_.:", max_size=20)  # what the library takes
KEYS = st.text(max_size=20)
MESSAGE_ID_PROPERTIES = b"\x00\x80\x01m"


class Sent(NamedTuple):
    """A delivery as a broker sends it."""

    channel: int
    tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    body: bytes
    frame_bytes: int  # how much of the body goes into one frame

    def frames(self) -> list[bytes]:
        """Method, header and body frames."""
        deliver = commands.Basic.Deliver("ctag", self.tag, self.redelivered, self.exchange, self.routing_key)
        return [frame.marshal(deliver, self.channel), *content_frames(self.channel, self.body, self.frame_bytes)]

    def expected(self) -> RawDelivery:
        """What the splitter makes of it."""
        names = self.exchange.encode(), self.routing_key.encode()
        return RawDelivery(self.channel, self.tag, self.redelivered, *names, MESSAGE_ID_PROPERTIES, self.body)


def content_frames(channel: int, body: bytes, frame_bytes: int) -> list[bytes]:
    """Header and body frames of a content."""
    properties = commands.Basic.Properties(message_id="m")
    pieces = [body[at : at + frame_bytes] for at in range(0, len(body), frame_bytes)]
    return [
        frame.marshal(ContentHeader(body_size=len(body), properties=properties), channel),
        *(frame.marshal(ContentBody(piece), channel) for piece in pieces),
    ]


DELIVERIES = st.builds(
    Sent,
    channel=st.just(0),  # set by the stream
    tag=st.integers(1, 2**63 - 1),
    redelivered=st.booleans(),
    exchange=EXCHANGES,
    routing_key=KEYS,
    body=st.binary(max_size=60),
    frame_bytes=st.integers(1, 40),
)
OTHERS = st.sampled_from(
    [
        [frame.marshal(Heartbeat(), 0)],
        [frame.marshal(commands.Basic.ConsumeOk("ctag"), 1)],
        [frame.marshal(commands.Basic.Ack(7), 1)],
        [frame.marshal(commands.Channel.Flow(active=True), 1)],
    ]
)


class Stream(NamedTuple):
    """Frames in the order in which they are sent, and what is to come of them."""

    frames: list[bytes]
    passed: bytes
    deliveries: list[Sent]


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Frames of three channels and of the connection, interleaved as a broker may: each channel keeps its own order."""
    queues: list[list[tuple[bytes, bool, Sent | None]]] = []
    for channel in (1, 2, 65_535):
        queue: list[tuple[bytes, bool, Sent | None]] = []
        for item in draw(st.lists(DELIVERIES | OTHERS, max_size=4)):
            if isinstance(item, Sent):
                sent = item._replace(channel=channel)
                frames = sent.frames()
                queue += [(one, False, None) for one in frames[:-1]]
                queue.append((frames[-1], False, sent))  # the last one completes it
            else:
                queue += [(one, True, None) for one in item]
        queues.append(queue)
    ordered = []
    while any(queues):
        queue = draw(st.sampled_from([queue for queue in queues if queue]))
        ordered.append(queue.pop(0))
    return Stream(
        [one for one, _, _ in ordered],
        b"".join(one for one, passes, _ in ordered if passes),
        [sent for _, _, sent in ordered if sent is not None],
    )


def split(chunks: list[bytes]) -> tuple[list[RawDelivery], bytes]:
    """What comes of a stream in these pieces."""
    deliveries: list[RawDelivery] = []
    splitter = FrameSplitter(deliveries.extend)
    return deliveries, b"".join(splitter.feed(chunk) for chunk in chunks)


@given(stream=streams(), data=st.data())
def test_any_cut_gives_the_same(stream: Stream, data: st.DataObject) -> None:
    """Deliveries and passed bytes do not depend on where the network cuts the stream."""
    whole = b"".join(stream.frames)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=10)))
    pieces = [whole[start:end] for start, end in itertools.pairwise([0, *cuts, len(whole)])]
    taken, passed = split(pieces)
    assert (by_channel(taken), passed) == (by_channel([sent.expected() for sent in stream.deliveries]), stream.passed)


def by_channel(deliveries: list[RawDelivery]) -> list[RawDelivery]:
    """In the order of each channel; between channels there is none."""
    return sorted(deliveries, key=lambda delivery: delivery.channel)


@given(stream=streams())
def test_byte_by_byte(stream: Stream) -> None:
    """The smallest pieces give the same as the whole."""
    whole = b"".join(stream.frames)
    assert split([whole[at : at + 1] for at in range(len(whole))]) == split([whole])


@pytest.mark.parametrize("body", [b"", b"x", b"y" * 1000])
@pytest.mark.parametrize(
    "method",
    [
        commands.Basic.GetOk(1, False, "exchange", "key", 0),
        commands.Basic.Return(312, "NO_ROUTE", "exchange", "key"),
    ],
)
def test_contents_that_are_no_deliveries_pass(method: Frame, body: bytes) -> None:
    """What was fetched or returned is the library's: all of its frames pass, and a delivery after it is taken."""
    frames = b"".join([frame.marshal(method, 1), *content_frames(1, body, 100)])
    sent = Sent(1, 9, False, "e", "k", b"z", 10)
    assert split([frames, *sent.frames()]) == ([sent.expected()], frames)


def test_a_new_delivery_replaces_an_unfinished_one() -> None:
    """A channel that was closed in the middle of a body and opened again begins anew."""
    broken = Sent(1, 1, False, "e", "k", b"0123456789", 5).frames()[:-1]
    sent = Sent(1, 1, True, "e", "k", b"z", 10)
    assert split([*broken, *sent.frames()])[0] == [sent.expected()]


def test_the_servers_protocol_header_passes() -> None:
    """A server that speaks another version answers with a header that is no frame: the library reads it."""
    header = ProtocolHeader(0, 9, 1).marshal()
    assert split([header[:3], header[3:]]) == ([], header)


def test_deliveries_are_counted() -> None:
    """The reader learns from this count that the connection lives although nothing is passed."""
    splitter = FrameSplitter(lambda _: None)
    frames = Sent(1, 1, False, "e", "k", b"0123456789", 5).frames()
    splitter.feed(b"".join(frames))
    splitter.feed(frame.marshal(Heartbeat(), 0))
    assert splitter.deliveries == 1


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_broken_end_mark(part: int) -> None:
    """A stream that is out of step is no stream of frames: the connection is lost, never a delivery made up."""
    frames = Sent(1, 1, False, "e", "k", b"body", 10).frames()
    frames[part] = frames[part][:-1] + b"\x00"
    deliveries: list[RawDelivery] = []
    with pytest.raises(ConnectionError, match="a frame ends with 0x00 instead of 0xce"):
        FrameSplitter(deliveries.extend).feed(b"".join(frames))
    assert deliveries == []


def test_a_wrong_byte_of_framing_makes_up_no_delivery() -> None:
    """Whichever it is, of a type, a channel, a length or an end: what is passed on is what was sent, without a gap.

    The rest is refused, waited for, or passed to the library.
    """
    sent = [Sent(1, tag, False, "usage", "k", bytes([64 + tag]) * (300 + tag), 131_064) for tag in range(1, 5)]
    whole = b"".join(b"".join(one.frames()) for one in sent)
    expected = [(one.tag, one.body) for one in sent]
    seen = Counter[int]()
    for at, field in Framing(Protocol.AMQP, from_client=False).places(whole):
        for wrong in set(range(WRONG_CHANNEL_MIN if field is Field.CHANNEL else 0, 256)) - {whole[at]}:
            taken = without_gap(whole[:at] + bytes([wrong]) + whole[at + 1 :])
            assert taken == expected[: len(taken)], f"{wrong} at {at}, the {field} of a frame"
            seen[len(taken)] += 1
    assert seen.keys() == {0, 1, 2, 3}


def without_gap(data: bytes) -> list[tuple[int, bytes]]:
    """What the worker sees of a stream: tags and bodies."""
    taken: list[tuple[int, bytes]] = []
    receiver = SimpleNamespace(receive=lambda found: taken.extend((one.tag, one.body) for one in found))
    gapless = Gapless(receiver, 1, lambda _: None)
    splitter = FrameSplitter(lambda raws: gapless.receive([from_frames(raw, 1, "queue") for raw in raws]))
    with suppress(ConnectionError):
        splitter.feed(data)
    return taken


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([0, 2], "not in their order"),
        ([0, 1, 1], "not in their order"),
        ([0, 1, 3], "has 7 bytes where 4 were left of it"),
    ],
)
def test_frames_of_a_delivery_in_another_order_are_refused(places: list[int], said: str) -> None:
    """A body without its properties, properties twice, more of a body than there is."""
    frames = [*Sent(1, 1, False, "e", "k", b"body", 10).frames(), frame.marshal(ContentBody(b"7 bytes"), 1)]
    with pytest.raises(ConnectionError, match=said):
        split([b"".join(frames[place] for place in places)])


def test_a_method_that_is_longer_than_what_stands_in_it_is_refused() -> None:
    """Its length was damaged, and took in frames of others."""
    method, *content = Sent(1, 1, False, "e", "k", b"body", 10).frames()
    longer = method[:3] + (len(method) - 8 + 3).to_bytes(4, "big") + method[7:-1] + b"xxx" + method[-1:]
    with pytest.raises(ConnectionError, match="longer or shorter than what stands in it"):
        split([longer, *content])


# The reader in the socket's place.


def reader_of(*chunks: bytes, eof: bool = True) -> tuple[DeliveryReader, asyncio.StreamReader, list[RawDelivery]]:
    """A reader with these bytes to read."""
    inner = asyncio.StreamReader()
    for chunk in chunks:
        inner.feed_data(chunk)
    if eof:
        inner.feed_eof()
    deliveries: list[RawDelivery] = []
    return DeliveryReader(inner, deliveries.extend), inner, deliveries


async def test_the_library_reads_what_is_passed() -> None:
    """`readexactly` gives the other frames, byte for byte; at the end of the stream it says what it had."""
    other = frame.marshal(commands.Basic.Ack(7), 1)
    sent = Sent(1, 5, False, "e", "k", b"z", 10)
    reader, _, deliveries = reader_of(b"".join([*sent.frames(), other]))
    assert await reader.readexactly(7) + await reader.readexactly(len(other) - 7) == other
    assert deliveries == [sent.expected()]
    assert reader.at_eof()
    with pytest.raises(asyncio.IncompleteReadError):
        await reader.readexactly(1)


async def test_deliveries_alone_are_a_sign_of_life() -> None:
    """While nothing but deliveries comes, the library sees a heartbeat: it would take the connection for dead."""
    reader, _, deliveries = reader_of(b"".join(Sent(1, 5, False, "e", "k", b"z", 10).frames()))
    assert await reader.readexactly(8) == frame.marshal(Heartbeat(), 0)
    assert len(deliveries) == 1


async def test_paused_it_takes_nothing() -> None:
    """A paused reader leaves deliveries in the socket until it is resumed."""
    reader, _, deliveries = reader_of(b"".join(Sent(1, 5, False, "e", "k", b"z", 10).frames()))
    reader.pause()
    reading = asyncio.ensure_future(reader.readexactly(8))
    done, _ = await asyncio.wait({reading}, timeout=0.05)
    assert (done, deliveries) == (set(), [])
    reader.resume()
    assert await reading == frame.marshal(Heartbeat(), 0)
    assert len(deliveries) == 1


async def test_paused_it_lets_a_trickle_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats behind the deliveries of a paused reader arrive all the same, or the connection would be closed."""
    monkeypatch.setattr("worker.rabbitmq.transport.TRICKLE_SECONDS", 0.01)
    heartbeat = frame.marshal(Heartbeat(), 0)
    reader, _, _ = reader_of(heartbeat, eof=False)
    reader.pause()
    async with asyncio.timeout(10):
        assert await reader.readexactly(8) == heartbeat


async def test_without_a_receiver_everything_passes() -> None:
    """On the library's path the reader changes nothing, and adds no heartbeat of its own."""
    frames = b"".join(Sent(1, 5, False, "e", "k", b"z", 10).frames())
    inner = asyncio.StreamReader()
    inner.feed_data(frames)
    inner.feed_eof()
    reader = DeliveryReader(inner, None)
    assert await reader.readexactly(len(frames)) == frames
    assert reader.at_eof()


async def test_read_shows_what_is_there() -> None:
    """`read` takes from what was passed and never waits: aiormq uses it to show a broken frame."""
    other = frame.marshal(commands.Basic.Ack(7), 1)
    reader, _, _ = reader_of(other)
    await reader.readexactly(1)
    assert (await reader.read(3), await reader.read()) == (other[1:4], other[4:])
    assert await reader.read() == b""
