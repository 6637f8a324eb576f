"""The alerts: what they ask of exists, and they fire when they should."""

import re
import shutil
import subprocess
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import yaml
from dashboard import Query, queries
from makers import batch_of, body_of
from prometheus_client import generate_latest
from usage_events.books import Books
from usage_events.contract import Reason

from worker.batch import Trigger
from worker.metrics import OTHER_PRODUCERS, PRODUCERS_MAX, Metrics
from worker.store import Refused, Written

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
RULES = sorted(FOLDER.glob("*.rules.yml"))
TESTS = sorted(FOLDER.glob("*.test.yml"))
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
ALL_RULES = [
    rule
    for path in RULES
    for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
ALERTS = [rule["alert"] for rule in ALL_RULES if "alert" in rule]


def samples(metrics: Metrics) -> dict[str, float]:
    """What is refused, by producer."""
    (family,) = (family for family in metrics.registry.collect() if family.name == "usage_worker_refused")
    return {sample.labels["producer"]: sample.value for sample in family.samples if sample.name.endswith("_total")}


def exported() -> set[str]:
    """Every name that can be asked for: the worker's, a producer's, and what docs/runbook.md lists of RabbitMQ."""
    text = generate_latest(Metrics().registry).decode() + Books().openmetrics()
    names = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)) | set(
        re.findall(r"^(usage_events_\w+)", text, re.MULTILINE)
    )
    histograms = set(re.findall(r"^# TYPE (\S+) histogram", text, re.MULTILINE))
    names |= {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
    return names | set(re.findall(r"`(rabbitmq_\w+)`", RUNBOOK))


def asked(expression: str) -> set[str]:
    """The metrics that an expression asks for."""
    return set(re.findall(r"\b(?:usage|rabbitmq|process)_[\w:]+", re.sub(r"\{[^}]*\}", "", expression)))


def recorded() -> set[str]:
    """The names that rules make."""
    return {rule["record"] for rule in ALL_RULES if "record" in rule}


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_metric_of_a_rule_exists(rule: dict[str, Any]) -> None:
    """No alert waits for a metric that neither worker, producer nor RabbitMQ exports, nor for a trigger of none."""
    named = asked(rule["expr"])
    assert named
    assert named <= exported() | recorded()
    triggers = {trigger for found in re.findall(r'trigger=~"([^"]+)"', rule["expr"]) for trigger in found.split("|")}
    assert triggers <= set(Trigger)


@pytest.mark.parametrize("query", queries(queue="usage.events"), ids=lambda query: f"{query.panel}-{query.ref}")
def test_every_metric_of_the_dashboard_exists(query: Query) -> None:
    """No panel asks for what nobody exports; it does without recorded rules, so that it can be loaded alone."""
    assert asked(query.text)
    assert asked(query.text) <= exported()


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_the_alerts_fire(path: Path) -> None:
    """Prometheus's own tests of the rules that stand beside them."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: Debian has it in the package prometheus")
    done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_is_seen_to_come_and_go(alert: str) -> None:
    """Its tests have one story in which it is silent, fires, and is silent again."""
    stories = []
    for path in TESTS:
        for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            checks = [check for check in case["alert_rule_test"] if check["alertname"] == alert]
            checks.sort(key=lambda check: int(check["eval_time"].removesuffix("m")))
            stories.append([bool(check["exp_alerts"]) for check in checks])
    assert any([is_firing for is_firing, _ in groupby(story)][:3] == [False, True, False] for story in stories)


def test_every_rules_file_has_a_test() -> None:
    """None is forgotten."""
    assert [path.name.split(".")[0] for path in RULES] == [path.name.split(".")[0] for path in TESTS] != []


def test_refused_events_are_counted_by_producer() -> None:
    """Names are the producers' own: past a hundred of them the rest is added up, or each name would be a series."""
    metrics = Metrics()
    names = [f"producer-{number}" for number in range(PRODUCERS_MAX + 5)]
    refused = Counter({Refused(Reason.INVALID, name): 2 for name in names})
    for _ in range(2):
        written = Written(0, 0, refused)
        metrics.count(batch_of(body_of(input_tokens=-1)), written, commit_seconds=0.1, now=0.0)
    found = samples(metrics)
    assert found.pop(OTHER_PRODUCERS) == 5 * 2 * 2
    assert found == dict.fromkeys(names[:PRODUCERS_MAX], 4.0)
    assert written.dead == {Reason.INVALID: 2 * len(names)}
