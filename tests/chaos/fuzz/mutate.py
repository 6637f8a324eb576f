"""Damage to bytes: what a fault of a producer's, of a proxy's or of a disk's may make of a message."""

import random
import re
from collections.abc import Callable

BODY_BYTES_MAX = 64 * 1024
_NUMBER = re.compile(rb"-?[0-9][0-9.eE+-]*")
_STRING = re.compile(rb'"[^"\\]*"')
_MEMBER = re.compile(rb'"[^"\\]*"\s*:\s*(?:"[^"\\]*"|[^][{},"]+)')

NUMBERS = (
    b"0", b"-0", b"-1", b"1.0", b"0.1", b"1e3", b"1E-3", b"2147483647", b"2147483648", b"-2147483648", b"4294967296",
    b"9007199254740993", b"9223372036854775807", b"9223372036854775808", b"18446744073709551616", b"1e308", b"1e309",
    b"1.7976931348623157e308", b"1.7976931348623159e308", b"5e-324", b"1e-400", b"1e131071", b"1e131072", b"1e999999",
    b"0.0000005", b"0.00000049999999999999999", b"9999.9999994999", b"9999.9999995", b"9999.999999", b"10000", b"01",
    b"+1", b".5", b"1.", b"1e", b"0x10", b"1_0", b"NaN", b"Infinity", b"-Infinity", b"9" * 309, b"9" * 400, b"9" * 401,
    b"0." + b"0" * 400 + b"1", b"1" + b"0" * 5000,
)  # fmt: skip
STRINGS = (
    b'""', b'"\\u0000"', b'"\x00"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\ud83d\\ude00"', '"\U0001f989"'.encode(),
    b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\x80"', b'"\xf4\x90\x80\x80"', b'"\\x"', b'"\\u12"', b'"\n"', b'"\x7f"',
    b'"\\"', b'"' + b"x" * 256 + b'"', b'"' + b"y" * 20_000 + b'"', b'"0000-01-01T00:00:00Z"',
    b'"2026-06-01T12:00:60Z"', b'"2026-06-01T24:00:00Z"', b'"9999-12-31T23:59:59.999999-23:59"',
    b'"2026-02-29T00:00:00Z"', b'"2026-06-01T12:00:00.000000000001Z"', b'"2026-06-01T12:00:00+00:60"',
    b'"00000000-0000-0000-0000-000000000000"', b'"{019c0000-0000-7000-8000-000000000001}"',
)  # fmt: skip
TOKENS = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"null", b"true", b"false", b" ", b"\t", b"\r\n", b"\x0b", b"\x00",
    b"\xef\xbb\xbf", b"\xc2\xa0", b"\xe2\x80\xa8", b"//", b"/**/", b"'", b"\\u", b"\\u0000", b"\\ud800", b"e", b"E",
    b"-", b".", b"\x1f", b"\xff", b'{"a":1}', b"[]", b',"id":1', b',"x":1',
)  # fmt: skip
CHARACTERS = b"--:.+ TZ0159afAFgG_"  # of ids, times and numbers


def mutate(chance: random.Random, body: bytes, other: bytes) -> bytes:
    """One change or several; pieces of `other` may come in."""
    bytes_max = max(BODY_BYTES_MAX, len(body) + 64)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 6))):
        body = chance.choice(_WAYS)(chance, body, other)
    return body[:bytes_max]


def _range(chance: random.Random, body: bytes) -> tuple[int, int]:
    """A short piece, seldom a long one."""
    start = chance.randrange(len(body) + 1)
    length = chance.randrange(9) if chance.random() < 0.8 else chance.randrange(len(body) + 1)
    return start, min(len(body), start + length)


def _flip(chance: random.Random, body: bytes, _: bytes) -> bytes:
    if not body:
        return body
    at = chance.randrange(len(body))
    return body[:at] + bytes([body[at] ^ 1 << chance.randrange(8)]) + body[at + 1 :]


def _overwrite(chance: random.Random, body: bytes, _: bytes) -> bytes:
    if not body:
        return body
    at = chance.randrange(len(body))
    return body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :]


def _insert(chance: random.Random, body: bytes, _: bytes) -> bytes:
    at = chance.randrange(len(body) + 1)
    return body[:at] + chance.choice(TOKENS) + body[at:]


def _delete(chance: random.Random, body: bytes, _: bytes) -> bytes:
    start, end = _range(chance, body)
    return body[:start] + body[end:]


def _repeat(chance: random.Random, body: bytes, _: bytes) -> bytes:
    start, end = _range(chance, body)
    times = chance.choice((2, 2, 2, 3, 9, 300))
    if (end - start) * times > BODY_BYTES_MAX:
        times = 2
    return body[:start] + body[start:end] * times + body[end:]


def _truncate(chance: random.Random, body: bytes, _: bytes) -> bytes:
    at = chance.randrange(len(body) + 1)
    return body[:at] if chance.random() < 0.8 else body[at:]


def _splice(chance: random.Random, body: bytes, other: bytes) -> bytes:
    return body[: chance.randrange(len(body) + 1)] + other[chance.randrange(len(other) + 1) :]


def _cross(chance: random.Random, body: bytes, other: bytes) -> bytes:
    start, end = _range(chance, other)
    at = chance.randrange(len(body) + 1)
    return body[:at] + other[start:end] + body[at:]


def _swap(chance: random.Random, body: bytes, _: bytes) -> bytes:
    first, second, third, fourth = sorted(chance.randrange(len(body) + 1) for _ in range(4))
    return body[:first] + body[third:fourth] + body[second:third] + body[first:second] + body[fourth:]


def _replace(pattern: re.Pattern[bytes], choices: tuple[bytes, ...]) -> Callable[[random.Random, bytes, bytes], bytes]:
    def replace(chance: random.Random, body: bytes, _: bytes) -> bytes:
        found = pattern.search(body, chance.randrange(len(body) + 1)) or pattern.search(body)
        if found is None:
            return body
        return body[: found.start()] + chance.choice(choices) + body[found.end() :]

    return replace


def _double_member(chance: random.Random, body: bytes, other: bytes) -> bytes:
    """A key that stands twice, mostly with another value."""
    found = _MEMBER.search(body, chance.randrange(len(body) + 1)) or _MEMBER.search(body)
    if found is None:
        return body
    key = found[0].partition(b":")[0]
    from_other = _MEMBER.search(other, chance.randrange(len(other) + 1))
    value = chance.choice((*NUMBERS[:8], *STRINGS[:4], b"null", b"{}", found[0].partition(b":")[2]))
    if from_other is not None and chance.random() < 0.5:
        value = from_other[0].partition(b":")[2]
    pair = key + b":" + value
    return body[: found.start()] + pair + b"," + found[0] + body[found.end() :]


def _within(chance: random.Random, body: bytes, _: bytes) -> bytes:
    """Some characters of a text become others that may stand in one like it, and its length stays."""
    texts = [found for found in _STRING.finditer(body) if len(found[0]) > len(b'""')]
    if not texts:
        return body
    found = chance.choice(texts)
    text = bytearray(found[0])
    for _turn in range(chance.choice((1, 2, 2, 3))):
        text[chance.randrange(1, len(text) - 1)] = chance.choice(CHARACTERS)
    return body[: found.start()] + bytes(text) + body[found.end() :]


def _case(chance: random.Random, body: bytes, _: bytes) -> bytes:
    start, end = _range(chance, body)
    return body[:start] + body[start:end].swapcase() + body[end:]


def _wrap(chance: random.Random, body: bytes, _: bytes) -> bytes:
    times = chance.choice((1, 1, 1, 2, 7, 8, 9)) if chance.random() < 0.9 else chance.choice((199, 200, 201, 1000))
    begin, end = chance.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"[{},", b"]"), (b" ", b"\n")))
    return begin * times + body + end * times


def _nest(chance: random.Random, body: bytes, _: bytes) -> bytes:
    """A value somewhere inside becomes deep."""
    found = _NUMBER.search(body, chance.randrange(len(body) + 1)) or _STRING.search(body)
    if found is None:
        return body
    times = chance.choice((1, 6, 7, 8)) if chance.random() < 0.8 else chance.choice((150, 198, 199, 200, 500))
    return body[: found.start()] + b"[" * times + found[0] + b"]" * times + body[found.end() :]


def _encode(chance: random.Random, body: bytes, _: bytes) -> bytes:
    """Another encoding of the same text."""
    text = body.decode("utf-8", "replace")
    return text.encode(chance.choice(("utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig", "utf-7")), "replace")


_WAYS: tuple[Callable[[random.Random, bytes, bytes], bytes], ...] = (
    _flip,
    _flip,
    _overwrite,
    _overwrite,
    _insert,
    _insert,
    _insert,
    _delete,
    _delete,
    _delete,
    _repeat,
    _repeat,
    _truncate,
    _splice,
    _cross,
    _swap,
    _replace(_NUMBER, NUMBERS),
    _replace(_NUMBER, NUMBERS),
    _replace(_NUMBER, NUMBERS),
    _replace(_STRING, STRINGS),
    _replace(_STRING, STRINGS),
    _replace(_STRING, NUMBERS),
    _replace(_NUMBER, STRINGS),
    _double_member,
    _double_member,
    _double_member,
    _within,
    _within,
    _case,
    _wrap,
    _nest,
    _encode,
)
