"""Events packed into messages: as many as one may hold, never more. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from usage_events.contract import MESSAGE_BYTES_MAX, MESSAGE_EVENTS_MAX
from usage_events.errors import EventTooLargeError

_BRACKETS_BYTES = 2
_COMMA_BYTES = 1


@dataclass(frozen=True, slots=True)
class Message:
    """The body of one message, and how many events are in it."""

    body: bytes
    events_count: int


def pack(
    events: Sequence[bytes], *, events_max: int = MESSAGE_EVENTS_MAX, bytes_max: int = MESSAGE_BYTES_MAX
) -> list[Message]:
    """The fewest messages that hold `events` in their order; each event's bytes stay as they are.

    Raises:
        EventTooLargeError: an event alone is larger than a message.
    """
    for index, event in enumerate(events):
        if len(event) > bytes_max:
            raise EventTooLargeError(
                f"event {index} is {len(event):,} bytes long; the limit is {bytes_max:,}: shorten its request_metadata"
            )
    return [_message(group) for group in _groups(events, events_max, bytes_max)]


def _groups(events: Sequence[bytes], events_max: int, bytes_max: int) -> Iterator[Sequence[bytes]]:
    start = 0
    size_bytes = _BRACKETS_BYTES
    for index, event in enumerate(events):
        if index > start and (index - start == events_max or size_bytes + len(event) > bytes_max):
            yield events[start:index]
            start, size_bytes = index, _BRACKETS_BYTES
        size_bytes += len(event) + _COMMA_BYTES
    if start < len(events):
        yield events[start:]


def _message(group: Sequence[bytes]) -> Message:
    # An event that goes alone needs no brackets: so it may be as long as a message.
    body = group[0] if len(group) == 1 else b"[" + b",".join(group) + b"]"
    return Message(body, len(group))
