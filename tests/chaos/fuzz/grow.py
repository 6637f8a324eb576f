"""Events made of parts: ordinary ones, and ones with odd values, names, blanks and repeats in any place."""

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

from event_texts import DATA_FIELDS, ENVELOPE_FIELDS, NATIVE_FIELDS, STRANGE_FIELDS

from chaos.fuzz.mutate import NUMBERS, STRINGS

# What the hosts' rules of `books.py` refuse, where they are on; ordinary values where they are not.
REFUSED_ENDPOINT, REFUSED_INPUT_TOKENS, REFUSED_TOKENS_MIN, REFUSED_TYPE = "/v1/refused", 13, 2_000_000_000, "late"

_ODD: dict[str, list[str]] = {
    name: [*texts, *(number.decode() for number in NUMBERS[:12])]
    for name, texts in {**ENVELOPE_FIELDS, **NATIVE_FIELDS}.items()
} | {
    "endpoint": [*DATA_FIELDS["endpoint"], f'"{REFUSED_ENDPOINT}"', '"' + "é" * 255 + '"', '"' + "🦉" * 256 + '"'],
    "model": [*DATA_FIELDS["model"], '"' + "m" * 100 + '"', '"' + "m" * 101 + '"'],
    "request_type": [*DATA_FIELDS["request_type"], f'"{REFUSED_TYPE}"', '"' + "🦉" * 50 + '"'],
    "input_tokens": [*DATA_FIELDS["input_tokens"], str(REFUSED_INPUT_TOKENS), str(REFUSED_TOKENS_MIN)],
    "estimated_cost_usd": [*DATA_FIELDS["estimated_cost_usd"], *(number.decode() for number in NUMBERS)],
}
_ANYWHERE = [text.decode() for text in (*NUMBERS, *STRINGS[:3], b"[]", b"{}", b"[{}]", b"true", b"null", b'"\\ud800"')]
_SEPARATORS = ((",", ":"), (",", ":"), (", ", ": "), (" ,\n", "\t:\r\n "))
_MODELS = ('"gpt-4o-mini"', '"claude"', '"m"', '""', '"modèle"', '"\\u006d"')
_UNKNOWN = '"dddddddd-0000-4000-8000-00000000dead"'
_OPTIONAL_SHARE = 0.4
HOST_SHARE = 0.02  # of the values that a host may refuse


class Grower:
    """Makes texts of events.

    Args:
        chance: decides everything.
        users: ids that exist; of `organizations` the same.
        now: the times are around it.
    """

    def __init__(self, chance: random.Random, users: list[str], organizations: list[str], now: datetime) -> None:
        self._chance = chance
        self._users = [f'"{user}"' for user in users]
        self._organizations = [f'"{organization}"' for organization in organizations]
        self._now = now.astimezone(UTC)

    def native(self) -> str:
        """A native event."""
        members = [("id", self._id()), ("created_at", self._time()), *self._data()]
        return self._object(self._disturbed(members))

    def envelope(self) -> str:
        """A CloudEvent."""
        chance = self._chance
        members = [
            ("specversion", '"1.0"'),
            ("id", self._id() if chance.random() < 0.7 else f'"call-{chance.randrange(10**9)}"'),
            ("source", chance.choice(('"urn:x"', '"https://chat.example/é"'))),
            ("type", '"call"'),
            ("time", self._time()),
            ("data", self._object(self._disturbed(self._data()))),
        ]
        if chance.random() < 0.2:
            members.append((chance.choice(("extension", "subject", "datacontenttype")), '"application/json"'))
        return self._object(self._disturbed(members))

    def array(self, texts: list[str]) -> str:
        """An array of these."""
        comma = self._chance.choice(_SEPARATORS)[0]
        return self._chance.choice(("[", "[", " [ ", "\r\n[\t")) + comma.join(texts) + "]"

    def respelled(self, body: bytes) -> bytes:
        """The same JSON in other words, where it is JSON: other blanks, escapes, order of keys."""
        try:
            value: Any = json.loads(body)
        except (ValueError, RecursionError):
            return body
        if isinstance(value, dict) and self._chance.random() < 0.5:
            names = list(value)
            self._chance.shuffle(names)
            value = {name: value[name] for name in names}
        text = json.dumps(value, ensure_ascii=self._chance.random() < 0.5, indent=self._chance.choice((None, None, 1)))
        return text.encode("utf-8", "surrogatepass")

    def _data(self) -> list[tuple[str, str]]:
        chance = self._chance
        some = chance.random
        members = [("user_id", self._of(self._users)), ("organization_id", self._of(self._organizations))]
        input_ = chance.randrange(10_000) if some() > HOST_SHARE else REFUSED_INPUT_TOKENS
        output = chance.randrange(1000)
        which = chance.randrange(8)
        if which != 1:
            members.append(("input_tokens", str(input_)))
        if which > 1:
            members.append(("output_tokens", str(output)))
        if which in {1, 2, 3}:
            members.append(("tokens_used", str(input_ + (output if which > 1 else 0))))
        if some() < _OPTIONAL_SHARE:
            members.append(("endpoint", '"/v1/chat"' if some() > HOST_SHARE else f'"{REFUSED_ENDPOINT}"'))
        if some() < 2 * _OPTIONAL_SHARE:
            members.append(("model", chance.choice(_MODELS)))
        if some() < _OPTIONAL_SHARE:
            members.append(("request_type", '"chat"' if some() > HOST_SHARE else f'"{REFUSED_TYPE}"'))
        if some() < _OPTIONAL_SHARE:
            members.append(("estimated_cost_usd", self._cost()))
        if some() < _OPTIONAL_SHARE:
            members.append(("request_metadata", self._metadata()))
        return members

    def _disturbed(self, members: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Mostly as they were; else one thing in three is changed that may be."""
        chance = self._chance
        if chance.random() < 0.5:
            return members
        for _ in range(chance.choice((1, 1, 2, 3))):
            at = chance.randrange(len(members))
            name, text = members[at]
            way = chance.randrange(10)
            if way <= 4:
                members[at] = (name, chance.choice(_ODD.get(name, _ANYWHERE)))
            elif way == 5:
                members[at] = (name, chance.choice(_ANYWHERE))
            elif way == 6:
                members.insert(chance.randrange(len(members) + 1), (name, chance.choice(_ODD.get(name, _ANYWHERE))))
            elif way == 7:
                members.insert(chance.randrange(len(members) + 1), self._strange(name))
            elif way == 8:
                members[at] = (f"\\u{ord(name[0]):04x}{name[1:]}" if name else name, text)
            elif len(members) > 1:
                del members[at]
        if chance.random() < 0.3:
            chance.shuffle(members)
        return members

    def _strange(self, name: str) -> tuple[str, str]:
        chance = self._chance
        if chance.random() < 0.5:
            strange = chance.choice(sorted(STRANGE_FIELDS))
            return strange, STRANGE_FIELDS[strange][0]
        return chance.choice((name[:-1], name.upper(), f"{name} ", f"{name}\\u0000", f"data.{name}")), "1"

    def _object(self, members: list[tuple[str, str]]) -> str:
        comma, colon = self._chance.choice(_SEPARATORS)
        return "{" + comma.join([f'"{name}"{colon}{text}' for name, text in members]) + "}"

    def _id(self) -> str:
        digits = f"{self._chance.getrandbits(128):032x}"
        if self._chance.random() < 0.2:
            digits = digits.upper()
        return f'"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"'

    def _of(self, known: list[str]) -> str:
        return _UNKNOWN if self._chance.random() < 0.01 else self._chance.choice(known)

    def _time(self) -> str:
        chance = self._chance
        at = self._now - timedelta(microseconds=chance.randrange(30 * 86_400 * 10**6))
        text = at.replace(tzinfo=None).isoformat(chance.choice("TTt"), chance.choice(("microseconds", "seconds")))
        if "." in text:
            text = text[: len(text) - chance.choice((0, 0, 0, 3, 5))] + chance.choice(("", "", "999999999"))
        return f'"{text}{chance.choice(("Z", "Z", "z", "+00:00", "-00:00", "+05:30", "-23:59"))}"'

    def _cost(self) -> str:
        chance = self._chance
        text = f"{chance.random() * chance.choice((1e-6, 1e-3, 1, 9999)):.{chance.choice((0, 2, 6, 7, 9, 17))}f}"
        return f'"{text}"' if chance.random() < 0.4 else text

    def _metadata(self) -> str:
        chance = self._chance
        members = []
        for _ in range(chance.randrange(4)):
            value = chance.choice(
                (
                    "1",
                    "1.50",
                    '"é"',
                    '"x"',
                    "true",
                    "null",
                    "[1,[2]]",
                    '{"b":[]}',
                    "-0.0",
                    "1e3",
                    "12345678901234567890",
                )
            )
            members.append((chance.choice("abcd"), value if chance.random() < 0.9 else chance.choice(_ANYWHERE)))
        return self._object(members)
