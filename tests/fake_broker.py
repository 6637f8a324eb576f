"""A broker without a wire, behind `Link.open`: it answers what a test says, when the test says so."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from usage_events.errors import BrokerUnavailableError, MessageTooLargeError, UsageEventsError
from usage_events.link import Target

LOST = BrokerUnavailableError("the link was lost")


@dataclass(eq=False)
class Published:
    """A message that waits for the broker's answer."""

    link: "FakeLink"
    body: bytes
    routing_key: str
    headers: Mapping[str, str] | None
    answer: "asyncio.Future[None]"

    @property
    def numbers(self) -> list[int]:
        """Its events, which carry a number as their tokens."""
        value = json.loads(self.body)
        return [event["input_tokens"] for event in (value if isinstance(value, list) else [value])]


@dataclass
class FakeBroker:
    """What it holds, what it has confirmed, and what it says to links and messages."""

    open_error: UsageEventsError | None = None
    publish_error: Exception | None = None
    bytes_max: int | None = None
    confirms_at_once: bool = False
    opens: int = 0
    waiting: list[Published] = field(default_factory=list)
    seen: list[Published] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    confirmed: set[int] = field(default_factory=set)
    link: "FakeLink | None" = None
    published: asyncio.Event = field(default_factory=asyncio.Event)

    async def open(self, _target: Target) -> "FakeLink":
        """A new link, or the error that a test wants."""
        self.opens += 1
        await asyncio.sleep(0)
        if self.open_error is not None:
            raise self.open_error
        self.link = FakeLink(self)
        return self.link

    def confirm(self, published: Published) -> None:
        """It is held, and the publisher knows."""
        self.hold(published)
        self.confirmed.update(published.numbers)
        self.waiting.remove(published)
        published.answer.set_result(None)

    def hold(self, published: Published) -> None:
        """It is held, whether the publisher will hear of it or not."""
        self.held += [number for number in published.numbers if number not in self.held]

    def refuse(self, published: Published, error: Exception) -> None:
        """The publisher gets an error for it."""
        self.waiting.remove(published)
        if not published.answer.cancelled():
            published.answer.set_exception(error)

    def lose_link(self, error: UsageEventsError = LOST) -> None:
        """All that waits on the link fails for this reason."""
        if self.link is not None:
            self.link.is_lost = True
            for published in [one for one in self.waiting if one.link is self.link]:
                self.refuse(published, error)

    def recover(self) -> None:
        """From now on everything is taken."""
        self.open_error = self.publish_error = self.bytes_max = None
        self.confirms_at_once = True
        for published in list(self.waiting):
            self.confirm(published)


class FakeLink:
    """What `Link` is to the courier."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self.is_lost = False

    async def publish(self, body: bytes, routing_key: str, headers: Mapping[str, str] | None = None) -> None:
        """Waits for the broker's answer; a message with a confirmed event in it is an error of the publisher."""
        broker = self._broker
        if self.is_lost:
            raise LOST
        published = Published(self, body, routing_key, headers, asyncio.get_running_loop().create_future())
        assert broker.confirmed.isdisjoint(published.numbers), "sent again after it was confirmed"
        broker.seen.append(published)
        broker.published.set()
        if broker.publish_error is not None:
            raise broker.publish_error
        if broker.bytes_max is not None and len(body) > broker.bytes_max:
            broker.lose_link()
            raise MessageTooLargeError(f"at most {broker.bytes_max}", broker.bytes_max)
        broker.waiting.append(published)
        if broker.confirms_at_once:
            broker.confirm(published)
        await published.answer

    async def close(self, _timeout_seconds: float = 0) -> None:
        """What waits is not known to be held."""
        if self._broker.link is self:
            self._broker.lose_link()


async def let_others_run() -> None:
    """Every task that can go on has gone on."""
    for _ in range(40):
        await asyncio.sleep(0)
