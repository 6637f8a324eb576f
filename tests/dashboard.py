"""The dashboard of deploy/grafana: its panels, and their queries as Grafana sends them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GRAFANA = Path(__file__).parents[1] / "deploy" / "grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "usage-worker.json").read_text(encoding="utf-8"))


@dataclass(slots=True, frozen=True)
class Query:
    """One query of a panel, which is in a row of this title."""

    row: str
    panel: str
    ref: str
    text: str


def panels() -> list[dict[str, Any]]:
    """Every panel that shows something."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries(*, queue: str, window: str = "1m", shown: str = "1h") -> list[Query]:
    """All queries, the variables replaced: every fleet, this queue, rates over `window`, and `shown` on the screen."""
    values = {"$job": ".*", "$queue": queue, "$__rate_interval": window, "$__range": shown}
    row, found = "", []
    for panel in DASHBOARD["panels"]:
        row = panel["title"] if panel["type"] == "row" else row
        for target in panel.get("targets", []):
            text = target["expr"]
            for name, value in values.items():
                text = text.replace(name, value)
            assert "$" not in text, text
            found.append(Query(row, panel["title"], target["refId"], text))
    return found
