"""`deploy/split/definitions.json`: the split fleet's queues are what a worker would declare itself."""

import json
from pathlib import Path
from typing import Any

import pytest

from worker.rabbitmq.topology import dead_queue, main_queue
from worker.settings import load_settings

DEFINITIONS = json.loads((Path(__file__).parents[2] / "deploy" / "split" / "definitions.json").read_text())
QUEUES = ("usage.events.1", "usage.events.2")


def bindings(source: str) -> list[tuple[str, str]]:
    """Where an exchange leads: routing key and destination."""
    return [(one["routing_key"], one["destination"]) for one in DEFINITIONS["bindings"] if one["source"] == source]


@pytest.mark.parametrize("name", QUEUES)
def test_queues_are_the_workers_own(name: str) -> None:
    """Each queue and its dead queue have the arguments that a worker of that queue declares."""
    settings = load_settings(queue=name)
    arguments: dict[str, Any] = {queue["name"]: queue["arguments"] for queue in DEFINITIONS["queues"]}
    for spec in (main_queue(settings), dead_queue(settings)):
        assert arguments[spec.name] == spec.arguments
    assert (name, f"{name}.dead") in bindings(settings.dead_exchange)


def test_nothing_reaches_two_queues_and_nothing_unpartitioned_reaches_one() -> None:
    """The exchange of the producers leads to the hash alone, and only with an organization in the key."""
    settings = load_settings()
    assert bindings(settings.exchange) == [("usage.recorded.*", "usage.by-organization")]
    assert bindings("usage.by-organization") == [("1", name) for name in QUEUES]  # "1" is the weight
    kinds = {exchange["name"]: exchange["type"] for exchange in DEFINITIONS["exchanges"]}
    assert kinds == {settings.exchange: "topic", "usage.by-organization": "x-consistent-hash", "usage.dead": "direct"}
