"""`deploy/split`: the split fleet's queues are what a worker would declare itself, and its manifests name them."""

import json
from typing import Any

import pytest
import yaml
from manifests import ROOT, one, read, resolve

from worker.rabbitmq.topology import dead_queue, main_queue
from worker.settings import load_settings

DEFINITIONS = json.loads((ROOT / "deploy" / "split" / "definitions.json").read_text())
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


@pytest.mark.parametrize("number", [1, 2])
def test_the_manifests_of_a_part_name_its_queue(number: int) -> None:
    """What a part changes exists in the manifests that it stands on, and names its own queue and namespace.

    A variable that is there already is not added once more: kubectl loses one of two with one name, or refuses them.
    """
    folder = ROOT / "deploy" / "split" / "kubernetes" / f"usage-{number}"
    (kustomization,) = read(folder / "kustomization.yaml")
    assert kustomization["namespace"] == f"usage-{number}"
    base = resolve(folder / kustomization["resources"][0])
    values: dict[str, Any] = {}
    for patch in kustomization["patches"]:
        target = one(patch["target"]["kind"], patch["target"]["name"], base)
        for operation in yaml.safe_load(patch["patch"]):
            *parents, last = operation["path"].strip("/").split("/")
            place: Any = target
            for key in parents:
                place = place[int(key)] if isinstance(place, list) else place[key]
            assert last == "-" or last in place, f"{operation['path']} is not in {patch['target']}"
            added = operation["value"] if last == "-" else {"name": last, "value": operation["value"]}
            assert last != "-" or added["name"] not in {present["name"] for present in place}
            values[added["name"]] = added["value"]
    assert values.pop("query").count(f'namespace="usage-{number}"') == 3
    assert values == {
        "name": f"usage-{number}",
        "USAGE_QUEUE": f"usage.events.{number}",
        "queueName": f"usage.events.{number}",
    }
