"""The rule by which Kubernetes scales workers: the model behind its numbers, and that manifest and docs hold them."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from azure_trace import HAVE_TRACE, call_seconds
from benchmarks import scaling_cases as chosen
from benchmarks.report import LATEST
from benchmarks.scaling import STEP_SECONDS, Autoscaler, Fleet, Load, Rule, Seen, simulate
from benchmarks.scaling_report import FIGURES, PAGE, PICTURE, ask, part
from benchmarks.sheet import Sheet
from hypothesis import given
from hypothesis import strategies as st
from manifests import Manifest, one, resolve

from worker.batch import Trigger
from worker.metrics import Metrics
from worker.settings import Settings

ALL = resolve()
SPEC = one("ScaledObject", "usage-worker", ALL)["spec"]
BACKLOG, AGE = (trigger["metadata"] for trigger in SPEC["triggers"])
FLEET = Fleet(events_per_second=1000, database_events_per_second=2500, held_events_max=300, start_seconds=5)
BURSTS = [*[0] * 10, *[2000] * 40, *[100] * 400]
DRIFT_MAX = 0.2  # rates of the docs may be so far from the newest ones

loads = st.lists(st.integers(0, 5000), min_size=1, max_size=120)
rules = st.builds(
    Rule,
    name=st.just("any"),
    replicas_min=st.integers(1, 3),
    replicas_max=st.integers(3, 9),
    messages_target=st.none() | st.integers(1, 5000),
    age_target_seconds=st.none() | st.floats(0.1, 20),
    counts_unacknowledged=st.booleans(),
    stabilization_seconds=st.sampled_from([0.0, 30.0, 300.0]),
    removed_max=st.none() | st.integers(1, 3),
)


@given(arrivals=loads, rule=rules, outage=st.integers(0, 20), size=st.sampled_from([1, 7]))
def test_no_event_is_lost_in_the_model(arrivals: list[int], rule: Rule, outage: int, size: int) -> None:
    """What has arrived is stored or waits, whatever the rule does, and each stored event has its wait."""
    run = simulate(rule, Load(arrivals, size, outage=(2.0, 2.0 + outage)), FLEET)
    assert run.arrived == sum(arrivals) == run.stored + run.waiting
    assert sum(events for _, events in run.waits) == run.stored
    assert all(wait >= STEP_SECONDS for wait, _ in run.waits)
    assert {rule.replicas_min <= moment.replicas <= rule.replicas_max for moment in run.moments} == {True}


@given(arrivals=loads, replicas=st.integers(1, 4))
def test_more_replicas_never_make_events_older(arrivals: list[int], replicas: int) -> None:
    """At every moment the oldest waiting event is at most as old with one replica more, and as many are stored."""
    fewer, more = (simulate(chosen.fixed(number), Load(arrivals), FLEET) for number in (replicas, replicas + 1))
    assert all(
        with_more.age_seconds <= with_fewer.age_seconds
        for with_more, with_fewer in zip(more.moments, fewer.moments, strict=True)
    )
    assert more.stored >= fewer.stored


def test_a_faster_database_matters_only_where_it_is_the_limit() -> None:
    """Three workers are worth what the database takes, not three workers."""
    three, load = chosen.fixed(3), Load([10_000, *[0] * 15])
    assert simulate(three, load, FLEET).stored == 2500 * 15 // 4
    assert simulate(three, load, replace(FLEET, database_events_per_second=9000)).stored == 10_000


def test_a_new_replica_works_when_it_has_started() -> None:
    """What is wanted at once stores from 5 s on, and is paid for from the decision."""
    rule = Rule("one more", 1, 2, messages_target=1000)
    run = simulate(rule, Load([40_000, *[0] * 99]), FLEET)
    stored_at = [0] * 100
    for wait, events in run.waits:
        stored_at[round(wait / STEP_SECONDS)] += events
    assert [moment.replicas for moment in run.moments].index(2) == 1
    assert stored_at[19:21] == [250, 500]


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        (Seen(2, 2, 2199, 0.0), 2),  # a tenth more than two replicas' target
        (Seen(2, 2, 2201, 0.0), 3),
        (Seen(2, 2, 60_000, 0.0), 6),  # four more at once
        (Seen(6, 6, 60_000, 0.0), 9),  # the most
        (Seen(3, 3, 0, 20.0), 6),  # twice as old as wanted, so twice as many
        (Seen(3, 2, 0, 20.0), 4),  # of those that work
        (Seen(2, 2, 3000, 20.0), 4),  # the greater of both
    ],
)
def test_what_the_autoscaler_wants(seen: Seen, wanted: int) -> None:
    """Kubernetes's arithmetic: a total for the messages, a ratio for the age, a tolerance and a pace."""
    rule = Rule("both", 2, 9, messages_target=1000, age_target_seconds=10.0)
    assert Autoscaler(rule).replicas(0.0, seen) == wanted


def test_replicas_go_slowly() -> None:
    """None before the window has passed since more were wanted, then one a minute."""
    rule = Rule("slowly", 2, 9, messages_target=1000, stabilization_seconds=300, removed_max=1)
    autoscaler, replicas, seen = Autoscaler(rule), 2, []
    for step in range(40):
        replicas = autoscaler.replicas(step * 15.0, Seen(replicas, replicas, 0 if step else 5000, 0.0))
        seen.append(replicas)
    assert seen == [5] * 20 + [4] * 4 + [3] * 4 + [2] * 12


def test_the_age_counts_only_while_workers_are_behind() -> None:
    """Old events that are stored as they come are no reason for replicas; a backlog is."""
    rule = Rule("by age", 1, 4, age_target_seconds=STEP_SECONDS / 2)  # every event is older than that
    assert simulate(rule, Load([200] * 400), FLEET).started == 0
    assert simulate(rule, Load(BURSTS), FLEET).started > 0


def test_messages_in_the_workers_hands_count() -> None:
    """Where they do not, a backlog as large as what workers hold looks like none."""
    rule = Rule("all", 1, 4, messages_target=200)
    slow, load = replace(FLEET, events_per_second=1), Load([0, 300, *[0] * 200])
    assert simulate(rule, load, slow).started > 0
    assert simulate(replace(rule, counts_unacknowledged=False), load, slow).started == 0


def test_messages_are_counted_not_events() -> None:
    """A backlog in messages of ten events is a tenth of it to the autoscaler."""
    rule, backlog = Rule("messages", 1, 9, messages_target=1000), [9000, *[0] * 80]
    assert max(moment.replicas for moment in simulate(rule, Load(backlog), FLEET).moments) == 5
    assert simulate(rule, Load(backlog, events_per_message=10), FLEET).started == 0


def test_replicas_that_are_removed_store_nothing_more() -> None:
    """After a burst one replica works, at the rate of one; the autoscaler is asked every 15 s and not in between."""
    rule = Rule("down", 1, 4, messages_target=1000, stabilization_seconds=15)
    run = simulate(rule, Load([4000, *[0] * 160, 2000, *[0] * 12]), FLEET)
    changes = {
        moment.at_seconds
        for moment, before in zip(run.moments[1:], run.moments, strict=False)
        if moment.replicas != before.replicas
    }
    assert {second - STEP_SECONDS for second in changes} <= {0.0, 15.0, 30.0, 45.0}
    assert run.moments[-1].replicas == 1
    assert [events for _, events in run.waits[-8:]] == [250] * 8


def test_the_manifest_holds_the_numbers_that_were_chosen() -> None:
    """Bounds, targets and the way down are those of the simulated rule."""
    (policy,) = SPEC["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]["policies"]
    behavior = SPEC["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    found = replace(
        chosen.CHOSEN,
        replicas_min=SPEC["minReplicaCount"],
        replicas_max=SPEC["maxReplicaCount"],
        messages_target=int(BACKLOG["value"]),
        age_target_seconds=float(AGE["threshold"]),
        counts_unacknowledged=BACKLOG["excludeUnacknowledged"] == "false",
        stabilization_seconds=float(behavior["scaleDown"]["stabilizationWindowSeconds"]),
        removed_max=policy["value"],
    )
    assert found == chosen.CHOSEN
    assert policy == {"type": "Pods", "value": policy["value"], "periodSeconds": 60}
    assert "scaleUp" not in behavior  # Kubernetes's own, as in the model
    assert [trigger["metricType"] for trigger in SPEC["triggers"]] == ["AverageValue", "Value"]


def test_the_triggers_ask_what_exists() -> None:
    """The queue is the worker's, its length holds what workers hold, and KEDA may ask for it."""
    fields = Settings.model_fields
    assert SPEC["scaleTargetRef"]["name"] == one("Deployment", "usage-worker", ALL)["metadata"]["name"]
    assert BACKLOG["queueName"] == fields["queue"].default
    assert (BACKLOG["protocol"], BACKLOG["mode"]) == ("http", "QueueLength")
    held = (fields["writers"].default + 1) * fields["batch_max_events"].default
    assert int(BACKLOG["value"]) > held == chosen.HELD_EVENTS_MAX
    reference = SPEC["triggers"][0]["authenticationRef"]["name"]
    assert one("TriggerAuthentication", reference, ALL)["metadata"]["name"] == reference


def test_without_answers_workers_stay() -> None:
    """The fallback is between the bounds, and does not stop what runs."""
    fallback = SPEC["fallback"]
    assert SPEC["minReplicaCount"] <= fallback["replicas"] <= SPEC["maxReplicaCount"]
    assert fallback["behavior"] == "currentReplicasIfHigher"
    assert AGE["ignoreNullValues"] == "false"  # with `or vector(0)`: only a Prometheus that is away is an error


def test_the_query_names_metrics_and_triggers_that_exist() -> None:
    """What it asks for is exported under these names, and the Service gives the job its name."""
    families = {family.name: family.type for family in Metrics().registry.collect()}
    named = set(re.findall(r"usage_worker_\w+", AGE["query"]))
    assert named == {"usage_worker_event_age_seconds_bucket", "usage_worker_batches_total"}
    assert families["usage_worker_event_age_seconds"] == "histogram"
    assert families["usage_worker_batches"] == "counter"
    (triggers,) = re.findall(r'trigger=~"([^"]+)"', AGE["query"])
    assert set(triggers.split("|")) == {Trigger.EVENTS, Trigger.BYTES}
    job = one("Service", "usage-worker", ALL)["metadata"]["name"]
    assert set(re.findall(r'job="([^"]+)"', AGE["query"])) == {job}


def batches(trigger: str, values: str) -> Manifest:
    """A series of closed batches."""
    return {"series": f'usage_worker_batches_total{{job="usage-worker", trigger="{trigger}"}}', "values": values}


def ages(above: str, values: str) -> list[Manifest]:
    """Buckets of ages at the commit: all above the one bound and below the other."""
    bounds = {"10": "0x20", "30": values, "+Inf": values} if above == "10" else {"10": values, "+Inf": values}
    name = "usage_worker_event_age_seconds_bucket"
    return [
        {"series": f'{name}{{job="usage-worker", le="{bound}"}}', "values": values} for bound, values in bounds.items()
    ]


@pytest.mark.parametrize(
    ("series", "value"),
    [
        ([*ages("10", "0+60x20"), batches("events", "0+60x20"), batches("age", "0+5x20")], 28),
        ([*ages("10", "0+60x20"), batches("age", "0+60x20"), batches("events", "0+5x20")], 0),
        ([*ages("10", "0+60x20"), batches("age", "0+60x20")], 0),
        ([*ages("10", "60x20"), batches("events", "60x20")], 0),
        ([*ages("10", "60x20"), batches("events", "0+60x20")], 0),
        ([], 0),
    ],
    ids=[
        "behind",
        "late when they came",
        "no full batch ever",
        "nothing is stored: NaN",
        "all is refused: NaN",
        "no worker answers",
    ],
)
def test_what_the_query_answers(series: list[Manifest], value: float, tmp_path: Path) -> None:
    """Prometheus's own arithmetic: an age while batches are full, and 0 in every other case."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: Debian has it in the package prometheus")
    check = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": series,
                "promql_expr_test": [
                    {
                        "expr": AGE["query"].replace("[1m]", "[5m]"),  # the series above have a value a minute
                        "eval_time": "15m",
                        "exp_samples": [{"labels": "{}", "value": value}],
                    }
                ],
            }
        ],
    }
    (tmp_path / "query.yml").write_text(yaml.safe_dump(check), encoding="utf-8")
    done = subprocess.run(
        [promtool, "test", "rules", tmp_path / "query.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_docs_show_the_figures_that_are_kept() -> None:
    """docs/kubernetes.md is what the report makes of docs/benchmarks/scaling.json, and shows the picture."""
    text = PAGE.read_text(encoding="utf-8")
    assert part(Sheet.read(FIGURES)) in text, "run `make bench-scaling`"
    assert [PAGE.parent / link for link in re.findall(r"\]\(([\w/-]+\.svg)\)", text)] == [PICTURE]
    assert PICTURE.exists()


def test_the_rates_are_still_those_that_are_measured() -> None:
    """The newest figures of the worker and of COPY are near enough to those that the rule was chosen with."""
    fleet, about = chosen.fleet_of(Sheet.read(LATEST)), Sheet.read(FIGURES).about
    assert about["worker"] == pytest.approx(fleet.events_per_second, rel=DRIFT_MAX), "run `make bench-scaling`"
    assert about["database"] == pytest.approx(fleet.database_events_per_second, rel=DRIFT_MAX), (
        "run `make bench-scaling`"
    )


@HAVE_TRACE
def test_the_figures_come_from_the_model() -> None:
    """The trace through the model gives what is kept, and the manifest's rule keeps its promise there."""
    kept = Sheet.read(FIGURES)
    fleet = replace(
        chosen.fleet_of(Sheet.read(LATEST)),
        events_per_second=kept.about["worker"],
        database_events_per_second=kept.about["database"],
    )
    found = ask(chosen.cases(call_seconds(), fleet), fleet)
    assert found.lines == kept.lines, "run `make bench-scaling`"
    line = next(line for line in found.of("scaling, bursts") if line.contender == chosen.CHOSEN.name)
    assert line.median("age_seconds_max") < chosen.AGE_TARGET_SECONDS
    assert line.median("replicas_mean") < 3
