"""The benchmarks' pure parts: what is published, counted and reported; and that README and figures agree."""

import re
from collections import Counter
from pathlib import Path
from time import time
from uuid import uuid4

import pytest
from benchmarks.__main__ import command, parse
from benchmarks.database import Commit, WrongAnswerError, rate_of
from benchmarks.report import LATEST, MARKS, PAGE, PICTURES, README, markdown, page, readme_part
from benchmarks.sheet import Sheet
from benchmarks.targets import TARGETS, Target
from benchmarks.workload import People, Workload, make_workload, totals_of
from usage_events.contract import MAX_AGE_SECONDS, MAX_AHEAD_SECONDS, Event, Reason
from usage_events.rules import Window

from worker.decode import Decoded, decode

PEOPLE = People([uuid4(), uuid4()], [uuid4()])
ABOUT = {
    "at": "2026-11-24T18:00:00+00:00",
    "commit": "abc1234",
    "command": "python -m benchmarks",
    "cores": 2,
    "processor": "a processor",
    "memory_gib": 8.0,
    "load_before": 0.1,
    "python": "CPython 3.11.7",
    "postgres": "18.0",
    "rabbitmq": "4.3.0",
    "postgres_settings": {"fsync": "off"},
    "libraries": {"asyncpg": "0.32.0"},
    "quick": False,
}


def decoded(workload: Workload) -> list[Decoded]:
    """What the worker's decoder makes of each message."""
    window = Window.around(int(time() * 1e6), max_age_seconds=MAX_AGE_SECONDS, max_ahead_seconds=MAX_AHEAD_SECONDS)
    return [decode(body, "application/json", None, window) for body in workload.bodies]


def sheet_with(**headline: float) -> Sheet:
    """A sheet with one round of rates."""
    sheet = Sheet(dict(ABOUT))
    for contender, rate in headline.items():
        sheet.note("headline", contender, events_per_second=rate)
    return sheet


@pytest.mark.parametrize("events_per_message", [1, 10])
def test_a_clean_backlog_is_what_the_worker_accepts(events_per_message: int) -> None:
    """Every event is accepted, in messages of the wanted size, and its tokens and cost are those that are counted."""
    workload = make_workload(PEOPLE, 30, events_per_message)
    found = decoded(workload)
    assert [len(one.events) for one in found] == [events_per_message] * (30 // events_per_message)
    assert not any(one.rejects for one in found)
    events: list[Event] = [event for one in found for event in one.events]
    assert sum(event.input_tokens for event in events) == workload.totals.input_tokens
    assert sum(event.tokens_used for event in events) == workload.totals.tokens_used
    assert sum(event.cost_micro_usd or 0 for event in events) == workload.totals.cost_usd * 10**6


def test_a_mixed_backlog_holds_the_shares_that_were_asked_for() -> None:
    """Repeated events have the content of a stored one; refused ones are refused for the reasons that are named."""
    workload = make_workload(PEOPLE, 200, 10, repeated=0.1, refused=0.3)
    events = [event for one in decoded(workload) for event in one.events]
    reasons = Counter(reject.refusal.reason for one in decoded(workload) for reject in one.rejects)
    known = [event for event in events if event.user_id in {user.bytes for user in PEOPLE.users}]
    assert workload.events == 200
    assert (len(workload.stored), workload.refused) == (120, 60)
    assert reasons == {Reason.INVALID: 20, Reason.TOKEN_MISMATCH: 20}
    assert len(events) - len(known) == 20
    assert (len(known), len(set(known))) == (140, 120)


def test_two_backlogs_share_no_time() -> None:
    """Rows of one run can be told from those of the run before by their time alone."""
    first, second = make_workload(PEOPLE, 50), make_workload(PEOPLE, 50)
    assert max(event["created_at"] for event in first.stored) < min(event["created_at"] for event in second.stored)


def test_witnesses_are_stored_events_and_hold_the_last() -> None:
    """What is waited for does come."""
    workload = make_workload(PEOPLE, 1000, refused=0.5)
    ids = {event["id"] for event in workload.stored}
    witnesses = {str(witness) for witness in workload.witnesses()}
    assert witnesses <= ids
    assert workload.stored[-1]["id"] in witnesses


def test_rows_add_up_to_the_totals() -> None:
    """COPY writes what the worker has to write."""
    workload = make_workload(PEOPLE, 40)
    rows = workload.rows()
    assert sum(row[4] for row in rows) == workload.totals.input_tokens
    assert sum(row[10] for row in rows) == workload.totals.cost_usd
    assert totals_of(workload.stored[:0]).rows == 0


def test_a_rate_leaves_out_what_came_before_the_clock_started() -> None:
    """The first commit starts the clock; events that left no row count by their share."""
    commits = [Commit(10.0, 500), Commit(11.0, 100), Commit(12.0, 300)]
    assert rate_of(commits) == 200
    assert rate_of(commits, share_stored=0.5) == 400


def test_one_commit_is_no_rate() -> None:
    """A backlog that fits one commit is an error, not an infinite rate."""
    with pytest.raises(WrongAnswerError, match="larger backlog"):
        rate_of([Commit(10.0, 500)])


def test_a_sheet_survives_its_file(tmp_path: Path) -> None:
    """What is read back makes the same report; figures keep five digits."""
    sheet = sheet_with(worker=12345.6)
    sheet.note("headline", "worker", events_per_second=20000.4)
    sheet.write(tmp_path / "figures.json")
    again = Sheet.read(tmp_path / "figures.json")
    line = again.find("headline", "worker")
    assert line is not None
    assert line.figures == {"events_per_second": [12346.0, 20000.0]}
    assert markdown(again) == markdown(sheet)


def test_a_question_that_is_asked_again_takes_the_place_of_its_answer() -> None:
    """The other answers stay, and the report says which was measured when, at which commit."""
    sheet = sheet_with(worker=50_000.0)
    sheet.note("repeated", "worker", 0.1, events_per_second=40_000.0)
    about = ABOUT | {"at": "2026-11-25T18:00:00+00:00", "commit": "def5678", "command": "python -m benchmarks --again"}
    again = sheet.without(["repeated"], about)
    assert [line.question for line in again.lines] == ["headline"]
    assert again.about["commit"] == ABOUT["commit"]
    said = "repeated was measured again 2026-11-25 by `python -m benchmarks --again` at commit def5678."
    assert said in markdown(again)


def test_asking_again_takes_the_file_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without one there is nothing to put the answer into."""
    with pytest.raises(SystemExit):
        parse(["--only", "repeated", "--again", "--json", str(tmp_path / "no.json")])
    assert "with --json the file of a run" in capsys.readouterr().err


def test_the_report_shows_median_and_range() -> None:
    """Three rounds become their median, and the least and the most beside it."""
    sheet = sheet_with(worker=1000)
    sheet.note("headline", "worker", events_per_second=3000)
    sheet.note("headline", "worker", events_per_second=2000)
    assert "| worker | 2,000 | 1,000 to 3,000 | - | - |" in markdown(sheet)


def test_a_ratio_is_shown_where_both_its_figures_were_taken() -> None:
    """The worker beside COPY is a ratio with its verdict; what was not measured has no line."""
    sheet = sheet_with(**{"worker, 100 events a message": 95_000.0, "plain COPY, 1 connection": 100_000.0})
    assert "| arrays of 100 ÷ plain COPY, 1 connection | 0.95 | at least 0.9, aim 1.15 | met |" in markdown(sheet)
    assert "FastStream" not in markdown(sheet)


@pytest.mark.parametrize(
    ("ratio", "is_ceiling", "verdict"),
    [
        (1.0, False, "aim reached"),
        (0.9, False, "met"),
        (0.8, False, "not met"),
        (0.8, True, "aim reached"),
        (1.1, True, "not met"),
    ],
)
def test_verdicts(ratio: float, verdict: str, *, is_ceiling: bool) -> None:
    """A ratio at its bound is met; where less is better it is the other way round."""
    bounds = (1.0, 0.8) if is_ceiling else (0.85, 0.95)
    assert Target("a", *bounds, lambda _: ratio, is_ceiling).verdict(ratio) == verdict


def test_every_target_reads_an_empty_sheet() -> None:
    """Nothing measured is no ratio, and no error."""
    assert [target.ratio(Sheet()) for target in TARGETS] == [None] * len(TARGETS)


def test_the_readme_has_a_place_for_the_tables() -> None:
    """The report can be written, once, and only between the marks."""
    text = README.read_text(encoding="utf-8")
    replaced = MARKS.put(text, readme_part(sheet_with(worker=1000)))
    assert "| worker | 1,000 |" in replaced
    assert replaced.partition(MARKS.begin)[0] == text.partition(MARKS.begin)[0]
    assert replaced.partition(MARKS.end)[2] == text.partition(MARKS.end)[2]


def test_a_readme_without_marks_is_an_error() -> None:
    """Tables are not dropped in silence."""
    with pytest.raises(ValueError, match="must hold the lines"):
        MARKS.put("# A README", "tables")


def test_readme_and_page_agree_with_the_published_figures() -> None:
    """Where figures are published, README and docs/benchmarks.md are what the report makes of them."""
    assert LATEST.exists() == PAGE.exists(), "run `make bench-publish`"
    if LATEST.exists():
        sheet = Sheet.read(LATEST)
        assert sheet.about["quick"] is False
        assert readme_part(sheet) in README.read_text(encoding="utf-8"), "run `make bench-publish`"
        assert page(sheet) == PAGE.read_text(encoding="utf-8"), "run `make bench-publish`"


def test_every_picture_that_is_shown_exists() -> None:
    """README and docs/benchmarks.md link to no picture that was not drawn."""
    pages = [path for path in (README, PAGE) if path.exists()]
    links = [
        path.parent / link for path in pages for link in re.findall(r"\]\(([\w/-]+\.svg)\)", path.read_text("utf-8"))
    ]
    assert [link for link in links if not link.exists()] == []
    drawn = {file for file, _ in PICTURES.values()}
    assert any(link.name in drawn for link in links) == LATEST.exists()


def test_the_page_shows_every_picture_of_what_was_asked() -> None:
    """Each question with a picture has it under its table; start-up is one number and has none."""
    sheet = sheet_with(worker=1000)
    sheet.note("memory", "worker", 10_000, peak_memory_mib=80)
    sheet.note("start_up", "worker", start_to_commit_seconds=1)
    assert re.findall(r"\]\((.+)\)", page(sheet)) == ["pictures/rates.svg", "pictures/memory.svg"]


@pytest.mark.parametrize("typed", ["", "--full", "--only latency --only memory --quick", "--quick --rounds 2"])
def test_figures_name_the_command_that_made_them(typed: str) -> None:
    """Typed again it asks for the same; where figures were written to does not matter."""
    options = parse([*typed.split(), "--json", "somewhere.json"])
    assert command(options) == f"python -m benchmarks {typed}".strip()


@pytest.mark.parametrize("typed", ["--only nothing", "--full --only latency"])
def test_a_question_that_nobody_knows_is_refused(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt question, or one beside all of them, measures nothing."""
    with pytest.raises(SystemExit, match="2"):
        parse(typed.split())
    assert "--only" in capsys.readouterr().err
