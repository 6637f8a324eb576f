"""An input: a message as its bytes stand on the wire, and how it is kept in a file to be played again."""

import base64
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from usage_events.rules import Window

from worker.delivery import Delivery
from worker.rabbitmq.properties import read_properties, text_of

SHORT_BYTES_MAX = 255
# The properties of AMQP's class basic that are set here, in the order in which they stand, each with its flag.
_SHORT_BEFORE = (("content_type", 15), ("content_encoding", 14))
_SHORT_BEHIND = (("message_id", 7), ("type", 5), ("user_id", 4), ("app_id", 3))


class Input(NamedTuple):
    """A message: its body, its properties as in a content header frame, its routing key."""

    body: bytes
    properties: bytes
    routing_key: bytes = b"usage.recorded"

    def delivery(self, tag: int) -> Delivery:
        """As the worker's frame reader hands it on."""
        properties = read_properties(self.properties)
        return Delivery(
            tag, 1, self.body, properties, properties.delivery_count, "usage", text_of(self.routing_key), "usage.events"
        )


class Setting(NamedTuple):
    """What a file of inputs is played in."""

    window: Window
    has_host_rules: bool = False


def properties_of(*, headers: bytes | None = None, timestamp: bytes | None = None, **short: bytes | None) -> bytes:
    """The properties as bytes; texts are cut to 255 bytes, headers and timestamp are taken as given."""
    flags = 0
    values: list[bytes] = []
    for name, bit in _SHORT_BEFORE:
        flags, values = _with_short(flags, values, bit, short.get(name))
    if headers is not None:
        flags |= 1 << 13
        values.append(struct.pack(">I", len(headers)) + headers)
    for name, bit in _SHORT_BEHIND:
        if name == "type" and timestamp is not None:
            flags |= 1 << 6
            values.append(timestamp)
        flags, values = _with_short(flags, values, bit, short.get(name))
    return struct.pack(">H", flags) + b"".join(values)


def write(path: Path, setting: Setting, inputs: Iterable[Input]) -> None:
    """One line for the setting, one for each input."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="ascii") as file:
        file.write(json.dumps({"window": setting.window, "has_host_rules": setting.has_host_rules}) + "\n")
        for one in inputs:
            fields = {name: base64.b64encode(value).decode() for name, value in one._asdict().items()}
            file.write(json.dumps(fields) + "\n")


def read(path: Path) -> tuple[Setting, list[Input]]:
    """What `write` has written."""
    first, *rest = path.read_text(encoding="ascii").splitlines()
    given: dict[str, Any] = json.loads(first)
    inputs = [Input(**{name: base64.b64decode(text) for name, text in json.loads(line).items()}) for line in rest]
    return Setting(Window(*given["window"]), given["has_host_rules"]), inputs


def _with_short(flags: int, values: list[bytes], bit: int, value: bytes | None) -> tuple[int, list[bytes]]:
    if value is None:
        return flags, values
    value = value[:SHORT_BYTES_MAX]
    return flags | 1 << bit, [*values, bytes([len(value)]) + value]
