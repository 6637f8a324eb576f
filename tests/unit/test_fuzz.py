"""The fuzzer's own parts: its second reading of the contract, its inputs, and the mistakes that it has to notice."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from chaos.fuzz.inputs import Input, Setting, properties_of, read, write
from chaos.fuzz.plain_json import loose, same
from chaos.fuzz.reference import Row, verdicts
from chaos.fuzz.run import NOW, NOW_US, WINDOW, FoundError, Options, fuzz
from chaos.fuzz.source import Source
from conformance import Case, load_cases
from usage_events.contract import Event, Reason
from usage_events.rules import Window

from worker import decode as decode_module
from worker import fast_path
from worker.decode import Decoded
from worker.rabbitmq.properties import RawProperties

CASES = [case for case in load_cases(NOW) if not case.needs_database]
INPUTS_MAX = 20_000


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_second_reading_agrees_with_the_corpus(case: Case) -> None:
    """What the fuzzer holds the worker to is what the conformance corpus says, row for row and letter for letter."""
    found = verdicts(case.body, case.content_type, case.content_encoding, WINDOW)
    rows = [verdict.outcome for verdict in found if isinstance(verdict.outcome, Row)]
    letters = [verdict for verdict in found if isinstance(verdict.outcome, Reason)]
    assert [(UUID(bytes=row.id), UUID(bytes=row.user_id), *row[3:9]) for row in rows] == [
        (
            row.id, row.user_id, row.tokens_used, row.input_tokens, row.output_tokens, row.endpoint, row.model,
            row.request_type,
        )
        for row in case.rows
    ]  # fmt: skip
    for row, due in zip(rows, case.rows, strict=True):
        assert same(None if row.metadata is None else loose(row.metadata.decode()), due.request_metadata)
    assert [row.cost_micro_usd for row in rows] == [
        None if row.estimated_cost_usd is None else int(row.estimated_cost_usd.scaleb(6)) for row in case.rows
    ]
    assert [datetime.fromtimestamp(row.created_at_us // 10**6, UTC) for row in rows] == [
        row.created_at.replace(microsecond=0) for row in case.rows
    ]
    assert [(letter.outcome, letter.text, letter.content_type) for letter in letters] == [
        (letter.reason, letter.body, letter.content_type) for letter in case.letters
    ]


def undashed_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast path takes ids that the model refuses: those without dashes."""

    def lenient(first: str, second: str, third: str) -> bytes:
        return b"".join(UUID(text).bytes for text in (first, second, third))

    monkeypatch.setattr(fast_path, "_uuids", lenient)


def a_reject_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last reject of an array is forgotten."""
    decode = decode_module.decode

    def forgetting(*arguments: Any) -> Decoded:
        decoded = decode(*arguments)
        return decoded._replace(rejects=decoded.rejects[:-1]) if decoded.events else decoded

    monkeypatch.setattr("worker.app.decode", forgetting)


def costs_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cost loses what stands behind its sixth decimal, where it has to be rounded."""
    monkeypatch.setattr(fast_path, "cost_micro_usd", lambda given: int(float(given) * 1e6))


def a_digit_of_the_time_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are right to the millisecond only."""
    accept = fast_path._accept

    def imprecise(wire: Any, window: Window) -> Event:
        event = accept(wire, window)
        return event._replace(created_at_us=event.created_at_us // 1000 * 1000)

    monkeypatch.setattr(fast_path, "_accept", imprecise)


def every_reject_says_what_the_last_one_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last error of an array is told for all of its events."""
    decode = decode_module.decode

    def mixed_up(*arguments: Any) -> Decoded:
        decoded = decode(*arguments)
        return decoded._replace(rejects=[one._replace(refusal=decoded.rejects[-1].refusal) for one in decoded.rejects])

    monkeypatch.setattr("worker.app.decode", mixed_up)


MISTAKES = [
    undashed_ids,
    a_reject_is_lost,
    costs_are_cut_off,
    a_digit_of_the_time_is_lost,
    every_reject_says_what_the_last_one_says,
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
async def test_a_broken_decoder_is_noticed(
    mistake: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A mistake in the decoder is found by a short run, which leaves one input that shows it."""
    mistake(monkeypatch)
    with pytest.raises(FoundError, match="play again"):
        await fuzz(Options("broken", INPUTS_MAX, folder=tmp_path, is_quiet=True))
    (path,) = tmp_path.iterdir()  # noqa: ASYNC240 - a folder of one file
    assert len(read(path)[1]) == 1


def test_a_seed_gives_the_same_inputs() -> None:
    """A run can be played again; another seed gives others."""
    one, same, other = (Source(seed, NOW) for seed in ("1", "1", "2"))
    first = [one.next() for _ in range(500)]
    assert [same.next() for _ in range(500)] == first
    assert [other.next() for _ in range(500)] != first


def test_inputs_are_kept_to_the_byte(tmp_path: Path) -> None:
    """A file of inputs holds any bytes, and the window that they were judged in."""
    setting = Setting(Window(-1, NOW_US), has_host_rules=True)
    inputs = [Input(bytes(range(256)), b"\0\0", b"\xff\x00"), Input(b"", properties_of(content_type=b"x"))]
    write(tmp_path / "folder" / "file", setting, inputs)
    assert read(tmp_path / "folder" / "file") == (setting, inputs)


def test_properties_stand_as_the_worker_reads_them() -> None:
    """Each property that is set is read back, whichever stand beside it."""
    made = RawProperties(
        properties_of(
            content_type=b"a", content_encoding=b"b", headers=b"", message_id=b"c", timestamp=bytes(8), type=b"d",
            user_id=b"e", app_id=b"f",
        )
    )  # fmt: skip
    assert (made.content_type, made.content_encoding, made.headers, made.user_id, made.app_id) == (
        "a",
        "b",
        {},
        "e",
        "f",
    )
