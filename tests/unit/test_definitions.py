"""The broker's definitions in `deploy/rabbitmq` are the topology that the worker declares, and hold no secret."""

import json
import re
from pathlib import Path
from typing import Any

from worker.rabbitmq.topology import QueueSpec, dead_queue, main_queue
from worker.settings import Settings

DEFINITIONS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "deploy" / "rabbitmq" / "definitions.json").read_text(encoding="utf-8")
)
FIELDS = Settings.model_fields
DEFAULTS = Settings.model_construct(**{name: field.default for name, field in FIELDS.items()})


def test_the_queues_are_those_of_the_worker() -> None:
    """Names, durability and arguments: the same as where the worker declares them."""

    def defined(spec: QueueSpec) -> dict[str, Any]:
        return {"name": spec.name, "vhost": "/", "durable": True, "auto_delete": False, "arguments": spec.arguments}

    assert DEFINITIONS["queues"] == [defined(dead_queue(DEFAULTS)), defined(main_queue(DEFAULTS))]


def test_the_exchanges_and_bindings_are_those_of_the_worker() -> None:
    """A topic exchange for events, a direct one for what is dead, each with its queue behind it."""
    kinds = {exchange["name"]: (exchange["type"], exchange["durable"]) for exchange in DEFINITIONS["exchanges"]}
    assert kinds == {DEFAULTS.exchange: ("topic", True), DEFAULTS.dead_exchange: ("direct", True)}
    assert [(one["source"], one["destination"], one["routing_key"]) for one in DEFINITIONS["bindings"]] == [
        (DEFAULTS.dead_exchange, DEFAULTS.dead_queue, DEFAULTS.queue),
        (DEFAULTS.exchange, DEFAULTS.queue, DEFAULTS.binding_key),
    ]


def test_the_permissions_fit_the_names() -> None:
    """Each pattern matches the whole names that it is for, and no other's."""
    rights = {one["user"]: one for one in DEFINITIONS["permissions"]}
    names = [*(queue["name"] for queue in DEFINITIONS["queues"]), DEFAULTS.exchange, DEFAULTS.dead_exchange, "", "x"]
    near = ["usage.events.x", "usagexevents", "my.usage", "usage2", "usage.events.dead.x"]

    def matched(user: str, right: str) -> set[str]:
        return {name for name in names + near if re.search(rights[user][right], name)}

    nothing = {"configure": {""}, "write": {""}, "read": {""}}  # the pattern of nothing is that of the empty name
    expected = {
        "usage_producer": nothing | {"write": {DEFAULTS.exchange}},
        # It reads from the queues alone; that the exchanges are there is told only to those with some right on them.
        "usage_worker": nothing
        | {"read": {DEFAULTS.queue, DEFAULTS.dead_queue, DEFAULTS.exchange, DEFAULTS.dead_exchange}},
        "usage_operator": nothing,
    }
    assert {user: {right: matched(user, right) for right in nothing} for user in rights} == expected


def test_no_user_has_a_password() -> None:
    """An empty hash fits no password: nobody gets in until one is set."""
    assert [user["password_hash"] for user in DEFINITIONS["users"]] == ["", "", ""]
    assert "password" not in {key for user in DEFINITIONS["users"] for key in user}
