"""The alerts: what they ask of exists, and they fire when they should."""

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from makers import batch_of, body_of
from usage_events.contract import Reason

from worker.batch import Trigger
from worker.metrics import OTHER_PRODUCERS, PRODUCERS_MAX, Metrics
from worker.store import Refused, Written

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = sorted(FOLDER.glob("*.rules.yml"))
TESTS = sorted(FOLDER.glob("*.test.yml"))


def samples(metrics: Metrics) -> dict[str, float]:
    """What is refused, by producer."""
    (family,) = (family for family in metrics.registry.collect() if family.name == "usage_worker_refused")
    return {sample.labels["producer"]: sample.value for sample in family.samples if sample.name.endswith("_total")}


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_every_metric_of_an_alert_exists(path: Path) -> None:
    """No alert waits for a metric that no worker exports."""
    exported = {family.name for family in Metrics().registry.collect()}
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"\busage_worker_\w+", text))
    assert named
    assert {name.removesuffix("_total").removesuffix("_bucket") for name in named} <= exported
    triggers = {trigger for found in re.findall(r'trigger=~"([^"]+)"', text) for trigger in found.split("|")}
    assert triggers <= set(Trigger)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_the_alerts_fire(path: Path) -> None:
    """Prometheus's own tests of the rules that stand beside them."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: Debian has it in the package prometheus")
    done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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
