"""Texts of events for hypothesis: good ones, wrong ones, and texts that were damaged on the way."""

import json
from collections.abc import Callable

from hypothesis import strategies as st
from usage_events.judge import Form

NOW_TEXT = "2026-06-01T12:00:00.000000Z"
UUID_TEXT = '"019c0000-0000-7000-8000-000000000001"'

# JSON texts for each field: the first is an ordinary one, the others are good, wrong, and just between.
_TOKENS = [
    "7",
    "0",
    "14",
    "2147483647",
    "2147483648",
    "-1",
    "-0",
    "1.0",
    "1e3",
    "true",
    "null",
    '"7"',
    "[]",
    "9" * 4400,
]
_TEXTS = ['"x"', '""', '"é🦉"', '"\\u00e9\\ud83d\\ude00"', '"\\u0000"', '"\\ud800"', '"\\\\u0000"', "null", "7", "{}"]
_IDS = [
    UUID_TEXT,
    '"FFFFFFFF-ffff-0000-8000-ABCDEFabcdef"',
    '"x"',
    '"019c0000-0000-7000-8000-000000000001\\n"',
    '"019c00000-000-7000-8000-000000000001"',
    '"019c000000000000700080000000000000001"',
    "null",
    "1",
]
_TIMES = [
    f'"{NOW_TEXT}"', '"2026-06-01t14:00:00.1234567+02:00"', '"2026-06-01T12:05:00Z"', '"2026-06-01T12:05:00.000001Z"',
    '"2026-04-27T12:00:00Z"', '"2026-04-27T11:59:59.999999Z"', '"2026-02-30T00:00:00Z"', '"0000-02-29T00:00:00Z"',
    '"9999-12-31T23:59:59-23:59"', '"2026-06-01 12:00:00Z"', '"2026-06-01T12:00:00"', '"1780315200"', "1780315200",
    "null",
]  # fmt: skip
_COSTS = [
    '"0.5"', "0.5", "0", "-0.0", "0.0000005", "1.0000005", "9999.999999", "9999.9999995", "10000", "-1", "1e400",
    '"0.0000005"', '"1e-99999999999"', '"1e99999999999"', '"-0.0000004"', '"+1"', '".5"', '"1_0"', '"NaN"', '" 1"',
    "true", "null", "1E-400", "9" * 4400, "9" * 320,
]  # fmt: skip
_METADATA = [
    '{"a":1}', "{}", '{"a":[1.50,{"b":null}],"c":"é"}', '{"a":1e3,"a":2}', '{"a":1e999}', '{"a":1e131071,"a":1}',
    '{"a":"\\u0000"}', '{"a":"\\u0000","a":1}', '{"\\ud800":1}', '{"a":"\\\\u0000"}',
    '{ "a" : 123456789012345678901234567890 }', "[]", '"x"', "null",
    '{"a":' * 8 + "1" + "}" * 8, '{"a":' * 9 + "1" + "}" * 9, '{"a":' + "[" * 300 + "]" * 300 + "}",
    '{"a":' + "9" * 309 + "}", '{"a":"' + "x" * 16376 + '"}', '{"a":"' + "x" * 16377 + '"}',
]  # fmt: skip
DATA_FIELDS = {
    "user_id": _IDS, "organization_id": _IDS, "input_tokens": _TOKENS, "output_tokens": _TOKENS,
    "tokens_used": ["14", *_TOKENS],
    "endpoint": _TEXTS, "model": _TEXTS, "request_type": [*_TEXTS, '"' + "x" * 51 + '"'], "request_metadata": _METADATA,
    "estimated_cost_usd": _COSTS,
}  # fmt: skip
NATIVE_FIELDS = {"id": _IDS, "created_at": _TIMES, **DATA_FIELDS}
STRANGE_FIELDS = {"unknown": ["1", "null"], "inputTokens": ["1"], "": ["1"], "a.b": ["{}"], "\\ud800": ["1"]}
ENVELOPE_FIELDS = {
    "specversion": ['"1.0"', '"0.3"', "1.0"], "id": [UUID_TEXT, '"call-1"', '""', '"\\u0000"', "7"],
    "source": ['"urn:x"', '"é"', '""', "null"], "type": ['"t"', '""', "null"], "time": _TIMES,
    "datacontenttype": ['"application/json"', "null", "1"], "subject": ["null", '"s"', "1"],
    "extension": ["1", '"\\ud800"', '{"a":[1]}', "9" * 4400], "data_base64": ["null", '"e30="'],
}  # fmt: skip
_REQUIRED = {"id", "user_id", "organization_id", "created_at", "specversion", "source", "type", "time", "input_tokens"}


@st.composite
def _object_texts(draw: st.DrawFn, fields: dict[str, list[str]], *, wrong_max: int) -> list[str]:
    """The members of an object: mostly ordinary, at most `wrong_max` drawn freely or left out."""
    odd = draw(st.lists(st.sampled_from(sorted(fields)), max_size=wrong_max))
    given = draw(st.integers(0, 2 ** len(fields) - 1))  # a bit for each optional field: one draw is quicker than many
    members = []
    for index, (name, texts) in enumerate(fields.items()):
        if name in odd:
            members += [f'"{name}":{text}' for text in draw(st.lists(st.sampled_from(texts), max_size=2))]
        elif name in _REQUIRED or given >> index & 1:
            members.append(f'"{name}":{texts[0]}')
    if draw(st.integers(0, 9)) == 9:
        name = draw(st.sampled_from(sorted(STRANGE_FIELDS)))
        members.append(f'"{name}":{STRANGE_FIELDS[name][0]}')
    first = draw(st.integers(0, len(members)))
    return members[first:] + members[:first]


@st.composite
def _native_texts(draw: st.DrawFn) -> bytes:
    return ("{" + ",".join(draw(_object_texts(NATIVE_FIELDS, wrong_max=3))) + "}").encode()


@st.composite
def _cloudevent_texts(draw: st.DrawFn) -> bytes:
    data = "{" + ",".join(draw(_object_texts(DATA_FIELDS, wrong_max=2))) + "}"
    datas = [data, *draw(st.sampled_from([[], [], [], ["[]"], ["null"], ["{}"]]))]
    members = [*draw(_object_texts(ENVELOPE_FIELDS, wrong_max=2)), *(f'"data":{text}' for text in reversed(datas))]
    return ("{" + ",".join(members) + "}").encode()


def event_texts(form: Form) -> st.SearchStrategy[bytes]:
    """Texts of single events of a form, JSON to the letter, about half of them acceptable around `NOW_TEXT`."""
    return _native_texts() if form is Form.NATIVE else _cloudevent_texts()


def json_texts() -> st.SearchStrategy[bytes]:
    """JSON of any shape, written with and without blanks."""
    values = st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=6),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
        max_leaves=12,
    )
    writers: list[Callable[[object], str]] = [json.dumps, lambda value: json.dumps(value, indent=1, ensure_ascii=False)]
    return st.builds(lambda value, write: write(value).encode(), values, st.sampled_from(writers))


@st.composite
def damaged(draw: st.DrawFn, texts: st.SearchStrategy[bytes]) -> bytes:
    """A text with pieces removed, put in, repeated or replaced."""
    text = draw(texts)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 4)))
        piece = draw(
            st.sampled_from(
                [b"", b'"', b"\\", b",", b"}", b"]", b"[", b"{", b":", b"0", b"-", b".", b"e", b"NaN", b"\xff", b"\n"]
            )
            | st.just(text[start:end] * 2)
            | st.binary(max_size=3)
        )
        text = text[:start] + piece + text[end:]
    return text
