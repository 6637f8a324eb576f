"""The dashboard: Grafana can load it, its queries can be asked, and its limits are those of the alerts."""

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from dashboard import DASHBOARD, GRAFANA, panels, queries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

QUERIES = queries(queue="usage.events")
COLUMNS = 24
SCHEMA_VERSION_MIN = 36  # since then a data source is named by type and uid
QUESTIONS = [
    "Are we keeping up?",
    "How old is the newest stored event?",
    "What is refused, and by whom?",
    "Is the database or the broker the limit?",
    "Which replica is ill?",
    "Do producers keep their events?",
]
ALERTS = {
    rule["alert"]: rule["expr"]
    for path in sorted((GRAFANA.parent / "prometheus").glob("*.rules.yml"))
    for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
    if "alert" in rule
}


def test_it_asks_an_operators_questions() -> None:
    """A row each; none is folded away."""
    rows = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert [row["title"] for row in rows] == QUESTIONS
    assert not any(row["collapsed"] for row in rows)


def test_grafana_can_load_it() -> None:
    """A version that is known, ids that are unique, and the data source and the queue as variables."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert DASHBOARD["schemaVersion"] >= SCHEMA_VERSION_MIN
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "job", "queue"]
    sources = {json.dumps(part["datasource"]) for panel in panels() for part in (panel, *panel["targets"])}
    assert sources == {'{"type": "prometheus", "uid": "${datasource}"}'}


def lost(given: Any, kept: Any, path: str = "") -> list[str]:
    """Where `kept` has something else than `given`."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return [where for key in given for where in lost(given[key], kept.get(key), f"{path}/{key}")]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        return [
            where
            for number, pair in enumerate(zip(given, kept, strict=True))
            for where in lost(*pair, f"{path}/{number}")
        ]
    return [] if given == kept else [path]


def test_grafana_knows_every_field() -> None:
    """Read into Grafana's own models and written again, nothing is lost: no field or option is misspelt."""
    register_default_plugins()
    kept = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))
    assert lost(DASHBOARD, kept) == []


def test_no_panel_covers_another() -> None:
    """Each cell of the grid belongs to one panel at most, and none is outside."""
    taken = [
        cell
        for at in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for cell in itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"]))
    ]
    assert len(set(taken)) == len(taken)
    assert {x for x, _ in taken} == set(range(COLUMNS))


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_panel_can_be_read(panel: dict[str, Any]) -> None:
    """It has a title, a unit, a word on what it shows, and at most three lines of its own."""
    assert panel["title"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["description"].endswith(".")
    assert 1 <= len(panel["targets"]) <= 3
    refs = [target["refId"] for target in panel["targets"]]
    assert len(set(refs)) == len(refs)


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_a_red_line_is_an_alerts(panel: dict[str, Any]) -> None:
    """Where a panel turns red, an alert that it names has that limit. Of what should never be, one is too many."""
    named = re.findall(r"\bUsage[A-Z]\w+", panel["description"])
    assert set(named) <= ALERTS.keys()
    reds = [step for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"] if step["color"] == "red"]
    limits = {number for alert in named for number in re.findall(r"[<>=]=? (\d+)\b", ALERTS[alert])}
    for step in reds:
        assert named, "no alert says why it is red"
        assert step["value"] is None or str(step["value"]) in limits or (step["value"] == 1 and "0" in limits)


def test_every_query_parses(tmp_path: Path) -> None:
    """Prometheus's own tool reads each of them, as a rule."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: Debian has it in the package prometheus")
    rules = [{"record": f"query:{number}", "expr": query.text} for number, query in enumerate(QUERIES)]
    path = tmp_path / "queries.yml"
    path.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}), encoding="utf-8")
    done = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_finds_it_and_its_data() -> None:
    """Provisioning: the folder that docker-compose.yml mounts, and a source of the kind that the dashboard asks."""
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/usage-worker.yml").read_text("utf-8"))["providers"]
    compose = yaml.safe_load((GRAFANA.parents[1] / "docker-compose.yml").read_text("utf-8"))
    mounts = compose["services"]["grafana"]["volumes"]
    assert f"./deploy/grafana:{provider['options']['path']}:ro" in mounts
    sources = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text("utf-8"))["datasources"]
    assert [source["type"] for source in sources] == ["prometheus"]
