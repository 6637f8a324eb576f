"""The soak's own parts, without servers: what is flat, what is told, drawn and counted, and the books in parts."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import chaos.faults  # noqa: F401 - fills the registry
import pytest
from chaos import cgroup
from chaos.registry import FAULTS, NotHereError
from chaos.report import PAGE
from chaos.soak.__main__ import main
from chaos.soak.report import MARKS, Played, Soaked, part
from chaos.soak.run import drawn, unexpected
from chaos.soak.samples import Sample, WorkerSample, metrics_of
from chaos.soak.verdict import LIMITS, MIB, Broken, Point, Span, Stall, judge, judge_all, quiet, rates, stalls
from prometheus_client import generate_latest

from worker.metrics import Metrics

RUN_SECONDS = 1200.0
EVERY_SECONDS = 5


def points(value: Callable[[float], float]) -> list[Point]:
    """A series over the whole run."""
    return [Point(float(at), value(at)) for at in range(0, int(RUN_SECONDS) + 1, EVERY_SECONDS)]


# What is flat.

FLAT: dict[str, Callable[[float], float]] = {
    "constant": lambda _: 100.0,
    "warms up": lambda at: 60.0 + min(at, 200.0) / 5,
    "noise": lambda at: 100.0 + random.Random(at).uniform(-20, 20),
    "a peak, and back": lambda at: 300.0 if 700 < at < 760 else 100.0,
    "a peak at the end": lambda at: 300.0 if at > 1150 else 100.0,
    "falls": lambda at: 200.0 - at / 10,
}
NOT_FLAT: dict[str, Callable[[float], float]] = {
    "a slope": lambda at: 100.0 + at / 20,
    "a stair": lambda at: 100.0 + 10 * (at // 120),
    "a step that stays": lambda at: 100.0 if at < 700 else 130.0,
}


@pytest.mark.parametrize("shape", FLAT)
def test_what_stays_is_flat(shape: str) -> None:
    """Warming up, noise and what comes back are no leak."""
    flatness = judge(points(FLAT[shape]), RUN_SECONDS, more_max=8)
    assert flatness is not None
    assert flatness.is_flat


@pytest.mark.parametrize("shape", NOT_FLAT)
def test_what_grows_is_not_flat(shape: str) -> None:
    """Slowly, by stairs, or once for good."""
    flatness = judge(points(NOT_FLAT[shape]), RUN_SECONDS, more_max=8)
    assert flatness is not None
    assert not flatness.is_flat
    assert flatness.last_quarter > flatness.limit
    assert flatness.per_hour > 0


def test_a_run_that_is_too_short_says_so() -> None:
    """Of two points a quarter nobody can tell."""
    assert judge(points(lambda _: 1.0)[::40], RUN_SECONDS, more_max=8) is None


def test_a_fault_and_the_moments_after_it_do_not_count() -> None:
    """What is held while a backlog is worked off is no leak."""
    noisy = points(lambda at: 500.0 if 1000 <= at <= 1110 else 100.0)
    left = quiet(noisy, [Span(1000.0, 1105.0)])
    assert {point.value for point in left} == {100.0}
    assert len(left) == len(noisy) - 23


def test_rates_leave_out_a_count_that_begins_anew() -> None:
    """A restarted process counts from 0 again."""
    counted = [Point(0, 0), Point(10, 100), Point(20, 50), Point(40, 90)]
    assert rates(counted) == [Point(10, 10.0), Point(40, 2.0)]


def sample(at_seconds: float, *, rss_mib: float = 80.0, tasks: float = 20.0, events: float | None = None) -> Sample:
    """A moment in which everything has answered."""
    steady = WorkerSample(
        7, int(rss_mib * MIB), 30, 4, {"tasks": tasks, "events": at_seconds if events is None else events}
    )
    return Sample(at_seconds, {"steady": steady}, 6, 12, 2, 4, 4, 0, 3, 100)


def test_every_series_is_judged_by_its_own_limit() -> None:
    """A task a minute is a leak of tasks and of nothing else."""
    samples = [sample(point.at_seconds, tasks=20 + point.at_seconds / 60) for point in points(lambda _: 0.0)]
    verdicts = judge_all(samples, [], RUN_SECONDS)
    assert verdicts.keys() == LIMITS.keys()
    assert [name for name, flatness in verdicts.items() if flatness is None or not flatness.is_flat] == ["tasks"]


def test_what_has_not_answered_is_left_out() -> None:
    """Neither 0 nor an error."""
    samples = [sample(point.at_seconds) for point in points(lambda _: 0.0)]
    silent = [replace(one, sessions=None, workers={}) for one in samples]
    verdicts = judge_all([*samples, *silent], [], RUN_SECONDS)
    assert all(flatness is not None and flatness.is_flat for flatness in verdicts.values())
    assert judge_all(silent, [], RUN_SECONDS)["rss_mib"] is None


# Whether it goes on.


def still(*between: tuple[float, float]) -> list[Sample]:
    """Samples of a worker whose count grows, but stands still between these moments."""

    def events(at_seconds: float) -> float:
        return 100 * (at_seconds - sum(max(0.0, min(at_seconds, end) - begin) for begin, end in between))

    return [sample(point.at_seconds, events=events(point.at_seconds)) for point in points(lambda _: 0.0)]


STALLS: dict[str, tuple[list[Sample], list[Broken], list[Stall]]] = {
    "none": (still(), [Broken(100, 110, 30)], []),
    "where nothing was broken": (still((400, 435)), [Broken(100, 110, 60)], [Stall(400, 435, 35, 30)]),
    "after a fault, in time": (still((100, 140)), [Broken(100, 110, 30)], [Stall(100, 140, 30, 30)]),
    "after a fault, too long": (still((100, 150)), [Broken(100, 110, 30)], [Stall(100, 150, 40, 30)]),
    "after a fault that takes long": (still((100, 200)), [Broken(100, 110, 120)], [Stall(100, 200, 90, 120)]),
    "over several faults": (
        still((100, 240)),
        [Broken(100, 110, 30), Broken(140, 150, 30), Broken(180, 190, 30)],
        [Stall(100, 240, 110, 30)],
    ),
    "until the end": (still((1150, 2000)), [Broken(100, 110, 30)], [Stall(1150, 1200, 50, 30)]),
}  # fmt: skip


@pytest.mark.parametrize("case", STALLS)
def test_a_worker_that_stores_nothing_is_seen(case: str) -> None:
    """By its own count, whatever the other worker does; what is broken is its excuse, and the recovery of that."""
    samples, faults, expected = STALLS[case]
    assert stalls(samples, faults, RUN_SECONDS) == expected


def test_a_worker_that_does_not_answer_has_stored_nothing() -> None:
    """Neither silence nor the end of the load hides a stall, and after the load there is nothing to store."""
    samples = [one if one.at_seconds < 600 else replace(one, workers={}) for one in still()]
    assert stalls(samples, [], RUN_SECONDS) == [Stall(595, 1200, 605, 30)]
    assert stalls(samples, [], 600.0) == [Stall(595, 600, 5, 30)]


def test_the_metrics_that_are_kept_exist() -> None:
    """What a sample takes out of /metrics is what a worker says, each name added up."""
    metrics = Metrics()
    metrics.tasks.set(21)
    metrics.events.labels("stored").inc(5)
    metrics.events.labels("dead").inc(2)
    found = metrics_of(generate_latest(metrics.registry).decode())
    assert found == {"tasks": 21, "held_events": 0, "redeliveries": 0, "events": 7, "reconnects": 0, "give_backs": 0}


# The run and what is told of it.


def test_the_faults_of_a_soak_are_the_seeds_own_and_fit_it() -> None:
    """None needs a load or workers of its own; the same seed draws the same order."""
    faults = drawn(FAULTS, random.Random(3))
    assert {"network", "rabbitmq", "postgres", "workers"} <= {fault.kind for fault in faults}
    unfit = {"malformed flood", "worker's clock jumps", "worker's memory limited", "Postgres disk full"}
    assert not unfit & {one.name for one in faults}
    assert faults == drawn(FAULTS, random.Random(3)) != drawn(FAULTS, random.Random(4))


def test_a_worker_ends_as_it_may() -> None:
    """With a status that one of the faults gives it; any other is told."""
    assert unexpected({0: 3, -9: 1}, frozenset({0, -9})) == []
    assert unexpected({0: 3, 1: 2, -9: 1}, frozenset({0})) == [
        "1 workers ended with status -9",
        "2 workers ended with status 1",
    ]


PLAYED = Played("RabbitMQ killed", "rabbitmq", 100.0, 110.0, 112.0, 2.0)


def soaked(**fields: Any) -> Soaked:
    """A run in which everything was right, but for what `fields` say."""
    samples = [sample(point.at_seconds) for point in points(lambda _: 0.0)]
    right = {
        "seed": 1, "rate": 300, "run_seconds": RUN_SECONDS, "events": 1000, "confirmations": 1001,
        "counts": {"lost": 0, "doubled": 0}, "wrong": {}, "reasons": {}, "astray": 0, "tracebacks": [],
        "has_lived": True, "left": 0, "played": [PLAYED, PLAYED],
        "flatness": judge_all(samples, [], RUN_SECONDS), "samples": samples, "seen_on": "2026-01-02",
    }  # fmt: skip
    return Soaked(**{**right, **fields})


def test_a_run_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    """For the picture, which may be drawn again."""
    path = tmp_path / "soak.json"
    path.write_text(soaked().as_json(), encoding="utf-8")
    assert Soaked.read(path) == soaked()


def test_a_run_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """What it did not write down is taken from the fault and from the file."""
    fields = json.loads(soaked(played=[replace(PLAYED, name="workers to RabbitMQ half-open")]).as_json())
    del fields["seen_on"], fields["played"][0]["recovery_seconds_max"]
    path = tmp_path / "soak.json"
    path.write_text(json.dumps(fields), encoding="utf-8")
    read = Soaked.read(path)
    assert read.played[0].recovery_seconds_max == FAULTS["workers to RabbitMQ half-open"].recovery_seconds_max > 30
    assert read.seen_on.count("-") == 2


PROBLEMS: dict[str, tuple[dict[str, Any], str]] = {
    "lost": ({"counts": {"lost": 2, "doubled": 0}, "wrong": {"lost": ["a", "b"]}}, "2 lost: ['a', 'b']"),
    "too late": ({"played": [replace(PLAYED, recovery_seconds=None)]}, "TOO LATE"),
    "without effect": (
        {"played": [replace(PLAYED, error="AssertionError: nothing")]},
        "FAILED AssertionError: nothing",
    ),
    "no fault": ({"played": []}, "no fault was played"),
    "astray": ({"astray": 3}, "3 acknowledgements"),
    "dead": ({"has_lived": False}, "has not lived"),
    "left": ({"left": 4}, "4 sessions"),
    "traceback": ({"tracebacks": ["Traceback"]}, "ended with Traceback"),
    "its own": ({"errors": ["it does not settle: x"]}, "it does not settle: x"),
    "too short": ({"flatness": {"tasks": None}}, "asyncio tasks: too few"),
    "grows": (
        {"flatness": judge_all([sample(at, rss_mib=80 + at / 20) for at in range(0, 1200, 5)], [], RUN_SECONDS)},
        "memory grew from 102.4 to 132.4, allowed are 120.6 MiB",
    ),
    "consumes nothing": (
        {"samples": still((200, 400))},
        "stored nothing from 200 s to 400 s, in 200 s of which nothing was broken; allowed are 30",
    ),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_each_problem_is_told(problem: str) -> None:
    """By what went wrong, and alone."""
    fields, said = PROBLEMS[problem]
    (told,) = soaked(**fields).problems()
    assert said in told
    assert soaked().problems() == []


def test_its_part_of_the_page_has_every_figure() -> None:
    """A row a series, the faults by their numbers, and a place for it."""
    made = part(soaked())
    assert "20 minutes (2026-01-02, seed 1): 1,000 confirmed events, 0 lost, 0 doubled; 2 faults, after each of" in made
    assert "| memory, MiB | 80 | 80 | 96 | +0 |" in made
    assert "1, 2 RabbitMQ killed." in made
    assert made.count("\n| ") == 2 + len(LIMITS)
    assert made in MARKS.put(PAGE.read_text(encoding="utf-8"), made)


def test_its_part_says_after_which_faults_nothing_flowed() -> None:
    """Those are not hidden behind the others."""
    late = replace(PLAYED, recovery_seconds=None)
    some = part(soaked(played=[PLAYED, late, late]))
    assert "3 faults, after 1, but NOT after 2, of which events flowed again within 2.0 s." in some
    assert "2 faults, after none of which events flowed again in time." in part(soaked(played=[late, late]))


def test_a_run_is_judged_again_and_published_only_where_all_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--judge` plays nothing; what was wrong does not come into the page."""
    published: list[Soaked] = []
    monkeypatch.setattr("chaos.soak.__main__.publish", published.append)
    monkeypatch.setattr("chaos.soak.__main__.find_spec", lambda _: True)
    path = tmp_path / "soak.json"
    path.write_text(soaked(astray=1).as_json(), encoding="utf-8")
    assert main(["--judge", str(path), "--write"]) == 1
    said = capsys.readouterr().out
    assert "WRONG: the broker has refused 1" in said
    assert "Nothing is written into docs/chaos.md" in said
    assert published == []
    path.write_text(soaked().as_json(), encoding="utf-8")
    assert main(["--judge", str(path)]) == 0
    assert published == []
    assert main(["--judge", str(path), "--write"]) == 0
    assert published == [soaked()]
    assert "all is flat" in capsys.readouterr().out


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    """Whatever has not answered, and wherever a worker was another one."""
    pytest.importorskip("matplotlib", reason="the benchmarks' group is not installed")
    from chaos.soak.picture import save

    run = soaked()
    other = WorkerSample(8, 70 * MIB, 28, 4)
    run.samples[3:5] = [Sample(15.0), replace(run.samples[4], workers={"other": other}, ready=None)]
    save(run, tmp_path / "soak.svg")
    assert (tmp_path / "soak.svg").read_text(encoding="utf-8").rstrip().endswith("</svg>")


# Groups of processes.


@pytest.fixture
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this were root."""
    monkeypatch.setattr("os.geteuid", lambda: 0)


@pytest.mark.usefixtures("_root")
def test_a_group_is_made_where_memory_can_be_limited(tmp_path: Path) -> None:
    """Version 1: in one's own. Version 2: in the nearest above that passes the controller on. Else nowhere."""
    (tmp_path / "memory" / "mine").mkdir(parents=True)
    version_1 = "9:pids:/\n4:memory:/mine\n0::/\n"
    assert cgroup.find_parent(version_1, tmp_path) == (tmp_path / "memory" / "mine", 1)
    assert cgroup.find_parent("4:memory:/of/another/namespace\n", tmp_path) == (tmp_path / "memory", 1)
    version_2 = tmp_path / "two"
    (version_2 / "system" / "mine").mkdir(parents=True)
    for folder, controllers in ((version_2, "cpu memory\n"), (version_2 / "system", "memory pids\n")):
        (folder / "cgroup.subtree_control").write_text(controllers)
    (version_2 / "system" / "mine" / "cgroup.subtree_control").write_text("\n")
    assert cgroup.find_parent("0::/system/mine\n", version_2) == (version_2 / "system", 2)
    for folder in (version_2, version_2 / "system"):
        (folder / "cgroup.subtree_control").write_text("cpu\n")
    with pytest.raises(NotHereError, match="no cgroup below"):
        cgroup.find_parent("0::/system/mine\n", version_2)


def test_only_root_makes_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is said before anything is tried."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(NotHereError, match="takes root"):
        cgroup.find_parent("", Path("/nowhere"))
