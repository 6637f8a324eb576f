"""What the quick cut of an event's metadata takes, the authority takes too, and cuts in the same place."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from usage_events.json_text import outline
from usage_events.judge import Form, judge
from usage_events.judge import _metadata_text as cut_slowly
from usage_events.rules import Window

from worker.decode import _metadata_text, decode

KEYS = (b'"request_metadata"', b'"request_metadat\\u0061"', b'"a"', b'"\\ud800"', b"1", b"")
VALUES = (
    b"1", b"01", b"-0", b"-", b"1.", b"1.5e+", b"1E-5", b"NaN", b"Infinity", b"true", b"nul", b"null", b"9" * 400,
    b"1e999", b'"x"', b'"\\ud800"', b'"\\q"', b'"\\u00"', b'"\x01"', b'"\x7f"', b'"\xff"', b'"\xc3\xa9"', b"{}",
    b"[1,]", b"[1 2]", b'{"a":1,}', b'{"a" 1}', b'{"b": [{"c":\n"\\u00e9"}]}', b"[" * 100 + b"]" * 100, b"'x'", b"//",
    b"",
)  # fmt: skip
BLANKS = (b"", b" ", b"\n", b"\x0b", b"\xef\xbb\xbf")

members = st.tuples(*(st.sampled_from(each) for each in (BLANKS, KEYS, BLANKS, VALUES, BLANKS))).map(
    lambda parts: parts[0] + parts[1] + parts[2] + b":" + parts[3] + parts[4]
)
bodies = st.tuples(st.lists(members, max_size=3), st.sampled_from((b"", b" ", b"x", b"\x00", b"}"))).map(
    lambda parts: b"{" + b",".join(parts[0]) + b"}" + parts[1]
)
WINDOW = Window.around(1_800_000_000_000_000, max_age_seconds=3600, max_ahead_seconds=300)


@given(bodies)
@example(b'{"request_metadata": {"a": 1}, "request_metadata":{"b" :2} }')
@example(b"{" + b'"a":{' * 100_000)
def test_what_is_cut_quickly_is_cut_as_the_authority_cuts_it(body: bytes) -> None:
    """Either it leaves the text to the authority, or both find JSON and the same metadata, of a double key the last."""
    cut = _metadata_text(body, Form.NATIVE)
    if cut is not None:
        outline(body)
        assert cut == cut_slowly(body, Form.NATIVE)


@pytest.mark.parametrize("metadata", [b"", b', "request_metadata": { "a":\t[1.50] }', b', "request_metadata": null'])
def test_a_refused_event_is_judged_without_the_slow_walk(metadata: bytes) -> None:
    """The usual mistake of a producer, a renamed field, costs no walk over the text: a flood of them is no brake."""
    body = b'{"input_token": 1' + metadata + b"}"
    assert _metadata_text(body, Form.NATIVE) == metadata.partition(b": ")[2]
    decoded = decode(body, "application/json", None, WINDOW)
    assert decoded.rejects[0].refusal == judge(body, Form.NATIVE, WINDOW)


def test_each_error_of_a_flood_suggests_the_name_that_was_meant() -> None:
    """The suggestion is the same the second time; a name that is far too long gets none."""
    for name, said in (("input_token", "did you mean input_tokens?"), ("x" * 100_000, "unknown field")):
        for _ in range(2):
            refusal = judge(f'{{"{name}": 1}}'.encode(), Form.NATIVE, WINDOW)
            assert said in str([error["message"] for error in getattr(refusal, "errors", [])])
