"""The runbook: a section for each alert, and nothing in it that is not there."""

import re
from pathlib import Path

import pytest
import yaml
from usage_events.books import Books

from worker.cli import COMMANDS
from worker.metrics import Metrics
from worker.settings import PREFIX, SECRETS, Settings

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
ALERTS = {
    rule["alert"]: rule["annotations"]
    for path in sorted((ROOT / "deploy" / "prometheus").glob("*.rules.yml"))
    for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
    if "alert" in rule
}
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
OWN_COLLECTORS = {
    "process_virtual_memory_bytes",
    "process_open_fds",
    "process_max_fds",
}  # of no use here, and so not listed


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    """Whoever is called finds what to do. A new alert needs `### ItsName` in docs/runbook.md."""
    assert SECTIONS.keys() == ALERTS.keys()


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_leads_to_its_section(alert: str) -> None:
    """Its annotation `runbook` is the link, and `action` says what to try first."""
    assert ALERTS[alert].keys() == {"summary", "action", "runbook"}
    assert ALERTS[alert]["runbook"] == f"docs/runbook.md#{alert.lower()}"


@pytest.mark.parametrize("alert", SECTIONS)
def test_a_section_answers_the_four_questions(alert: str) -> None:
    """Who is billed wrong, what to look at, what to do, and when it is no trouble."""
    assert re.findall(r"^- \*\*(.+?):\*\* \S", SECTIONS[alert], re.MULTILINE) == ["Bill", "Look", "Do", "No trouble"]


def test_what_it_names_exists() -> None:
    """Commands, settings, files, tests and sections."""
    assert set(re.findall(r"`usage-worker ([a-z-]+)", RUNBOOK)) <= set(COMMANDS)
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    known |= {f"{PREFIX}{name.upper()}_FILE" for name in SECRETS}
    assert set(re.findall(r"\bUSAGE_[A-Z_]+\b", RUNBOOK)) <= known
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert set(re.findall(r"`(test_\w+\.py)`", RUNBOOK)) <= tests
    assert [path for path in re.findall(r"\]\(([^)#]+)\)", RUNBOOK) if not (ROOT / "docs" / path).exists()] == []
    assert [path for path in re.findall(r"`(deploy/[\w./-]+)`", RUNBOOK) if not (ROOT / path).exists()] == []
    anchors = {title.lower().replace(" ", "-") for title in re.findall(r"^##+ (.+)$", RUNBOOK, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", RUNBOOK)) <= anchors


def test_it_lists_every_metric() -> None:
    """The table has each metric of the worker, and no other; and each count of a producer's books."""
    exported = {family.name for family in Metrics().registry.collect()} - OWN_COLLECTORS
    table = RUNBOOK[RUNBOOK.index("| metric | what it says |") : RUNBOOK.index("Of RabbitMQ 3.10")]
    names = " ".join(re.findall(r"^\| (.+?) \|", table, re.MULTILINE))
    listed = set(re.findall(r"\b((?:usage_worker|process)_\w+)", names))
    assert {name.removesuffix("_total") for name in listed} == exported
    counts = set(re.findall(r"^# TYPE usage_events_(\w+) counter", Books().openmetrics(), re.MULTILINE))
    last = RUNBOOK[RUNBOOK.index("Of a producer: ") :]
    assert set(re.findall(r"`(?:usage_events)?_(\w+)_total`", last)) == counts
