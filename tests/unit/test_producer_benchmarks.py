"""The pure parts of `make bench-producers`: what is made of each call's cost, and what is shown of it."""

from pathlib import Path

import pytest
from benchmarks.calls import Call, Calls, due_between, figures, over_time, percentile, read_calls
from benchmarks.peers.caller import Spec, arrivals
from benchmarks.producer_report import CALLS, PICTURE, PUBLISHING, calls_table, duration, markdown, publishing_table
from benchmarks.producer_sizes import QUICK, ProducerSizes
from benchmarks.producers import cases
from benchmarks.report import LATEST, README
from benchmarks.sheet import Sheet

MEASURED = LATEST.with_name("producers.json")


def test_calls_come_back_from_their_file(tmp_path: Path) -> None:
    """What a caller has written is read call by call, to the last bit."""
    calls = Calls()
    given = [Call(0.1, 0.2, 0.3, 0.4), Call(5.0, 6.0, 7.0, 8.0)]
    for call in given:
        calls.add(call)
    calls.write(tmp_path / "calls")
    assert read_calls(tmp_path / "calls") == given


@pytest.mark.parametrize(
    ("share", "found"), [(0.0, 1), (0.01, 1), (0.5, 50), (0.501, 51), (0.99, 99), (0.995, 100), (1.0, 100)]
)
def test_a_percentile_is_one_of_the_values(share: float, found: float) -> None:
    """Nearest rank: at least this share is no greater, in whatever order they come."""
    assert percentile(list(range(100, 0, -1)), share) == found


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 1.01), ([1.0], -0.1)])
def test_no_percentile_of_nothing(values: list[float], share: float) -> None:
    """Without values, or past the ends, there is none; it is not zero."""
    with pytest.raises(ValueError, match=r"no percentile .* of \d values"):
        percentile(values, share)


def test_figures_are_of_those_that_were_due_meanwhile() -> None:
    """The bounds belong to the beginning; each figure is in microseconds, and of its own column."""
    calls = [Call(0.99, 1, 1, 1), Call(1.0, 2e-6, 3e-6, 4e-6), Call(1.5, 4e-6, 5e-6, 6e-6), Call(2.0, 9, 9, 9)]
    assert figures(due_between(calls, 1.0, 2.0)) == pytest.approx(
        {
            "calls": 2, "us_p50": 3, "us_p99": 5, "us_max": 5, "made_us_p50": 4,
            "late_us_p50": 2, "late_us_p99": 4, "late_us_max": 4,
        }
    )  # fmt: skip


def test_steps_without_calls_are_left_out() -> None:
    """Each step stands at its middle, in order, whatever order the answers came in; nothing is made up between."""
    calls = [Call(0.6, 0, 9e-6, 0), Call(0.1, 0, 1e-6, 0), Call(0.24, 0, 3e-6, 0), Call(0.0, 0, 2e-6, 0)]
    assert [pytest.approx(step) for step in over_time(calls, 0.25)] == [(0.125, 2, 3), (0.625, 9, 9)]


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (0.3, "0.3 µs"), (2.74, "2.7 µs"), (9.94, "9.9 µs"), (9.96, "10 µs"), (999.0, "999 µs"), (1000.0, "1.0 ms"),
        (71_370.0, "71 ms"), (1_230_000.0, "1.2 s"), (12_300_000.0, "12 s"),
    ],
)  # fmt: skip
def test_a_duration_is_in_the_unit_that_suits(microseconds: float, text: str) -> None:
    """Two digits or three, and no power of ten."""
    assert duration(microseconds) == text


async def test_all_calls_of_a_burst_are_due_at_once() -> None:
    """Without a rate every call is due when the first is."""
    assert len({due async for due in arrivals(50, 0.0)}) == 1


async def test_calls_are_due_at_their_rate() -> None:
    """An open loop: the due moments are a rate apart, whatever the loop did meanwhile; none is left out."""
    due = [moment async for moment in arrivals(20, 10_000.0)]
    assert [moment - due[0] for moment in due] == pytest.approx([number / 10_000 for number in range(20)])


def test_a_caller_reads_what_the_run_has_written(tmp_path: Path) -> None:
    """The specification passes through its file unchanged but for lists that were tuples."""
    spec = Spec("spool", 1, 10, 5.0, 2, "amqp://x/", "usage", "postgresql://y/", "/s", [("u", "o")], "/f")
    spec.write(tmp_path / "spec.json")
    read = Spec.read(tmp_path / "spec.json")
    assert (read.way, read.rate, [tuple(pair) for pair in read.people]) == ("spool", 5.0, [("u", "o")])


def test_calls_arrive_before_during_and_after_an_outage() -> None:
    """5,000 a second for half a minute around ten seconds without a server, and 20,000 at once."""
    found = {case.name: (case.calls, case.rate, case.frozen) for case in cases(ProducerSizes())}
    assert found == {
        "idle": (100_000, 5_000.0, ""),
        "burst": (20_000, 0.0, ""),
        "Postgres stopped": (150_000, 5_000.0, "postgres"),
        "RabbitMQ stopped": (150_000, 5_000.0, "rabbitmq"),
    }
    assert len(cases(QUICK)) == len(found)


def test_the_tables_hold_what_was_noted() -> None:
    """A row a line; what was not there to measure is a dash; a quick run says that it means nothing."""
    sheet = Sheet({"quick": True})
    sheet.note(CALLS, "way", "idle", us_p50=3, us_p99=20, us_max=4000, made_us_p50=0, late_us_p99=700)
    sheet.note(PUBLISHING, "UsagePublisher", 1000, events_per_second=30_000, cpu_us_per_event=31.6)
    text = markdown(sheet)
    assert text.startswith("A quick run")
    assert "| idle | `way` | 3.0 µs | 20 µs | 4.0 ms | - | 700 µs |\n" in text
    assert "| 1,000 | UsagePublisher | 30,000 | 32 |\n" in text


def test_the_readme_shows_what_was_measured() -> None:
    """Its tables are made of the figures in docs/benchmarks, which are no quick run's; the picture is there."""
    sheet = Sheet.read(MEASURED)
    text = README.read_text(encoding="utf-8")
    assert sheet.about["quick"] is False
    assert calls_table(list(sheet.of(CALLS))) in text
    assert publishing_table(list(sheet.of(PUBLISHING))) in text
    assert f"docs/pictures/{PICTURE}" in text
    assert (README.parent / "docs" / "pictures" / PICTURE).exists()
