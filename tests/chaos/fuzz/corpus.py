"""Where mutations begin: the conformance corpus, the examples, and bodies that no event is like."""

import gzip
import json
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from conformance import load_cases

from chaos.fuzz.inputs import Input, properties_of

EXAMPLES = Path(__file__).parents[3] / "schema" / "examples"
SMALL_BYTES_MAX = 4_000

_OTHERS = (
    b"",
    b" ",
    b"null",
    b"0",
    b'"',
    b"[]",
    b"[[]]",
    b"[{}]",
    b"{}",
    b'{"":{}}',
    b"\xef\xbb\xbf{}",
    b"\x00",
    b"NaN",
    b"[NaN]",
    b"-Infinity",
    b'"\\ud800"',
    b"\xed\xa0\x80",
    b"\xff\xfe{\x00}\x00",
    b"[" * 300 + b"]" * 300,
    b'{"a":' * 300 + b"1" + b"}" * 300,
    b"[" * 5000,
    b"9" * 5000,
    b"[" + b",".join([b"0"] * 1001) + b"]",
)


class Corpus(NamedTuple):
    """Inputs that a mutation takes little time for, and those that are mutated seldom."""

    small: list[Input]
    large: list[Input]


def load(now: datetime) -> Corpus:
    """All of them, the times around `now`."""
    found = [
        Input(
            case.body,
            properties_of(
                content_type=None if case.content_type is None else case.content_type.encode(),
                content_encoding=None if case.content_encoding is None else case.content_encoding.encode(),
            ),
        )
        for case in load_cases(now)
    ]
    plain = properties_of(content_type=b"application/json")
    event = json.loads((EXAMPLES / "event.json").read_bytes())
    lines = (EXAMPLES / "calls.ndjson").read_bytes()
    found += [
        Input(json.dumps(event | {"created_at": now.isoformat()}).encode(), plain),
        *(Input(line, plain) for line in lines.splitlines()),
        Input(lines, plain),
        *(Input(body, plain) for body in _OTHERS),
    ]
    compressed = gzip.compress(found[0].body, mtime=0)
    found += [Input(compressed, plain), Input(compressed, properties_of(content_encoding=b"gzip"))]
    return Corpus(
        [one for one in found if len(one.body) <= SMALL_BYTES_MAX],
        [one for one in found if len(one.body) > SMALL_BYTES_MAX],
    )
