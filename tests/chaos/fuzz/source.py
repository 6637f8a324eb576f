"""The stream of inputs of a seed: grown, damaged, repeated, and those that have shown something new once more."""

import random
from datetime import datetime

from conformance import load_fixtures
from event_texts import UUID_TEXT
from pamqp import encode

from chaos.fuzz import corpus
from chaos.fuzz.grow import Grower
from chaos.fuzz.inputs import Input, properties_of
from chaos.fuzz.mutate import mutate

RECENT_MAX = 300
NEW_MAX = 600
LARGE_SHARE = 0.001
_EVENTS = (1, 1, 2, 2, 3, 5, 8)
_JSON, _ONE, _MANY = b"application/json", b"application/cloudevents+json", b"application/cloudevents-batch+json"
_TYPES = (
    _JSON, _ONE, _MANY, b"APPLICATION/JSON", b'application/json; charset="UTF-8"', b"application/json;charset=utf-16",
    b"application/cloudevents+json; charset=utf-8", b"text/plain", b"", b" ", b";", b"json", b"\xff\xfe", b"a\x00b",
    b"application/json\x00", b"application/json;charset", b"x" * 255,
)  # fmt: skip
_ENCODINGS = (b"utf-8", b"UTF-8", b"identity", b"", b"gzip", b"deflate", b"utf-16", b"\xff", b"\x00")
_TABLES = (
    b"",
    encode.field_table({"x-delivery-count": 1})[4:],
    encode.field_table(
        {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "n": [1, {"a": None}]}
    )[4:],
    b"\x01aS\x00\x00\x00\x02\xff\x00",  # text that is none
    b"\x01a",  # cut short
)
_KEYS = (b"usage.recorded", b"usage.recorded", b"usage.recorded.x", b"usage.recorded.\xff\x00", b"")


class Source:
    """Inputs, one after another.

    Args:
        seed: the same inputs for the same seed, as long as `tell` is told the same.
        now: the times in them are around it.
    """

    def __init__(self, seed: str, now: datetime) -> None:
        self._chance = random.Random(seed)
        fixtures = load_fixtures()
        known = UUID_TEXT.strip('"')
        self.users = [*map(str, fixtures.users), known]
        self.organizations = [*map(str, fixtures.organizations), known]
        self._grower = Grower(self._chance, self.users, self.organizations, now)
        self._corpus = corpus.load(now)
        self._recent: list[Input] = []
        self._new: list[Input] = []
        self._seen: set[tuple[object, ...]] = set()

    def next(self) -> Input:
        """The next one."""
        chance = self._chance
        if chance.random() < LARGE_SHARE:
            large = chance.choice(self._corpus.large)
            return large if chance.random() < 0.5 else self._damaged(large)
        share = chance.random()
        if share < 0.50:
            made = self._grown()
        elif share < 0.62:
            made = self._damaged(self._grown())
        elif share < 0.76:
            made = self._damaged(chance.choice(self._corpus.small))
        elif share < 0.78:
            made = chance.choice(self._corpus.small)
        elif share < 0.87 and self._new:
            made = self._damaged(chance.choice(self._new))
        elif share < 0.97 and self._recent:
            made = self._again(chance.choice(self._recent))
        else:
            made = Input(chance.randbytes(chance.randrange(40)), self._properties(chance.choice(_TYPES[:3])))
        if chance.random() < 0.02:
            made = made._replace(routing_key=chance.choice(_KEYS))
        if len(self._recent) < RECENT_MAX:
            self._recent.append(made)
        else:
            self._recent[chance.randrange(RECENT_MAX)] = made
        return made

    def tell(self, one: Input, shown: set[tuple[object, ...]]) -> None:
        """What came of it; what has shown something that none has shown before is damaged further."""
        if shown <= self._seen:
            return
        self._seen |= shown
        if len(self._new) < NEW_MAX:
            self._new.append(one)
        else:
            self._new[self._chance.randrange(NEW_MAX)] = one

    @property
    def shown(self) -> int:
        """How many different things have been shown."""
        return len(self._seen)

    def _grown(self) -> Input:
        chance, grower = self._chance, self._grower
        is_native = chance.random() < 0.75
        one = grower.native if is_native else grower.envelope
        if chance.random() < 0.7:
            return Input(one().encode(), self._properties(_JSON if is_native else _ONE))
        count = chance.choice(_EVENTS) if chance.random() < 0.995 else chance.choice((50, 999, 1000, 1001))
        texts = [one() for _ in range(min(count, 12))]
        while len(texts) < count:  # a large one is long, not manifold
            texts.append(chance.choice(texts))
        return Input(grower.array(texts).encode(), self._properties(_JSON if is_native else _MANY))

    def _damaged(self, one: Input) -> Input:
        chance = self._chance
        body = mutate(chance, one.body, chance.choice(self._recent or self._corpus.small).body)
        return one._replace(body=body)

    def _again(self, one: Input) -> Input:
        """The same event again: as it was, in other words, with another content, or under other properties."""
        chance = self._chance
        way = chance.random()
        if way < 0.4:
            return one
        if way < 0.6:
            return one._replace(body=self._grower.respelled(one.body))
        if way < 0.8:
            return one._replace(body=one.body.replace(b'_tokens":1', b'_tokens":2', 1))
        if way < 0.9:
            return one._replace(body=one.body.replace(b"estimated_cost_usd", b"request_type", 1))
        return one._replace(properties=self._properties(chance.choice(_TYPES)))

    def _properties(self, content_type: bytes) -> bytes:
        """Those of the form, seldom others."""
        chance = self._chance
        if chance.random() < 0.9:
            return _plain(content_type)
        if content_type == _JSON and chance.random() < 0.3:
            return properties_of()
        return properties_of(
            content_type=content_type if chance.random() < 0.7 else chance.choice(_TYPES),
            content_encoding=chance.choice(_ENCODINGS) if chance.random() < 0.4 else None,
            headers=chance.choice(_TABLES) if chance.random() < 0.4 else None,
            message_id=chance.randbytes(8) if chance.random() < 0.3 else None,
            timestamp=chance.randbytes(8) if chance.random() < 0.3 else None,
            user_id=chance.choice((b"guest", b"\xff")) if chance.random() < 0.2 else None,
            app_id=chance.choice((b"chat", b"", b"a\x00", b"\xc3\xa9", b"\xff" * 255))
            if chance.random() < 0.5
            else None,
        )


_PLAIN = {one: properties_of(content_type=one) for one in _TYPES}


def _plain(content_type: bytes) -> bytes:
    return _PLAIN[content_type]
